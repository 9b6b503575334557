#include "data/tokenizer/tokenizer_json.h"

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <unordered_set>

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
  // `absent` is what a flag that may be left out stands for then; without it the flag must be there.
  bool flag(const Json& object, const char* key, std::optional<bool> absent, const char* where) const {
    const auto found = object.find(key);
    if (absent && (found == object.end() || found->is_null())) return *absent;
    const Json& value = member(object, key, where);
    if (!value.is_boolean())
      refuse(
          fmt::format("'{}' of {} is {}; it must be true or false", key, where, value.dump().substr(0, 80)));
    return value.get<bool>();
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

  void version(const Json& file) const;
  void model(const Json& model, TokenizerParts& parts) const;
  void bytes(const Json& model, TokenizerParts& parts) const;
  void merges(const Json& list, TokenizerParts& parts) const;
  void normalizer(const Json& part, TokenizerParts& parts) const;
  void pre_tokenizer(const Json& part, TokenizerParts& parts, bool& byte_level) const;
  void split(const Json& part, TokenizerParts& parts) const;
  void decoder(const Json& part) const;
  void post_processor(const Json& part) const;
  void template_pieces(const Json& pieces) const;
  void template_token(const std::string& name, const Json& token) const;
  const Json& list(const Json& part, const char* key, const char* where) const;
  bool byte_level_regex(const Json& part, const char* where) const;
  void added_tokens(const Json& list, TokenizerParts& parts) const;

 private:
  std::string origin_;
};

void Reader::version(const Json& file) const {
  const auto found = file.find("version");
  if (found != file.end() && *found != "1.0")
    refuse(fmt::format("its version is {}; there is: \"1.0\"", found->dump().substr(0, 40)));
}

void Reader::model(const Json& model, TokenizerParts& parts) const {
  if (const std::string type = text(model, "type", "the model"); type != "BPE")
    refuse(fmt::format("model type '{}' is not known; there is: BPE", type));
  only(model,
       {"type", "dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk",
        "byte_fallback", "ignore_merges", "vocab", "merges"},
       "the model");
  for (const char* key : {"dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback"})
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
  bytes(model, parts);
  merges(member(model, "merges", "the model"), parts);
}

