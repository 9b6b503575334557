// Byte-pair encoding over ids: merges of adjacent pairs by rank. Immutable after construction; any thread.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace tessera {

// The alphabet in which byte-level tokenizers write bytes: printable Latin-1 stands for itself, the other 68
// bytes are U+0100 onwards.
std::string byte_level_text(std::string_view bytes);
// The inverse; false if a character is not of the alphabet.
bool byte_level_bytes(std::string_view text, std::string& bytes);

class Bpe {
 public:
  struct Merge {
    std::uint32_t left, right, result;
  };
  // What a byte becomes for which the vocabulary has no token: nothing, so that its neighbours meet, or the
  // unknown token, one for each byte or one for each run of them.
  struct Unknown {
    std::optional<std::uint32_t> id;
    bool fused = false;
  };
  static constexpr std::uint32_t no_id = 0xffffffffU;
  // Merges in order of rank. `byte_ids`: the id of each single byte, or no_id.
  Bpe(const std::array<std::uint32_t, 256>& byte_ids, const Unknown& unknown,
      const std::vector<Merge>& merges);

  // Appends the ids of one piece: repeatedly joins the adjacent pair of the lowest rank, leftmost first.
  void encode(std::string_view piece, std::vector<std::uint32_t>& ids) const;

 private:
  struct Target {
    std::uint32_t rank, result;
  };
  const Target* find(std::uint32_t left, std::uint32_t right) const;
  // Writes the ids of the piece's bytes to `part`, which has room for all, and returns how many there are.
  std::size_t start(std::string_view piece, std::uint32_t* part) const;
  void encode_long(std::string_view piece, std::vector<std::uint32_t>& ids) const;

  std::array<std::uint32_t, 256> byte_ids_;
  Unknown unknown_;
  std::unordered_map<std::uint64_t, Target> targets_;
};

}  // namespace tessera
