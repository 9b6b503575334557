#include "core/base/error.h"

#include <algorithm>
#include <system_error>
#include <vector>

namespace tessera {
namespace {

constexpr std::size_t longest_word = 512;  // bytes, of which a longer one shows its beginning and end
constexpr std::size_t shown_before = 120, shown_after = 40;

bool continues_character(char c) {
  return (static_cast<unsigned char>(c) & 0xC0U) == 0x80U;
}

void append_abridged(std::string& line, std::string_view word) {
  if (word.size() <= longest_word) {
    line += word;
    return;
  }
  std::size_t head = shown_before, tail = word.size() - shown_after;
  while (head > 0 && continues_character(word[head])) --head;
  while (tail < word.size() && continues_character(word[tail])) ++tail;
  line += fmt::format("{}…({} bytes)…{}", word.substr(0, head), word.size(), word.substr(tail));
}

// Nobody reads a number of a million digits, and it would hide what is said of it.
std::string abridge_words(std::string_view text) {
  std::string line;
  while (!text.empty()) {
    const std::size_t end = std::min(text.find(' '), text.size());
    append_abridged(line, text.substr(0, end));
    if (end < text.size()) line += ' ';
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return line;
}

}  // namespace

std::string one_line(std::string_view text) {
  std::string line;
  line.reserve(text.size());
  for (const char c : text) {
    if (c == '\n')
      line += "\\n";
    else if (c == '\t')
      line += "\\t";
    else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f)
      line += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
    else
      line += c;
  }
  return abridge_words(line);
}

std::string errno_text(int error_number) {
  return std::generic_category().message(error_number);
}

std::size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> row(b.size() + 1);
  for (std::size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (std::size_t i = 1; i <= a.size(); ++i) {
    std::size_t diagonal = row[0];
    row[0] = i;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t above = row[j];
      row[j] = std::min({above + 1, row[j - 1] + 1, diagonal + (a[i - 1] == b[j - 1] ? 0 : 1)});
      diagonal = above;
    }
  }
  return row[b.size()];
}

}  // namespace tessera
