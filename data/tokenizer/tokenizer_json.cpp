#include "data/tokenizer/tokenizer_json.h"

#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "core/base/error.h"

namespace tessera {
namespace {

// Tables are indexed by id, so one absurd id would cost its size in memory; real vocabularies end below 2^20.
constexpr std::int64_t largest_id = (std::int64_t{1} << 22) - 1;

class Reader {
 public:
  explicit Reader(std::string origin) : origin_(std::move(origin)) {}

  [[noreturn]] void refuse(const std::string& what) const { fail("{}: {}", origin_, what); }

  const Json& member(const Json& object, const char* key, const char* where) const {
    if (!object.is_object())
      refuse(fmt::format("{} is {}; it must be an object", where, object.dump().substr(0, 80)));
    const auto found = object.find(key);
    if (found == object.end()) refuse(fmt::format("{} lacks '{}'", where, key));
    return *found;
  }
  std::string text(const Json& object, const char* key, const char* where) const {
    const Json& value = member(object, key, where);
    if (!value.is_string())
      refuse(fmt::format("'{}' of {} is {}; it must be text", key, where, value.dump().substr(0, 80)));
    return value.get<std::string>();
  }
  bool flag(const Json& object, const char* key, bool absent, const char* where) const {
    const auto found = object.find(key);
    if (found == object.end() || found->is_null()) return absent;
    if (!found->is_boolean())
      refuse(
          fmt::format("'{}' of {} is {}; it must be true or false", key, where, found->dump().substr(0, 80)));
    return found->get<bool>();
  }
  // A member that must be absent, null, false, 0 or "": what stands for a feature that is not used.
  void unused(const Json& object, const char* key, const char* where) const {
    const auto found = object.find(key);
    // NOLINTNEXTLINE(readability-container-size-empty): empty() of JSON also holds for [] and {}
    if (found == object.end() || found->is_null() || *found == false || *found == 0 || *found == "") return;
    refuse(fmt::format("{} uses '{}' ({}), which this version does not know", where, key,
                       found->dump().substr(0, 80)));
  }
  void only(const Json& object, std::initializer_list<const char*> keys, const char* where) const {
    if (!object.is_object())
      refuse(fmt::format("{} is {}; it must be an object", where, object.dump().substr(0, 80)));
    const std::set<std::string> known(keys.begin(), keys.end());
    for (const auto& [key, value] : object.items())
      if (!known.contains(key))
        refuse(fmt::format("{} has '{}', which this version does not know", where, key));
  }
  std::uint32_t id(const Json& value, const std::string& token) const {
    if (!value.is_number_integer() || value.get<double>() < 0 ||
        value.get<double>() > static_cast<double>(largest_id))
      refuse(fmt::format("token '{}' has id {}; ids are integers from 0 to {}", token,
                         value.dump().substr(0, 40), largest_id));
    return value.get<std::uint32_t>();
  }

  void model(const Json& model, TokenizerParts& parts) const;
  void merges(const Json& list, TokenizerParts& parts) const;
  void normalizer(const Json& part, TokenizerParts& parts) const;
  void pre_tokenizer(const Json& part, TokenizerParts& parts, bool& byte_level) const;
  void decoder(const Json& part) const;
  void post_processor(const Json& part) const;
  void added_tokens(const Json& list, TokenizerParts& parts) const;

