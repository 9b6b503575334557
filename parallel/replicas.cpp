#include "parallel/replicas.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <set>

#include "core/base/hash.h"
#include "core/tensor/device.h"

namespace tessera {
namespace {

// A piece of a logical tensor, and what a rank has there.
struct Piece {
  std::string name;
  std::uint64_t key = 0, hash = 0;
};

class Pieces {
 public:
  void add(const std::string& state, const std::string& name, std::int64_t row, std::int64_t column,
           const Tensor& values) {
    if (!values.defined() || values.numel() == 0) return;
    const std::int64_t columns = values.rank() == 2 ? values.size(1) : 1;
    const std::string key =
        fmt::format("{} {} {} {} {} {}", state, name, row, column, values.size(0), columns);
    pieces.push_back({state == "weight" ? name : fmt::format("{} of {}", state, name), xxh3_64(bytes_of(key)),
                      hash_of(values)});
  }
  std::vector<Piece> pieces;

 private:
  // Of rows that follow each other.
  std::uint64_t hash_of(const Tensor& values) {
    const auto* data = static_cast<const std::byte*>(values.raw());
    if (values.device().kind() != DeviceKind::cpu) {
      copy_.resize(values.bytes());
      values.device().copy(copy_.data(), values.raw(), values.bytes());
      data = copy_.data();
    }
    return xxh3_64({data, values.bytes()});
  }
  std::vector<std::byte> copy_;
};

std::vector<Piece> pieces_of(const Engine& engine) {
  Pieces all;
  for (const Engine::Owned& part : engine.held()) {
    all.add("weight", part.name, part.row, part.column, part.weight);
    all.add("first moment", part.name, part.row, part.column, part.first_moment);
    all.add("second moment", part.name, part.row, part.column, part.second_moment);
  }
  if (engine.layout().zero != 1 && engine.layout().zero != 2) return all.pieces;
  for (const auto& chunk : engine.chunks())
    for (Parameter* parameter : chunk->parameters())
      for (const Segment& segment : parameter->segments())
        if (parameter->is_trained())
          all.add("published weight", segment.name, segment.first_row, segment.first_column,
                  parameter->view(ViewKind::compute).narrow(0, segment.begin, segment.rows));
  return all.pieces;
}

struct Copies {
  std::map<std::uint64_t, std::vector<int>> ranks;  // by hash
  bool differ() const { return ranks.size() > 1; }
  // Those that hold another than more than half do, or all.
  std::set<int> suspects() const {
    std::size_t count = 0;
    std::size_t most = 0;
    for (const auto& [hash, who] : ranks) {
      count += who.size();
      most = std::max(most, who.size());
    }
    std::set<int> result;
    for (const auto& [hash, who] : ranks)
      if (2 * most <= count || who.size() < most) result.insert(who.begin(), who.end());
    return result;
  }
};

std::string text_of(const std::set<int>& ranks) {
  std::string text;
  for (const int rank : ranks) text += fmt::format("{}{}", text.empty() ? "" : ", ", rank);
  return (ranks.size() == 1 ? "rank " : "ranks ") + text;
}

}  // namespace

std::string compare_replicas(const Engine& engine) {
  ProcessGroup& world = engine.mesh().world();
  if (world.size() == 1) return "";
  const std::vector<Piece> mine = pieces_of(engine);
  std::string message;
  for (const Piece& piece : mine)
    for (const std::uint64_t number : {piece.key, piece.hash})
      message.append(reinterpret_cast<const char*>(&number), sizeof number);
  const std::vector<std::string> all = world.all_gather_text(message);

  std::map<std::uint64_t, Copies> copies;  // by key
  for (std::size_t rank = 0; rank < all.size(); ++rank)
    for (std::size_t at = 0; at < all[rank].size(); at += 2 * sizeof(std::uint64_t)) {
      std::array<std::uint64_t, 2> entry{};
      std::memcpy(entry.data(), all[rank].data() + at, sizeof entry);
      copies[entry[0]].ranks[entry[1]].push_back(static_cast<int>(rank));
    }
  // In the order of the model on the first rank that holds any: all ranks tell the same.
  std::string first;
  std::set<int> suspects;
  for (const Piece& piece : mine)
    if (const Copies& of_piece = copies[piece.key]; of_piece.differ() && first.empty()) first = piece.name;
  std::size_t count = 0;
  for (const auto& [key, of_piece] : copies)
    if (of_piece.differ()) {
      ++count;
      suspects.merge(of_piece.suspects());
    }
  if (count == 0) return "";
  for (const std::string& name : world.all_gather_text(first))
    if (!name.empty()) {
      first = name;
      break;
    }
  return fmt::format("{} {} in {}{}", text_of(suspects),
                     suspects.size() == 1 ? "differs from the other copies" : "hold copies that differ",
                     first, count == 1 ? "" : fmt::format(" and {} more tensors", count - 1));
}

}  // namespace tessera
