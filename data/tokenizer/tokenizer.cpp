#include "data/tokenizer/tokenizer.h"

#include <utf8proc.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <nlohmann/json.hpp>

#include "core/base/error.h"
#include "core/base/hash.h"
#include "core/base/io.h"
#include "data/tokenizer/tokenizer_json.h"

namespace tessera {

namespace fs = std::filesystem;

namespace {

constexpr std::uint64_t largest_file = std::uint64_t{1} << 28;
constexpr std::size_t cache_entries = 1 << 16;
constexpr std::size_t cached_piece = 64;  // bytes; longer pieces seldom come back

struct Hash {
  using is_transparent = void;
  std::size_t operator()(std::string_view text) const { return std::hash<std::string_view>()(text); }
};
template <class Value>
using TextMap = std::unordered_map<std::string, Value, Hash, std::equal_to<>>;

// Ids of pieces met before by this thread, for one tokenizer at a time.
struct PieceCache {
  std::uint64_t owner = 0;
  TextMap<std::vector<std::uint32_t>> ids;
};

std::string to_nfc(std::string_view text) {
  if (std::all_of(text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) < 0x80; }))
    return std::string(text);
  utf8proc_uint8_t* mapped = nullptr;
  const utf8proc_ssize_t size = utf8proc_map(
      reinterpret_cast<const utf8proc_uint8_t*>(text.data()), static_cast<utf8proc_ssize_t>(text.size()),
      &mapped, static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
  if (size < 0) fail("text cannot be normalised: {}", utf8proc_errmsg(size));
  std::string result(reinterpret_cast<const char*>(mapped), static_cast<std::size_t>(size));
  std::free(mapped);
  return result;
}

std::optional<std::string> eos_named_beside(const fs::path& path) {
  const fs::path config = path.parent_path() / "tokenizer_config.json";
  if (!fs::exists(config)) return std::nullopt;
  const Json json = read_json(config, largest_file);
  const auto eos = json.find("eos_token");
  if (eos == json.end() || eos->is_null()) return std::nullopt;
  if (eos->is_string()) return eos->get<std::string>();
  if (eos->is_object() && eos->contains("content") && eos->at("content").is_string())
    return eos->at("content").get<std::string>();
  fail("{}: 'eos_token' is {}; it must be text", config.string(), eos->dump().substr(0, 80));
}

}  // namespace

struct Tokenizer::State {
  State(TokenizerParts given, const std::string& origin)
      : parts(std::move(given)), bpe(parts.byte_ids, parts.unknown, parts.merges) {
    static std::atomic<std::uint64_t> made{0};
    identity = ++made;
    for (const AddedToken& token : parts.added) {
      if (token.normalized)
        added_normalized.add(token, parts.nfc ? to_nfc(token.content) : token.content);
      else
        added_raw.add(token, token.content);
      added_ids.emplace(token.content, token.id);
    }
    added_raw.build(origin);
    added_normalized.build(origin);
    const auto note = [&](const std::string& token, std::uint32_t id) {
      if (id >= bytes.size()) bytes.resize(id + std::size_t{1});
      std::string decoded;
      bytes[id] = byte_level_bytes(token, decoded) ? decoded : token;
      known.resize(bytes.size());
      known[id] = true;
    };
    for (const auto& [token, id] : parts.vocabulary) {
      note(token, id);
      if (std::string decoded; parts.ignore_merges && byte_level_bytes(token, decoded))
        whole.emplace(decoded, id);
    }
    for (const AddedToken& token : parts.added) note(token.content, token.id);
  }

  TokenizerParts parts;
  Bpe bpe;
  AddedTokens added_raw, added_normalized;
  TextMap<std::uint32_t> added_ids;
  std::vector<std::string> bytes;  // by id
  std::vector<bool> known;         // by id
  TextMap<std::uint32_t> whole;    // tokens by their bytes, where ignore_merges asks for them
  std::uint64_t identity = 0;
  std::string json, hash;
  std::optional<std::uint32_t> end_of_text;

