// Typed reads of a checkpoint's meta, which anybody may have written. Pure; any thread.
#pragma once

#include <cstdint>
#include <string>

#include "core/base/json.h"

namespace tessera {

// Members of an object. Each throws Error beginning with `origin` where the member is absent or of another
// kind.
const Json& meta_member(const Json& object, const std::string& key, const std::string& origin);
// A whole number from `low` to `high`; nothing that is written here exceeds 2^53.
std::int64_t meta_number(const Json& object, const std::string& key, const std::string& origin,
                         std::int64_t low = 0, std::int64_t high = std::int64_t{1} << 53);
std::string meta_text(const Json& object, const std::string& key, const std::string& origin);

}  // namespace tessera
