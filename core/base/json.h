// Strict JSON, over nlohmann::json. Any thread.
//
// Headers of ours include this one, which only forward-declares the library's type; a source file that
// touches values includes <nlohmann/json.hpp> itself.
#pragma once

#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <string_view>

namespace tessera {

using Json = nlohmann::ordered_json;

// Parses `text`; `origin` (a path) begins every message. Refuses what the library would let pass: duplicate
// keys, more than 128 levels, bad UTF-8, a NUL, anything after the value. Infinity and NaN, which are not
// JSON, are refused. Messages give line and column.
Json parse_json(std::string_view text, std::string_view origin);

// read_text + parse_json.
Json read_json(const std::filesystem::path& path, std::uint64_t limit = std::uint64_t{1} << 30);

}  // namespace tessera