  void encode_piece(std::string_view piece, std::vector<std::uint32_t>& ids) const {
    thread_local PieceCache cache;
    if (cache.owner != identity || cache.ids.size() > cache_entries) {
      cache.owner = identity;
      cache.ids.clear();
    }
    if (const auto found = cache.ids.find(piece); found != cache.ids.end()) {
      ids.insert(ids.end(), found->second.begin(), found->second.end());
      return;
    }
    const std::size_t before = ids.size();
    const auto token = whole.find(piece);
    if (token != whole.end())
      ids.push_back(token->second);
    else
      bpe.encode(piece, ids);
    if (piece.size() <= cached_piece)
      cache.ids.emplace(
          piece, std::vector<std::uint32_t>(ids.begin() + static_cast<std::ptrdiff_t>(before), ids.end()));
  }

  // Text without added tokens.
  void encode_plain(std::string_view text, std::vector<std::uint32_t>& ids) const {
    for (const std::string_view piece : parts.pre_tokenizer.pieces(text)) encode_piece(piece, ids);
  }
};

Tokenizer::Tokenizer(std::unique_ptr<const State> state) : state_(std::move(state)) {}
Tokenizer::~Tokenizer() = default;
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;

Tokenizer Tokenizer::from_json_text(const std::string& text, const std::string& origin) {
  auto state = std::make_unique<State>(read_tokenizer_parts(parse_json(text, origin), origin), origin);
  state->json = text;
  state->hash = sha256_hex(bytes_of(text));
  return Tokenizer(std::move(state));
}

Tokenizer Tokenizer::load(const fs::path& path) {
  Tokenizer tokenizer = from_json_text(io::read_text(path, largest_file), path.string());
  if (const auto eos = eos_named_beside(path)) {
    const auto id = tokenizer.token_id(*eos);
    if (!id)
      fail("'{}' names end-of-text token '{}', which '{}' lacks",
           (path.parent_path() / "tokenizer_config.json").string(), *eos, path.string());
    const_cast<State&>(*tokenizer.state_).end_of_text = id;
  }
  return tokenizer;
}

std::vector<std::uint32_t> Tokenizer::encode(std::string_view text, bool parse_special) const {
  const State& s = *state_;
  std::vector<std::uint32_t> ids;
  ids.reserve(text.size() / 3);
  const auto token = [&](const AddedToken& added) { ids.push_back(added.id); };
  s.added_raw.split(
      text, parse_special,
      [&](std::size_t begin, std::size_t end) {
        const std::string_view part = text.substr(begin, end - begin);
        const std::string normal = s.parts.nfc ? to_nfc(part) : std::string();
        const std::string_view whole = s.parts.nfc ? std::string_view(normal) : part;
        s.added_normalized.split(
            whole, parse_special,
            [&](std::size_t from, std::size_t to) { s.encode_plain(whole.substr(from, to - from), ids); },
            token);
      },
      token);
  return ids;
}

std::string Tokenizer::decode(std::span<const std::uint32_t> ids) const {
  std::string text;
  for (const std::uint32_t id : ids) {
    if (id >= state_->bytes.size() || !state_->known[id]) fail("id {} is not in the vocabulary", id);
    text += state_->bytes[id];
  }
  return text;
}

std::int64_t Tokenizer::vocab_size() const {
  return static_cast<std::int64_t>(state_->bytes.size());
}

std::optional<std::uint32_t> Tokenizer::token_id(std::string_view token) const {
  if (const auto added = state_->added_ids.find(token); added != state_->added_ids.end())
    return added->second;
  const auto found = state_->parts.vocabulary.find(std::string(token));
  return found == state_->parts.vocabulary.end() ? std::nullopt : std::optional(found->second);
}

std::optional<std::uint32_t> Tokenizer::end_of_text() const {
  return state_->end_of_text;
}
const std::string& Tokenizer::json_text() const {
  return state_->json;
}
const std::string& Tokenizer::sha256() const {
  return state_->hash;
}

}  // namespace tessera