// Vocabularies that were learnt from text may lack bytes which that text did not hold.
void Reader::bytes(const Json& model, TokenizerParts& parts) const {
  int lacking = 0;
  for (unsigned byte = 0; byte < 256; ++byte) {
    const char c = static_cast<char>(byte);
    const auto found = parts.vocabulary.find(byte_level_text({&c, 1}));
    parts.byte_ids[byte] = found == parts.vocabulary.end() ? Bpe::no_id : found->second;
    if (found == parts.vocabulary.end()) ++lacking;
  }
  if (lacking == 256) refuse("the vocabulary has a token for no byte: not a byte-level tokenizer");
  parts.unknown.fused = flag(model, "fuse_unk", false, "the model");
  const auto unknown = model.find("unk_token");
  if (unknown == model.end() || unknown->is_null()) return;
  const std::string token = text(model, "unk_token", "the model");
  const auto found = parts.vocabulary.find(token);
  if (found != parts.vocabulary.end())
    parts.unknown.id = found->second;
  else if (lacking > 0)
    refuse(fmt::format("the model's unk_token '{}' is not in the vocabulary, which lacks {} byte(s)", token,
                       lacking));
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

// The parts of a Sequence.
const Json& Reader::list(const Json& part, const char* key, const char* where) const {
  const Json& inner = member(part, key, where);
  if (!inner.is_array())
    refuse(fmt::format("'{}' of {} is {}; it must be a list", key, where, inner.dump().substr(0, 80)));
  for (const Json& one : inner)
    if (one.is_null()) refuse(fmt::format("'{}' of {} holds null", key, where));
  return inner;
}

// ByteLevel's options, which pre-tokenizers, post-processors and decoders share; use_regex, which may be left
// out.
bool Reader::byte_level_regex(const Json& part, const char* where) const {
  only(part, {"type", "add_prefix_space", "trim_offsets", "use_regex"}, where);
  flag(part, "add_prefix_space", {}, where);
  flag(part, "trim_offsets", {}, where);
  return !part.contains("use_regex") || flag(part, "use_regex", {}, where);
}

void Reader::normalizer(const Json& part, TokenizerParts& parts) const {
  if (part.is_null()) return;
  const std::string type = text(part, "type", "the normalizer");
  if (type == "NFC") {
    parts.nfc = true;
  } else if (type == "Sequence") {
    for (const Json& inner : list(part, "normalizers", "the normalizer")) normalizer(inner, parts);
  } else {
    refuse(fmt::format("normalizer '{}' is not known; there are: NFC, Sequence", type));
  }
}

void Reader::pre_tokenizer(const Json& part, TokenizerParts& parts, bool& byte_level) const {
  if (part.is_null()) return;
  const std::string type = text(part, "type", "the pre-tokenizer");
  if (type == "Sequence") {
    only(part, {"type", "pretokenizers"}, "the pre-tokenizer Sequence");
    for (const Json& inner : list(part, "pretokenizers", "the pre-tokenizer"))
      pre_tokenizer(inner, parts, byte_level);
    return;
  }
  if (byte_level) refuse("a pre-tokenizer follows ByteLevel, which must be the last");
  if (type == "ByteLevel") {
    const char* const where = "the pre-tokenizer ByteLevel";
    const bool regex = byte_level_regex(part, where);
    if (flag(part, "add_prefix_space", {}, where)) parts.pre_tokenizer.add_space_before();
    if (regex) parts.pre_tokenizer.add(Split(gpt2_pattern, origin_));
    byte_level = true;
  } else if (type == "Digits") {
    const char* const where = "the pre-tokenizer Digits";
    only(part, {"type", "individual_digits"}, where);
    parts.pre_tokenizer.add(Split::at_digits(flag(part, "individual_digits", {}, where)));
  } else if (type == "Split") {
    split(part, parts);
  } else {
    refuse(
        fmt::format("pre-tokenizer '{}' is not known; there are: Sequence, Split, Digits, ByteLevel", type));
  }
}

void Reader::split(const Json& part, TokenizerParts& parts) const {
  const char* const where = "the pre-tokenizer Split";
  only(part, {"type", "pattern", "behavior", "invert"}, where);
  static const std::map<std::string, SplitBehavior> behaviors = {
      {"Isolated", SplitBehavior::isolated},
      {"Removed", SplitBehavior::removed},
      {"MergedWithPrevious", SplitBehavior::merged_with_previous},
      {"MergedWithNext", SplitBehavior::merged_with_next},
      {"Contiguous", SplitBehavior::contiguous}};
  const std::string name = text(part, "behavior", where);
  const auto behavior = behaviors.find(name);
  if (behavior == behaviors.end())
    refuse(
        fmt::format("{} has behavior '{}'; there are: Isolated, Removed, MergedWithPrevious, "
                    "MergedWithNext, Contiguous",
                    where, name));
  const bool invert = flag(part, "invert", {}, where);
  const Json& pattern = member(part, "pattern", where);
  const char* const kind = pattern.is_object() && pattern.contains("String") ? "String" : "Regex";
  const std::string expression = text(pattern, kind, "the pre-tokenizer's pattern");
  only(pattern, {kind}, "the pre-tokenizer's pattern");
  parts.pre_tokenizer.add(kind == std::string_view("String")
                              ? Split::at_text(expression, origin_, behavior->second, invert)
                              : Split(expression, origin_, behavior->second, invert));
}

void Reader::decoder(const Json& part) const {
  if (part.is_null()) refuse("it has no decoder; byte-level tokenizers have ByteLevel");
  const std::string type = text(part, "type", "the decoder");
  if (type == "Sequence") {
    for (const Json& inner : list(part, "decoders", "the decoder")) decoder(inner);
  } else if (type == "ByteLevel") {
    byte_level_regex(part, "the decoder ByteLevel");
  } else {
    refuse(fmt::format("decoder '{}' is not known; there are: ByteLevel, Sequence", type));
  }
}

// What it adds around a text is not wanted in training data, so only its kind is checked.
void Reader::post_processor(const Json& part) const {
  if (part.is_null()) return;
  const std::string type = text(part, "type", "the post-processor");
  if (type == "Sequence") {
    for (const Json& inner : list(part, "processors", "the post-processor")) post_processor(inner);
  } else if (type == "TemplateProcessing") {
    only(part, {"type", "single", "pair", "special_tokens"}, "the post-processor");
    const Json& single = member(part, "single", "the post-processor");
    template_pieces(single);
    const auto is_text = [](const Json& piece) { return piece.contains("Sequence"); };
    if (std::count_if(single.begin(), single.end(), is_text) != 1)
      refuse("the post-processor's template \"single\" does not hold its text once");
    template_pieces(member(part, "pair", "the post-processor"));
    const Json& tokens = member(part, "special_tokens", "the post-processor");
    if (!tokens.is_object()) refuse("special_tokens of the post-processor is no object");
    for (const auto& [name, token] : tokens.items()) template_token(name, token);
  } else if (type == "ByteLevel") {
    byte_level_regex(part, "the post-processor ByteLevel");
  } else {
    refuse(fmt::format("post-processor '{}' is not known; there are: ByteLevel, TemplateProcessing, Sequence",
                       type));
  }
}

void Reader::template_token(const std::string& name, const Json& token) const {
  const auto all = [&](const char* key, bool (Json::*is)() const noexcept) {
    const auto found = token.find(key);
    return found != token.end() && found->is_array() &&
           std::all_of(found->begin(), found->end(), [&](const Json& one) { return (one.*is)(); });
  };
  if (!token.is_object() || !token.contains("id") || !token["id"].is_string() ||
      !all("ids", &Json::is_number_unsigned) || !all("tokens", &Json::is_string))
    refuse(fmt::format("special token '{}' of the post-processor is {}", name, token.dump().substr(0, 80)));
}

void Reader::template_pieces(const Json& pieces) const {
  if (!pieces.is_array()) refuse("a template of the post-processor is no list");
  for (const Json& piece : pieces) {
    const bool known = piece.is_object() && piece.size() == 1 &&
                       (piece.begin().key() == "Sequence" || piece.begin().key() == "SpecialToken");
    const Json& value = known ? piece.begin().value() : piece;
    if (!known || !value.is_object() || !value.contains("id") || !value["id"].is_string() ||
        !value.contains("type_id") || !value["type_id"].is_number_unsigned())
      refuse(fmt::format("a template of the post-processor holds {}", piece.dump().substr(0, 80)));
    if (piece.begin().key() == "Sequence" && value["id"] != "A" && value["id"] != "B")
      refuse(
          fmt::format("a template of the post-processor has sequence {}", value["id"].dump().substr(0, 40)));
  }
}

void Reader::added_tokens(const Json& list, TokenizerParts& parts) const {
  if (!list.is_array()) refuse("added_tokens is no list");
  const char* const where = "an added token";
  std::unordered_set<std::uint32_t> ids;
  std::unordered_set<std::string> contents;
  std::unordered_map<std::uint32_t, std::string_view> token_of;
  for (const auto& [token, id] : parts.vocabulary) token_of.emplace(id, token);
  std::size_t next = parts.vocabulary.size();
  for (const Json& item : list) {
    only(item, {"id", "content", "single_word", "lstrip", "rstrip", "normalized", "special"}, where);
    AddedToken token;
    token.content = text(item, "content", where);
    token.id = id(member(item, "id", where), token.content);
    if (token.content.empty()) refuse("an added token is empty");
    if (!ids.insert(token.id).second) refuse(fmt::format("two added tokens have id {}", token.id));
    if (!contents.insert(token.content).second) refuse(fmt::format("added token '{}' twice", token.content));
    token.single_word = flag(item, "single_word", {}, where);
    token.special = flag(item, "special", {}, where);
    token.normalized = flag(item, "normalized", {}, where);
    token.lstrip = flag(item, "lstrip", {}, where);
    token.rstrip = flag(item, "rstrip", {}, where);
    if (const auto known = parts.vocabulary.find(token.content);
        known != parts.vocabulary.end() && known->second != token.id)
      refuse(fmt::format("added token '{}' has id {} here and {} in the vocabulary", token.content, token.id,
                         known->second));
    if (const auto other = token_of.find(token.id); other != token_of.end() && other->second != token.content)
      refuse(fmt::format("added token '{}' has the id {} of the vocabulary's '{}'", token.content, token.id,
                         other->second));
    // The format's readers number added tokens by their place behind the vocabulary, whatever ids they have.
    if (!parts.vocabulary.contains(token.content))
      if (const std::size_t given = next++; given != token.id)
        refuse(fmt::format("added token '{}' has id {}, but its place in the list gives it id {}",
                           token.content, token.id, given));
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
  reader.version(file);
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
  if (file.contains("added_tokens")) reader.added_tokens(file["added_tokens"], parts);
  return parts;
}

}  // namespace tessera
