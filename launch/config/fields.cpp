#include "launch/config/fields.h"

#include <limits>

#include "core/base/error.h"

namespace tessera::fields {
namespace {

using yaml::Kind;
using yaml::Node;

constexpr std::int64_t no_limit = std::numeric_limits<std::int64_t>::max();

// What was found, for "…, found …".
std::string found(const Node& node) {
  const bool scalar = node.kind != Kind::sequence && node.kind != Kind::map && node.kind != Kind::null;
  return scalar ? fmt::format("'{}'", node.text) : yaml::kind_name(node.kind);
}

[[noreturn]] void wrong(const Node& node, const std::string& name, const std::string& wanted) {
  yaml::fail_at(node.place, fmt::format("{} must be {}, found {}", name, wanted, found(node)));
}

std::int64_t integer_in(const Node& node, const std::string& name, std::int64_t low, std::int64_t high) {
  const std::string wanted = high == no_limit ? fmt::format("an integer of at least {}", low)
                                              : fmt::format("an integer from {} to {}", low, high);
  if (node.kind != Kind::integer || node.integer < low || node.integer > high) wrong(node, name, wanted);
  return node.integer;
}

const std::string& text_of(const Node& node, const std::string& name) {
  if (node.kind != Kind::string) {
    const bool scalar = node.kind == Kind::integer || node.kind == Kind::real || node.kind == Kind::boolean;
    wrong(node, name, scalar ? "a string (quote it)" : "a string");
  }
  if (node.text.empty()) yaml::fail_at(node.place, name + " must not be empty");
  return node.text;
}

// A range of numbers; an open end is not part of it.
struct Range {
  double low = 0;
  bool open_low = false;
  double high = std::numeric_limits<double>::infinity();  // itself never part of it
  std::string text() const {
    if (high < std::numeric_limits<double>::infinity()) return fmt::format("a number in [{}, {})", low, high);
    return open_low ? fmt::format("a number above {}", low) : fmt::format("a number of at least {}", low);
  }
  Json schema() const {
    Json out = {{"type", "number"}};
    out[open_low ? "exclusiveMinimum" : "minimum"] = low;
    if (high < std::numeric_limits<double>::infinity()) out["exclusiveMaximum"] = high;
    return out;
  }
};

double number_in(const Node& node, const std::string& name, const Range& range) {
  const bool number = node.kind == Kind::integer || node.kind == Kind::real;
  const bool inside =
      (range.open_low ? node.real > range.low : node.real >= range.low) && node.real < range.high;
  if (!number || !inside) wrong(node, name, range.text());
  return node.real;
}

// The builders below take `member`: a generic lambda from a (const) Config to the member.

template <class Member>
Field integer(const std::string& name, Member member, std::int64_t low, const std::string& help) {
  using Value = std::remove_reference_t<decltype(member(std::declval<Config&>()))>;
  return {name,
          help,
          {{"type", "integer"}, {"minimum", low}},
          [=](const Node& node, Config& config) {
            member(config) = static_cast<Value>(integer_in(node, name, low, no_limit));
          },
          [=](const Config& config) { return Json(member(config)); }};
}

// An optional count whose absence is written `auto`.
template <class Member>
Field auto_integer(const std::string& name, Member member, std::int64_t high, const std::string& help) {
  using Optional = std::remove_reference_t<decltype(member(std::declval<Config&>()))>;
  return {name,
          help,
          {{"oneOf",
            Json::array({{{"const", "auto"}}, {{"type", "integer"}, {"minimum", 1}, {"maximum", high}}})}},
          [=](const Node& node, Config& config) {
            member(config).reset();
            if (node.kind == Kind::string && node.text == "auto") return;
            if (node.kind != Kind::integer || node.integer < 1 || node.integer > high) {
              wrong(node, name, fmt::format("auto or an integer from 1 to {}", high));
            }
            member(config) = static_cast<typename Optional::value_type>(node.integer);
          },
          [=](const Config& config) { return member(config) ? Json(*member(config)) : Json("auto"); }};
}

template <class Member>
Field number(const std::string& name, Member member, const Range& range, const std::string& help) {
  return {name, help, range.schema(),
          [=](const Node& node, Config& config) { member(config) = number_in(node, name, range); },
          [=](const Config& config) { return Json(member(config)); }};
}

template <class Member>
Field flag(const std::string& name, Member member, const std::string& help) {
  return {name,
          help,
          {{"type", "boolean"}},
          [=](const Node& node, Config& config) {
            if (node.kind != Kind::boolean) wrong(node, name, "true or false");
            member(config) = node.boolean;
          },
          [=](const Config& config) { return Json(member(config)); }};
}

template <class Member>
Field text(const std::string& name, Member member, const std::string& help) {
  return {name,
          help,
          {{"type", "string"}, {"minLength", 1}},
          [=](const Node& node, Config& config) { member(config) = text_of(node, name); },
          [=](const Config& config) { return Json(member(config)); }};
}

template <class Member>
Field optional_text(const std::string& name, Member member, const std::string& help) {
  return {name,
          help,
          {{"type", Json::array({"string", "null"})}, {"minLength", 1}},
          [=](const Node& node, Config& config) {
            member(config).reset();
            if (node.kind != Kind::null) member(config) = text_of(node, name);
          },
          [=](const Config& config) { return member(config) ? Json(*member(config)) : Json(); }};
}

// One of several words; `values[i]` is what `words[i]` stands for.
template <class Member, class Value>
Field choice(const std::string& name, Member member, const std::vector<std::pair<std::string, Value>>& values,
             const std::string& help) {
  std::vector<std::string> words;
  for (const auto& [word, value] : values) words.push_back(word);
  return {name,
          help,
          {{"enum", words}},
          [=](const Node& node, Config& config) {
            for (const auto& [word, value] : values) {
              if (node.kind == Kind::string && node.text == word) {
                member(config) = value;
                return;
              }
            }
            std::string all;
            for (const std::string& word : words) all += (all.empty() ? "" : ", ") + word;
            const std::string wanted = words.size() == 1 ? all : "one of " + all;
            yaml::fail_at(node.place,
                          fmt::format("{} must be {}, found {}{}", name, wanted, found(node),
                                      node.kind == Kind::string ? did_you_mean(node.text, words) : ""));
          },
          [=](const Config& config) {
            for (const auto& [word, value] : values) {
              if (value == member(config)) return Json(word);
            }
            return Json();
          }};
}

Field required(Field field) {
  field.required = true;
  return field;
}

Field identity(Field field) {
  field.identity = true;
  return field;
}

Source read_source(const Node& node, const std::string& name, bool weighted) {
  Source source;
  if (node.kind != Kind::map) wrong(node, name, "a map with the key path");
  const std::vector<std::string> keys =
      weighted ? std::vector<std::string>{"path", "weight"} : std::vector<std::string>{"path"};
  for (const yaml::Entry& entry : node.entries) {
    if (entry.key == "path") {
      source.path = text_of(entry.value, name + ".path");
    } else if (entry.key == "weight" && weighted) {
      source.weight = number_in(entry.value, name + ".weight", {.low = 0, .open_low = true});
    } else {
      yaml::fail_at(entry.key_place,
                    fmt::format("unknown key '{}' in {}{}", entry.key, name, did_you_mean(entry.key, keys)));
    }
  }
  if (source.path.empty()) yaml::fail_at(node.place, name + " lacks the key path");
  return source;
}

template <class Member>
Field sources(const std::string& name, Member member, bool weighted, const std::string& help) {
  Json item = {{"type", "object"},
               {"properties", {{"path", {{"type", "string"}, {"minLength", 1}}}}},
               {"required", Json::array({"path"})},
               {"additionalProperties", false}};
  if (weighted)
    item["properties"]["weight"] = {{"type", "number"}, {"exclusiveMinimum", 0}, {"default", 1.0}};
  Json schema = {{"type", "array"}, {"items", item}};
  if (weighted) schema["minItems"] = 1;
  return {name, help, schema,
          [=](const Node& node, Config& config) {
            if (node.kind != Kind::sequence)
              wrong(node, name, "a list of token files, such as [{path: train.h5}]");
            if (weighted && node.items.empty()) yaml::fail_at(node.place, name + " must not be empty");
            member(config).clear();
            for (const Node& one : node.items) {
              const std::string at = fmt::format("{}.{}", name, member(config).size());
              member(config).push_back(read_source(one, at, weighted));
            }
          },
          [=](const Config& config) {
            Json out = Json::array();
            for (const Source& source : member(config)) {
              Json one = {{"path", source.path}};
              if (weighted) one["weight"] = source.weight;
              out.push_back(one);
            }
            return out;
          }};
}

Field betas() {
  const Range range{.low = 0, .high = 1};
  return {"betas",
          "Decay of the first and second moment",
          {{"type", "array"},
           {"prefixItems", Json::array({range.schema(), range.schema()})},
           {"minItems", 2},
           {"maxItems", 2}},
          [=](const Node& node, Config& config) {
            if (node.kind != Kind::sequence || node.items.size() != 2)
              wrong(node, "betas", "two numbers in [0, 1)");
            config.optimizer.beta1 = number_in(node.items[0], "betas.0", range);
            config.optimizer.beta2 = number_in(node.items[1], "betas.1", range);
          },
          [](const Config& config) {
            return Json::array({config.optimizer.beta1, config.optimizer.beta2});
          }};
}

// `c.section.key` of a Config, const or not.
#define TESSERA_MEMBER(path) \
  [](auto& c) -> auto& {     \
    return c.path;           \
  }

// config.json's older dialect, rope_theta and rope_scaling {type | rope_type, …} beside each other, as the
// newer one: rope_parameters, whose own values win.
void merge_rope(Json& keys) {
  if (!keys.contains("rope_theta") && !keys.contains("rope_scaling")) return;
  Json merged = {{"rope_type", "default"}};
  if (keys.contains("rope_theta")) merged["rope_theta"] = keys["rope_theta"];
  for (const char* name : {"rope_scaling", "rope_parameters"}) {
    if (!keys.contains(name) || !keys[name].is_object()) continue;
    for (const auto& [key, value] : keys[name].items()) merged[key == "type" ? "rope_type" : key] = value;
  }
  keys.erase("rope_theta");
  keys.erase("rope_scaling");
  keys["rope_parameters"] = merged;
}

Section model_section() {
  Section section{
      "model",
      "The model: its family, and keys of Hugging Face's config.json",
      {required(text("family", TESSERA_MEMBER(model.family), "Hugging Face's model_type: llama, qwen3, …"))},
      {},
      {},
      {},
      true};
  section.fields[0].identity = true;
  section.read_others = [](const std::vector<const yaml::Entry*>& others, Config& config) {
    Json keys = Json::object();
    for (const yaml::Entry* entry : others) keys[entry->key] = to_json(entry->value);
    merge_rope(keys);
    config.model.keys = std::make_shared<const Json>(std::move(keys));
  };
  section.write_others = [](const Config& config) { return *config.model.keys; };
  section.others_schema = true;
  return section;
}

Section kernels_section() {
  Section section{"kernels", "Kernels chosen by name, for slots where the first that can run is not wanted",
                  {},        {},
                  {},        {},
                  false};
  section.read_others = [](const std::vector<const yaml::Entry*>& others, Config& config) {
    config.kernels.clear();
    for (const yaml::Entry* entry : others)
      config.kernels[entry->key] = text_of(entry->value, "kernels." + entry->key);
  };
  section.write_others = [](const Config& config) {
    Json out = Json::object();
    for (const auto& [slot, candidate] : config.kernels) out[slot] = candidate;
    return out;
  };
  section.others_schema = {{"type", "string"}};
  return section;
}

Section init_section() {
  return {"init",
          "Where the weights come from",
          {integer("seed", TESSERA_MEMBER(init.seed), 0, "Seed of the random initialisation"),
           optional_text("from", TESSERA_MEMBER(init.from),
                         "Start from the weights of this checkpoint or Hugging Face directory")},
          {},
          {},
          {},
          false};
}

Section data_section() {
  return {"data",
          "What is trained on",
          {identity(required(sources("train", TESSERA_MEMBER(data.train), true,
                                     "Token files, blended in proportion to their weights"))),
           sources("valid", TESSERA_MEMBER(data.valid), false, "Held-out token files"),
           identity(optional_text("tokenizer", TESSERA_MEMBER(data.tokenizer),
                                  "tokenizer.json; by default the one that the first token file names")),
           identity(required(integer("seq_len", TESSERA_MEMBER(data.seq_len), 1, "Tokens in a sequence"))),
           identity(flag("document_mask", TESSERA_MEMBER(data.document_mask),
                         "Attention and positions restart at documents, and no target crosses a boundary")),
           identity(integer("seed", TESSERA_MEMBER(data.seed), 0, "Seed of the shuffle"))},
          {},
          {},
          {},
          true};
}

Section train_section() {
  return {
      "train",
      "How much, and how it is computed",
      {required(integer("steps", TESSERA_MEMBER(train.steps), 1, "Steps of the whole run")),
       identity(
           required(integer("global_batch", TESSERA_MEMBER(train.global_batch), 1, "Sequences in a step"))),
       required(integer("micro_batch", TESSERA_MEMBER(train.micro_batch), 1,
                        "Sequences in one forward pass of one rank")),
       identity(choice<>("precision", TESSERA_MEMBER(train.precision),
                         std::vector<std::pair<std::string, Precision>>{{"fp32", Precision::fp32},
                                                                        {"bf16", Precision::bf16}},
                         "Type of activations and of the weights computed with; masters stay fp32")),
       choice<>(
           "recompute", TESSERA_MEMBER(train.recompute),
           std::vector<std::pair<std::string, Recompute>>{
               {"none", Recompute::none}, {"selective", Recompute::selective}, {"full", Recompute::full}},
           "Activations computed again in backward instead of kept: none, attention, whole blocks"),
       choice<>("device", TESSERA_MEMBER(train.device),
                std::vector<std::pair<std::string, std::string>>{{"cpu", "cpu"}}, "Where the model lives"),
       auto_integer("threads", TESSERA_MEMBER(train.threads), 4096,
                    "Threads of one rank; auto shares the machine's cores among its ranks")},
      {},
      {},
      {},
      true};
}

Section optimizer_section() {
  return {
      "optimizer",
      "AdamW with decoupled decay, which norms and biases do not get",
      {identity(choice<>("name", TESSERA_MEMBER(optimizer.name),
                         std::vector<std::pair<std::string, std::string>>{{"adamw", "adamw"}}, "Algorithm")),
       required(
           number("lr", TESSERA_MEMBER(optimizer.lr), {.low = 0, .open_low = true}, "Peak learning rate")),
       betas(),
       number("eps", TESSERA_MEMBER(optimizer.eps), {.low = 0, .open_low = true}, "Added to the denominator"),
       number("weight_decay", TESSERA_MEMBER(optimizer.weight_decay), {}, "Decoupled weight decay"),
       number("clip", TESSERA_MEMBER(optimizer.clip), {},
              "Largest global gradient norm; 0 switches clipping off"),
       choice<>("on_nonfinite", TESSERA_MEMBER(optimizer.on_nonfinite),
                std::vector<std::pair<std::string, OnNonfinite>>{{"stop", OnNonfinite::stop},
                                                                 {"skip", OnNonfinite::skip}},
                "What to do when the loss or the gradient norm is not finite")},
      {},
      {},
      {},
      true};
}

Section schedule_section() {
  return {"schedule",
          "The learning rate over the steps",
          {choice<>("name", TESSERA_MEMBER(schedule.name),
                    std::vector<std::pair<std::string, ScheduleName>>{{"cosine", ScheduleName::cosine},
                                                                      {"wsd", ScheduleName::wsd},
                                                                      {"constant", ScheduleName::constant}},
                    "Shape after the warmup; wsd is constant, then falls linearly"),
           integer("warmup", TESSERA_MEMBER(schedule.warmup), 0, "Steps of linear rise"),
           number("min_lr", TESSERA_MEMBER(schedule.min_lr), {}, "Rate at the end"),
           auto_integer("decay_steps", TESSERA_MEMBER(schedule.decay_steps), no_limit,
                        "Length of the fall of wsd; auto is a tenth of train.steps")},
          {},
          {},
          {},
          false};
}

Section parallel_section() {
  return {
      "parallel",
      "How ranks share the work",
      {auto_integer("dp", TESSERA_MEMBER(parallel.dp), 1 << 20, "Data-parallel ranks; auto is all of them"),
       identity(
           auto_integer("reduce_groups", TESSERA_MEMBER(parallel.reduce_groups), 1 << 20,
                        "Groups in which a step's gradients are summed; auto is dp of the first start"))},
      {},
      {},
      {},
      false};
}

Section checkpoint_section() {
  return {"checkpoint",
          "Where and when to save",
          {text("dir", TESSERA_MEMBER(checkpoint.dir), "Directory of the run's checkpoints"),
           integer("every", TESSERA_MEMBER(checkpoint.every), 1,
                   "Steps between checkpoints; the last is always saved"),
           integer("keep", TESSERA_MEMBER(checkpoint.keep), 1, "How many of the newest to keep")},
          {},
          {},
          {},
          false};
}

Section log_section() {
  return {"log",
          "What to report",
          {text("dir", TESSERA_MEMBER(log.dir), "Directory of metrics.jsonl and TensorBoard events"),
           integer("every", TESSERA_MEMBER(log.every), 1, "Steps between progress lines"),
           integer("eval_every", TESSERA_MEMBER(log.eval_every), 0, "Steps between validations; 0 for none")},
          {},
          {},
          {},
          false};
}

#undef TESSERA_MEMBER

}  // namespace

const std::vector<Section>& sections() {
  static const std::vector<Section> all = {
      model_section(),    init_section(),     data_section(),       train_section(), optimizer_section(),
      schedule_section(), parallel_section(), checkpoint_section(), log_section(),   kernels_section()};
  return all;
}

Json to_json(const Node& node) {
  switch (node.kind) {
    case Kind::null:
      return Json();
    case Kind::boolean:
      return Json(node.boolean);
    case Kind::integer:
      return Json(node.integer);
    case Kind::real:
      return Json(node.real);
    case Kind::string:
      return Json(node.text);
    case Kind::sequence: {
      Json out = Json::array();
      for (const Node& item : node.items) out.push_back(to_json(item));
      return out;
    }
    case Kind::map:
      break;
  }
  Json out = Json::object();
  for (const yaml::Entry& entry : node.entries) out[entry.key] = to_json(entry.value);
  return out;
}

namespace {

Node convert(const Json& json, const yaml::Place& place) {
  Node node;
  node.place = place;
  if (json.is_object()) {
    node.kind = Kind::map;
    for (const auto& [key, value] : json.items()) node.entries.push_back({key, place, convert(value, place)});
    return node;
  }
  if (json.is_array()) {
    node.kind = Kind::sequence;
    for (const Json& item : json) node.items.push_back(convert(item, place));
    return node;
  }
  if (json.is_string()) {
    node.kind = Kind::string;
    node.text = json.get<std::string>();
    return node;
  }
  node.text = json.dump();
  yaml::resolve_plain(node);
  return node;
}

}  // namespace

Node from_json(const Json& json, const std::string& origin) {
  return convert(json, {std::make_shared<const std::string>(origin), 0, 0});
}

}  // namespace tessera::fields
