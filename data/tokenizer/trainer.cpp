#include "data/tokenizer/trainer.h"

#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>
#include <queue>
#include <unordered_set>

#include "core/base/error.h"
#include "core/base/json.h"
#include "data/tokenizer/bpe.h"
#include "data/tokenizer/pretokenizer.h"

namespace tessera {

struct PieceCounter::State {
  Split split{llama3_pattern, "the Llama 3 pattern"};
  std::vector<std::string_view> pieces;
};

PieceCounter::PieceCounter() : state_(std::make_unique<State>()) {}
PieceCounter::~PieceCounter() = default;

void PieceCounter::add(std::string_view text) {
  state_->pieces.clear();
  state_->split.apply(text, state_->pieces);
  for (const std::string_view piece : state_->pieces) ++counts_[std::string(piece)];
}

void PieceCounter::merge(const PieceCounter& other) {
  for (const auto& [piece, count] : other.counts_) counts_[piece] += count;
}

namespace {

using Pair = std::pair<std::uint32_t, std::uint32_t>;
struct PairHash {
  std::size_t operator()(const Pair& p) const {
    return std::hash<std::uint64_t>()(static_cast<std::uint64_t>(p.first) << 32 | p.second);
  }
};

struct Word {
  std::vector<std::uint32_t> ids;
  std::int64_t count;
};

// The pairs of all words with their counts, kept up to date as pairs become tokens.
class Pairs {
 public:
  explicit Pairs(std::vector<Word> words) : words_(std::move(words)) {
    for (std::size_t w = 0; w < words_.size(); ++w) count(w, 1);
    for (const auto& [pair, entry] : pairs_) offer(pair, entry.count);
    changed_.clear();
  }

  // The best pair, or count 0 if none is left.
  std::pair<Pair, std::int64_t> best() {
    while (!queue_.empty()) {
      const Offer top = queue_.top();
      queue_.pop();
      const auto found = pairs_.find(top.pair);
      if (found != pairs_.end() && found->second.count == top.count) return {top.pair, top.count};
    }
    return {{0, 0}, 0};
  }

  void join(const Pair& pair, std::uint32_t id) {
    const auto where = std::move(pairs_[pair].words);
    for (const std::size_t w : where) {
      std::vector<std::uint32_t>& ids = words_[w].ids;
      count(w, -1);
      std::size_t out = 0;
      for (std::size_t i = 0; i < ids.size(); ++out)
        if (i + 1 < ids.size() && ids[i] == pair.first && ids[i + 1] == pair.second) {
          ids[out] = id;
          i += 2;
        } else {
          ids[out] = ids[i++];
        }
      ids.resize(out);
      count(w, 1);
    }
    pairs_.erase(pair);
    for (const Pair& touched : changed_)
      if (const auto found = pairs_.find(touched); found != pairs_.end() && found->second.count > 0)
        offer(touched, found->second.count);
    changed_.clear();
  }

 private:
  struct Entry {
    std::int64_t count = 0;
    std::unordered_set<std::size_t> words;  // those that hold the pair, and perhaps some that did
  };
  struct Offer {
    std::int64_t count;
    Pair pair;
    bool operator<(const Offer& other) const {
      return count != other.count ? count < other.count : pair > other.pair;
    }
  };
  void offer(const Pair& pair, std::int64_t n) { queue_.push({n, pair}); }
  void count(std::size_t w, std::int64_t sign) {
    const Word& word = words_[w];
    for (std::size_t i = 0; i + 1 < word.ids.size(); ++i) {
      const Pair pair{word.ids[i], word.ids[i + 1]};
      Entry& entry = pairs_[pair];
      entry.count += sign * word.count;
      if (sign > 0) entry.words.insert(w);
      changed_.insert(pair);
    }
  }

