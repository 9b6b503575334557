// The header of a safetensors file: parsing with every check, and writing. Any thread.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "checkpoint/safetensors.h"

namespace tessera {

constexpr std::uint64_t largest_safetensors_header = 100'000'000;

struct SafetensorsHeader {
  std::vector<SafetensorsTensor> tensors;  // in order of their bytes
  std::map<std::string, std::string> metadata;
};

// `json` is the header's text, `buffer_bytes` what follows it in the file; `origin` begins every message.
SafetensorsHeader parse_safetensors_header(std::string_view json, std::uint64_t buffer_bytes,
                                           const std::string& origin);

// Sorts the tensors, sets their ranges and returns the length field, the header and its padding.
// `writer` goes into the metadata as "written_by", unless empty.
std::string make_safetensors_header(std::vector<SafetensorsTensor>& tensors, const std::string& origin,
                                    const std::string& writer = "");

}  // namespace tessera
