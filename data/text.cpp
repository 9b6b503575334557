#include "data/text.h"

#include <cstring>

namespace tessera {
namespace {

struct Sequence {
  std::size_t length;  // bytes that belong together: a character, or the maximal part of a broken one
  bool valid;
};

bool continues(std::string_view text, std::size_t at, unsigned low = 0x80, unsigned high = 0xbf) {
  if (at >= text.size()) return false;
  const auto byte = static_cast<unsigned char>(text[at]);
  return byte >= low && byte <= high;
}

// Table 3-7 of the Unicode Standard.
Sequence sequence_at(std::string_view text, std::size_t at) {
  const auto lead = static_cast<unsigned char>(text[at]);
  if (lead < 0x80) return {1, true};
  if (lead < 0xc2 || lead > 0xf4) return {1, false};
  const std::size_t length = lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
  const unsigned low = lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80;
  const unsigned high = lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf;
  if (!continues(text, at + 1, low, high)) return {1, false};
  for (std::size_t i = 2; i < length; ++i)
    if (!continues(text, at + i)) return {i, false};
  return {length, true};
}

// Where the run of ASCII that starts at `at` ends, eight bytes at a time.
std::size_t skip_ascii(std::string_view text, std::size_t at) {
  for (std::uint64_t word = 0; at + 8 <= text.size(); at += 8) {
    std::memcpy(&word, text.data() + at, 8);
    if ((word & 0x8080808080808080ULL) != 0) break;
  }
  while (at < text.size() && static_cast<unsigned char>(text[at]) < 0x80) ++at;
  return at;
}

}  // namespace

std::optional<std::size_t> first_invalid_utf8(std::string_view text, std::size_t from) {
  for (std::size_t at = skip_ascii(text, from); at < text.size(); at = skip_ascii(text, at)) {
    const Sequence sequence = sequence_at(text, at);
    if (!sequence.valid) return at;
    at += sequence.length;
  }
  return std::nullopt;
}

Utf8Repair repair_utf8(std::string& text) {
  const auto first = first_invalid_utf8(text);
  if (!first) return {};
  Utf8Repair repair{0, *first};
  std::string fixed = text.substr(0, *first);
  for (std::size_t at = *first; at < text.size();) {
    const Sequence sequence = sequence_at(text, at);
    if (sequence.valid) {
      fixed.append(text, at, sequence.length);
    } else {
      fixed += "\xef\xbf\xbd";
      ++repair.count;
    }
    at += sequence.length;
  }
  text = std::move(fixed);
  return repair;
}

}  // namespace tessera
