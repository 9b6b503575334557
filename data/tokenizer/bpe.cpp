#include "data/tokenizer/bpe.h"

#include <queue>

namespace tessera {
namespace {

bool stands_for_itself(unsigned byte) {
  return (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
}

struct Alphabet {
  std::array<std::string, 256> text;
  std::unordered_map<std::string, char> bytes;
  Alphabet() {
    unsigned next = 0x100;
    for (unsigned byte = 0; byte < 256; ++byte) {
      const unsigned point = stands_for_itself(byte) ? byte : next++;
      if (point < 0x80)
        text[byte] = std::string(1, static_cast<char>(point));
      else
        text[byte] = {static_cast<char>(0xc0 | point >> 6), static_cast<char>(0x80 | (point & 0x3f))};
      bytes[text[byte]] = static_cast<char>(byte);
    }
  }
};

const Alphabet& alphabet() {
  static const Alphabet instance;
  return instance;
}

// Pieces up to this length merge by scanning; longer ones with a queue.
constexpr std::size_t short_piece = 48;

}  // namespace

std::string byte_level_text(std::string_view bytes) {
  std::string text;
  for (const char byte : bytes) text += alphabet().text[static_cast<unsigned char>(byte)];
  return text;
}

bool byte_level_bytes(std::string_view text, std::string& bytes) {
  bytes.clear();
  for (std::size_t i = 0; i < text.size();) {
    const std::size_t length = static_cast<unsigned char>(text[i]) < 0x80 ? 1 : 2;
    const auto found = alphabet().bytes.find(std::string(text.substr(i, length)));
    if (found == alphabet().bytes.end()) return false;
    bytes += found->second;
    i += length;
  }
  return true;
}

Bpe::Bpe(const std::array<std::uint32_t, 256>& byte_ids, const Unknown& unknown,
         const std::vector<Merge>& merges)
    : byte_ids_(byte_ids), unknown_(unknown) {
  targets_.reserve(merges.size() * 2);
  for (std::size_t rank = 0; rank < merges.size(); ++rank) {
    const Merge& merge = merges[rank];
    targets_[static_cast<std::uint64_t>(merge.left) << 32 | merge.right] = {static_cast<std::uint32_t>(rank),
                                                                            merge.result};
  }
}

const Bpe::Target* Bpe::find(std::uint32_t left, std::uint32_t right) const {
  const auto found = targets_.find(static_cast<std::uint64_t>(left) << 32 | right);
  return found == targets_.end() ? nullptr : &found->second;
}

std::size_t Bpe::start(std::string_view piece, std::uint32_t* part) const {
  std::size_t n = 0;
  bool after_unknown = false;
  for (const char byte : piece) {
    const std::uint32_t id = byte_ids_[static_cast<unsigned char>(byte)];
    if (id != no_id)
      part[n++] = id;
    else if (unknown_.id && !(unknown_.fused && after_unknown))
      part[n++] = *unknown_.id;
    after_unknown = id == no_id;
  }
  return n;
}

void Bpe::encode(std::string_view piece, std::vector<std::uint32_t>& ids) const {
  if (piece.size() > short_piece) {
    encode_long(piece, ids);
    return;
  }
  std::uint32_t part[short_piece];
  const Target* pair[short_piece] = {};  // pair[i] joins part[i] and part[i + 1]
  std::size_t n = start(piece, part);
  for (std::size_t i = 0; i + 1 < n; ++i) pair[i] = find(part[i], part[i + 1]);
  while (n > 1) {
    std::size_t best = n;
    for (std::size_t i = 0; i + 1 < n; ++i)
      if (pair[i] != nullptr && (best == n || pair[i]->rank < pair[best]->rank)) best = i;
    if (best == n) break;
    part[best] = pair[best]->result;
    for (std::size_t i = best + 1; i + 1 < n; ++i) {
      part[i] = part[i + 1];
      pair[i] = i + 2 < n ? pair[i + 1] : nullptr;
    }
    --n;
    pair[best] = best + 1 < n ? find(part[best], part[best + 1]) : nullptr;
    if (best > 0) pair[best - 1] = find(part[best - 1], part[best]);
  }
  ids.insert(ids.end(), part, part + n);
}

// The same with a linked list and a queue of candidate joins: n log n for pieces of any length.
void Bpe::encode_long(std::string_view piece, std::vector<std::uint32_t>& ids) const {
  struct Part {
    std::uint32_t id;
    std::int64_t previous, next;
  };
  struct Join {
    std::uint32_t rank;
    std::int64_t at;
    std::uint32_t left, right, result;
    bool operator>(const Join& other) const { return rank != other.rank ? rank > other.rank : at > other.at; }
  };
  std::vector<std::uint32_t> first(piece.size());
  const auto n = static_cast<std::int64_t>(start(piece, first.data()));
  std::vector<Part> parts;
  parts.reserve(static_cast<std::size_t>(n));
  for (std::int64_t i = 0; i < n; ++i)
    parts.push_back({first[static_cast<std::size_t>(i)], i - 1, i + 1 < n ? i + 1 : -1});
  std::priority_queue<Join, std::vector<Join>, std::greater<>> queue;
  const auto offer = [&](std::int64_t at) {
    if (at < 0 || parts[static_cast<std::size_t>(at)].next < 0) return;
    const Part& left = parts[static_cast<std::size_t>(at)];
    const Part& right = parts[static_cast<std::size_t>(left.next)];
    if (const Target* target = find(left.id, right.id))
      queue.push({target->rank, at, left.id, right.id, target->result});
  };
  for (std::int64_t i = 0; i + 1 < n; ++i) offer(i);
  while (!queue.empty()) {
    const Join join = queue.top();
    queue.pop();
    Part& left = parts[static_cast<std::size_t>(join.at)];
    if (left.id != join.left || left.next < 0 || parts[static_cast<std::size_t>(left.next)].id != join.right)
      continue;
    Part& right = parts[static_cast<std::size_t>(left.next)];
    left.id = join.result;
    right.id = no_id;
    left.next = right.next;
    if (left.next >= 0) parts[static_cast<std::size_t>(left.next)].previous = join.at;
    offer(join.at);
    offer(left.previous);
  }
  for (std::int64_t i = n > 0 ? 0 : -1; i >= 0; i = parts[static_cast<std::size_t>(i)].next)
    ids.push_back(parts[static_cast<std::size_t>(i)].id);
}

}  // namespace tessera