  std::vector<Word> words_;
  std::unordered_map<Pair, Entry, PairHash> pairs_;
  std::priority_queue<Offer> queue_;
  std::unordered_set<Pair, PairHash> changed_;
};

// Ids of single bytes follow the byte-level alphabet's order, as other trainers have it.
std::vector<std::string> byte_tokens() {
  std::vector<std::string> tokens;
  for (unsigned byte = 0; byte < 256; ++byte) {
    const char c = static_cast<char>(byte);
    tokens.push_back(byte_level_text({&c, 1}));
  }
  std::sort(tokens.begin(), tokens.end());
  return tokens;
}

Json vocabulary_of(const std::vector<std::string>& tokens) {
  Json vocabulary = Json::object();
  auto& entries = vocabulary.get_ref<Json::object_t&>();
  for (std::size_t id = 0; id < tokens.size(); ++id) entries.Container::emplace_back(tokens[id], id);
  return vocabulary;
}

std::string file_text(const Json& vocabulary, const Json& merges,
                      const std::vector<std::string>& special_tokens) {
  Json added = Json::array();
  for (std::size_t i = 0; i < special_tokens.size(); ++i)
    added.push_back({{"id", vocabulary.size() + i},
                     {"content", special_tokens[i]},
                     {"single_word", false},
                     {"lstrip", false},
                     {"rstrip", false},
                     {"normalized", false},
                     {"special", true}});
  const Json split = {{"type", "Split"},
                      {"pattern", {{"Regex", llama3_pattern}}},
                      {"behavior", "Isolated"},
                      {"invert", false}};
  const Json byte_level = {
      {"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", false}};
  const Json decoder = {
      {"type", "ByteLevel"}, {"add_prefix_space", true}, {"trim_offsets", true}, {"use_regex", true}};
  const Json model = {{"type", "BPE"},
                      {"dropout", nullptr},
                      {"unk_token", nullptr},
                      {"continuing_subword_prefix", nullptr},
                      {"end_of_word_suffix", nullptr},
                      {"fuse_unk", false},
                      {"byte_fallback", false},
                      {"ignore_merges", false},
                      {"vocab", vocabulary},
                      {"merges", merges}};
  const Json file = {
      {"version", "1.0"},
      {"truncation", nullptr},
      {"padding", nullptr},
      {"added_tokens", added},
      {"normalizer", nullptr},
      {"pre_tokenizer", {{"type", "Sequence"}, {"pretokenizers", Json::array({split, byte_level})}}},
      {"post_processor", nullptr},
      {"decoder", decoder},
      {"model", model}};
  return file.dump(1) + "\n";
}

}  // namespace

std::string train_bpe(const PieceCounter& counter, std::int64_t vocab_size,
                      const std::vector<std::string>& special_tokens,
                      const std::function<void(std::int64_t)>& progress) {
  std::vector<std::string> tokens = byte_tokens();
  const auto wanted = vocab_size - static_cast<std::int64_t>(special_tokens.size());
  if (wanted < 256)
    fail_usage("--vocab-size {} is below 256 bytes and {} special tokens", vocab_size, special_tokens.size());
  std::unordered_map<std::string, std::uint32_t> id_of;
  for (std::size_t id = 0; id < tokens.size(); ++id) id_of[tokens[id]] = static_cast<std::uint32_t>(id);
  std::vector<Word> words;
  for (const auto& [piece, count] : counter.counts()) {
    Word word{{}, count};
    for (const char byte : piece) word.ids.push_back(id_of.at(byte_level_text({&byte, 1})));
    if (word.ids.size() > 1) words.push_back(std::move(word));
  }
  Pairs pairs(std::move(words));
  Json merges = Json::array();
  while (static_cast<std::int64_t>(tokens.size()) < wanted) {
    const auto [pair, count] = pairs.best();
    if (count == 0)
      fail("the text has pairs for {} tokens only; ask for --vocab-size {} or give more text", tokens.size(),
           tokens.size() + special_tokens.size());
    const auto id = static_cast<std::uint32_t>(tokens.size());
    std::string joined = tokens[pair.first] + tokens[pair.second];
    merges.push_back(Json::array({tokens[pair.first], tokens[pair.second]}));
    // Two pairs may spell one token; the first keeps its id, and the later pair merges into it.
    if (const auto [known, fresh] = id_of.try_emplace(joined, id); fresh) {
      tokens.push_back(std::move(joined));
      pairs.join(pair, id);
    } else {
      pairs.join(pair, known->second);
    }
    if (progress) progress(1);
  }
  return file_text(vocabulary_of(tokens), merges, special_tokens);
}

std::string trained_tokenizer_config(const std::vector<std::string>& special_tokens) {
  Json config{{"tokenizer_class", "PreTrainedTokenizerFast"}, {"clean_up_tokenization_spaces", false}};
  if (!special_tokens.empty()) config["eos_token"] = special_tokens[0];
  return config.dump(2) + "\n";
}

bool is_trained_tokenizer(std::string_view text) {
  const Json file = parse_json(text, "tokenizer.json");
  if (!file.is_object() || !file.contains("model") || !file.contains("added_tokens")) return false;
  const Json& model = file["model"];
  if (!model.is_object() || !model.contains("vocab") || !model.contains("merges")) return false;
  std::vector<std::string> special_tokens;
  for (const Json& token : file["added_tokens"]) {
    if (!token.is_object() || !token.contains("content") || !token["content"].is_string()) return false;
    special_tokens.push_back(token["content"].get<std::string>());
  }
  return file_text(model["vocab"], model["merges"], special_tokens) == text;
}

bool is_trained_tokenizer_config(std::string_view text) {
  const Json config = parse_json(text, "tokenizer_config.json");
  std::vector<std::string> special_tokens;
  if (config.is_object() && config.contains("eos_token") && config["eos_token"].is_string())
    special_tokens.push_back(config["eos_token"].get<std::string>());
  return trained_tokenizer_config(special_tokens) == text;
}

}  // namespace tessera