 private:
  std::string origin_;
};

void Reader::model(const Json& model, TokenizerParts& parts) const {
  if (const std::string type = text(model, "type", "the model"); type != "BPE")
    refuse(fmt::format("model type '{}' is not known; there is: BPE", type));
  only(model,
       {"type", "dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk",
        "byte_fallback", "ignore_merges", "vocab", "merges"},
       "the model");
  for (const char* key :
       {"dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback"})
    unused(model, key, "the model");
  parts.ignore_merges = flag(model, "ignore_merges", false, "the model");
  const Json& vocabulary = member(model, "vocab", "the model");
  if (!vocabulary.is_object()) refuse("the model's vocab is not an object");
  std::set<std::uint32_t> ids;
  parts.vocabulary.reserve(vocabulary.size());
  for (const auto& [token, value] : vocabulary.items()) {
    const std::uint32_t number = id(value, token);
    if (!ids.insert(number).second) refuse(fmt::format("two tokens have id {}, one is '{}'", number, token));
    parts.vocabulary[token] = number;
  }
  for (unsigned byte = 0; byte < 256; ++byte) {
    const char c = static_cast<char>(byte);
    const auto found = parts.vocabulary.find(byte_level_text({&c, 1}));
    if (found == parts.vocabulary.end())
      refuse(fmt::format("the vocabulary lacks a token for byte {}: not a byte-level tokenizer", byte));
    parts.byte_ids[byte] = found->second;
  }
  merges(member(model, "merges", "the model"), parts);
}

void Reader::merges(const Json& list, TokenizerParts& parts) const {
  if (!list.is_array()) refuse("the model's merges are no list");
  std::set<std::pair<std::uint32_t, std::uint32_t>> seen;
  parts.merges.reserve(list.size());
  for (std::size_t rank = 0; rank < list.size(); ++rank) {
    const Json& merge = list[rank];
    std::string left;
    std::string right;
    if (merge.is_string()) {
      const auto whole = merge.get<std::string>();
      const std::size_t space = whole.find(' ');
      if (space == std::string::npos)
        refuse(fmt::format("merge {} is '{}'; it must be two tokens", rank, whole.substr(0, 80)));
      left = whole.substr(0, space);
      right = whole.substr(space + 1);
    } else if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
      left = merge[0].get<std::string>();
      right = merge[1].get<std::string>();
    } else {
      refuse(fmt::format("merge {} is {}; it must be two tokens", rank, merge.dump().substr(0, 80)));
    }
    const auto find = [&](const std::string& token) {
      const auto found = parts.vocabulary.find(token);
      if (found == parts.vocabulary.end())
        refuse(fmt::format("merge {} uses '{}', which is not in the vocabulary", rank, token));
      return found->second;
    };
    const Bpe::Merge made{find(left), find(right), find(left + right)};
    if (!seen.insert({made.left, made.right}).second)
      refuse(fmt::format("merge {} of '{}' and '{}' stands there twice", rank, left, right));
    parts.merges.push_back(made);
  }
}

void Reader::normalizer(const Json& part, TokenizerParts& parts) const {
  if (part.is_null()) return;
  const std::string type = text(part, "type", "the normalizer");
  if (type == "NFC") {
    parts.nfc = true;
  } else if (type == "Sequence") {
    for (const Json& inner : member(part, "normalizers", "the normalizer")) normalizer(inner, parts);
  } else {
    refuse(fmt::format("normalizer '{}' is not known; there are: NFC, Sequence", type));
  }
}

void Reader::pre_tokenizer(const Json& part, TokenizerParts& parts, bool& byte_level) const {
  if (part.is_null()) return;
  const std::string type = text(part, "type", "the pre-tokenizer");
  if (byte_level) refuse("a pre-tokenizer follows ByteLevel, which must be the last");
  if (type == "Sequence") {
    for (const Json& inner : member(part, "pretokenizers", "the pre-tokenizer"))
      pre_tokenizer(inner, parts, byte_level);
  } else if (type == "ByteLevel") {
    unused(part, "add_prefix_space", "the pre-tokenizer ByteLevel");
    if (flag(part, "use_regex", true, "the pre-tokenizer ByteLevel"))
      parts.splits.emplace_back(gpt2_pattern, origin_);
    byte_level = true;
  } else if (type == "Split") {
    only(part, {"type", "pattern", "behavior", "invert"}, "the pre-tokenizer Split");
    if (const std::string behavior = text(part, "behavior", "the pre-tokenizer Split");
        behavior != "Isolated")
      refuse(fmt::format("the pre-tokenizer Split has behavior '{}'; there is: Isolated", behavior));
    unused(part, "invert", "the pre-tokenizer Split");
    parts.splits.emplace_back(
        text(member(part, "pattern", "the pre-tokenizer Split"), "Regex", "the pre-tokenizer's pattern"),
        origin_);
  } else {
    refuse(fmt::format("pre-tokenizer '{}' is not known; there are: Sequence, Split, ByteLevel", type));
  }
}

void Reader::decoder(const Json& part) const {
  if (part.is_null()) refuse("it has no decoder; byte-level tokenizers have ByteLevel");
  const std::string type = text(part, "type", "the decoder");
  if (type == "Sequence") {
    for (const Json& inner : member(part, "decoders", "the decoder")) decoder(inner);
  } else if (type != "ByteLevel") {
    refuse(fmt::format("decoder '{}' is not known; there are: ByteLevel, Sequence", type));
  }
}

// What it adds around a text is not wanted in training data, so only its kind is checked.
void Reader::post_processor(const Json& part) const {
  if (part.is_null()) return;
  const std::string type = text(part, "type", "the post-processor");
  if (type == "Sequence") {
    for (const Json& inner : member(part, "processors", "the post-processor")) post_processor(inner);
  } else if (type != "ByteLevel" && type != "TemplateProcessing") {
    refuse(fmt::format("post-processor '{}' is not known; there are: ByteLevel, TemplateProcessing, Sequence",
                       type));
  }
}

void Reader::added_tokens(const Json& list, TokenizerParts& parts) const {
  if (list.is_null()) return;
  if (!list.is_array()) refuse("added_tokens is no list");
  std::set<std::uint32_t> ids;
  std::map<std::uint32_t, std::string_view> token_of;
  for (const auto& [token, id] : parts.vocabulary) token_of.emplace(id, token);
  for (const Json& item : list) {
    only(item, {"id", "content", "single_word", "lstrip", "rstrip", "normalized", "special"},
         "an added token");
    AddedToken token;
    token.content = text(item, "content", "an added token");
    token.id = id(member(item, "id", "an added token"), token.content);
    if (token.content.empty()) refuse("an added token is empty");
    if (!ids.insert(token.id).second) refuse(fmt::format("two added tokens have id {}", token.id));
    unused(item, "single_word", "an added token");
    token.special = flag(item, "special", false, "an added token");
    token.normalized = flag(item, "normalized", !token.special, "an added token");
    token.lstrip = flag(item, "lstrip", false, "an added token");
    token.rstrip = flag(item, "rstrip", false, "an added token");
    if (const auto known = parts.vocabulary.find(token.content);
        known != parts.vocabulary.end() && known->second != token.id)
      refuse(fmt::format("added token '{}' has id {} here and {} in the vocabulary", token.content, token.id,
                         known->second));
    if (const auto other = token_of.find(token.id); other != token_of.end() && other->second != token.content)
      refuse(fmt::format("added token '{}' has the id {} of the vocabulary's '{}'", token.content, token.id,
                         other->second));
    parts.added.push_back(std::move(token));
  }
}

}  // namespace

TokenizerParts read_tokenizer_parts(const Json& file, const std::string& origin) {
  const Reader reader(origin);
  reader.only(file,
              {"version", "truncation", "padding", "added_tokens", "normalizer", "pre_tokenizer",
               "post_processor", "decoder", "model"},
              "the tokenizer");
  const auto part = [&](const char* key) {
    const auto found = file.find(key);
    return found == file.end() ? Json() : *found;
  };
  reader.unused(file, "truncation", "the tokenizer");
  reader.unused(file, "padding", "the tokenizer");
  TokenizerParts parts;
  reader.model(reader.member(file, "model", "the tokenizer"), parts);
  reader.normalizer(part("normalizer"), parts);
  bool byte_level = false;
  reader.pre_tokenizer(part("pre_tokenizer"), parts, byte_level);
  if (!byte_level) reader.refuse("its pre-tokenizer has no ByteLevel: not a byte-level tokenizer");
  reader.decoder(part("decoder"));
  reader.post_processor(part("post_processor"));
  reader.added_tokens(part("added_tokens"), parts);
  return parts;
}

}  // namespace tessera
