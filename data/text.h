// UTF-8 as it is met in the wild. Pure functions; any thread.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace tessera {

// Offset of the first byte that does not belong to well-formed UTF-8 (no overlong forms, no surrogates, at
// most U+10FFFF).
std::optional<std::size_t> first_invalid_utf8(std::string_view text, std::size_t from = 0);

struct Utf8Repair {
  std::uint64_t count = 0;  // sequences replaced
  std::size_t first = 0;    // offset of the first, in the text as it was
};
// Replaces each maximal ill-formed part by U+FFFD, as the Unicode Standard recommends (section 3.9).
Utf8Repair repair_utf8(std::string& text);

}  // namespace tessera
