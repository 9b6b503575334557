#include "launch/config/fields.h"

#include "core/models/family.h"
#include "launch/config/field_kinds.h"

namespace tessera::fields {
namespace {

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
// NOLINTBEGIN(bugprone-macro-parentheses): a path of members takes none
#define TESSERA_MEMBER(path) \
  [](auto& c) -> auto& {     \
    return c.path;           \
  }
// NOLINTEND(bugprone-macro-parentheses)

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
    for (const yaml::Entry* entry : others) {
      const Node& value = entry->value;
      if (entry->key.starts_with("rope_") && entry->key != "rope_theta" && value.kind != Kind::map &&
          value.kind != Kind::null)
        wrong(value, entry->key, "a map");
      keys[entry->key] = to_json(value);
    }
    if (keys.contains("rope_theta") || keys.contains("rope_scaling")) {  // config.json's older dialect
      keys["rope_parameters"] = rope_parameters(keys, "model");
      keys.erase("rope_theta");
      keys.erase("rope_scaling");
    }
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
                std::vector<std::pair<std::string, DeviceKind>>{{"cpu", DeviceKind::cpu},
                                                                {"cuda", DeviceKind::cuda}},
                "Where the model lives: cpu, or cuda, a GPU for each rank"),
       flag("cuda_graphs", TESSERA_MEMBER(train.cuda_graphs),
            "Give a GPU each microbatch and update as one graph, with the same numbers: for small models, "
            "whose host is the slower part; only dp and zero up to 1"),
       auto_integer(
           "watchdog", TESSERA_MEMBER(train.watchdog), 1 << 30,
           "Seconds without progress after which a run ends, saying where each rank stands; auto is 60, "
           "or ten of the longest step"),
       auto_integer("storage_watchdog", TESSERA_MEMBER(train.storage_watchdog), 1 << 30,
                    "The same for one call of storage, such as an fsync, which shows no progress while it "
                    "lasts; auto is ten times watchdog, 600 where that is auto"),
       auto_integer("compare_every", TESSERA_MEMBER(train.compare_every), no_limit,
                    "Steps between comparisons, by hash, of what several ranks hold equal; auto is at each "
                    "save, before which it is done in any case"),
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
                "What to do when the loss or the gradient norm is not finite"),
       integer("max_skipped", TESSERA_MEMBER(optimizer.max_skipped), 1,
               "Steps skipped in a row after which the run ends")},
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

Section experts_section() {
  return {
      "experts",
      "What keeps the loads of experts even, in models that have some",
      {identity(choice<>("balance", TESSERA_MEMBER(experts.balance),
                         std::vector<std::pair<std::string, Balance>>{{"none", Balance::none},
                                                                      {"sequence", Balance::sequence},
                                                                      {"global", Balance::global},
                                                                      {"bias", Balance::bias}},
                         "A term per sequence and layer; transformers' term over the whole batch, for a "
                         "second forward pass; or DeepSeek-V3's bias on choices, which no release holds")),
       identity(number("coefficient", TESSERA_MEMBER(experts.coefficient), {.low = 0},
                       "Weight of the term, for sequence and global")),
       identity(
           number("bias_rate", TESSERA_MEMBER(experts.bias_rate), {.low = 0}, "Step of the bias, for bias"))},
      {},
      {},
      {},
      false};
}

constexpr std::int64_t most_ranks = 1 << 20;

Section parallel_section() {
  return {
      "parallel",
      "How ranks share the work",
      {auto_integer("dp", TESSERA_MEMBER(parallel.layout.mesh.dp), most_ranks,
                    "Data-parallel ranks; auto is what the other axes leave"),
       integer("tp", TESSERA_MEMBER(parallel.layout.mesh.tp), 1,
               "Tensor-parallel ranks: heads, channels, vocabulary, and tokens between blocks", most_ranks),
       integer("pp", TESSERA_MEMBER(parallel.layout.mesh.pp), 1, "Pipeline stages", most_ranks),
       integer("cp", TESSERA_MEMBER(parallel.layout.mesh.cp), 1,
               "Context-parallel ranks: positions of a sequence", most_ranks),
       integer("ep", TESSERA_MEMBER(parallel.layout.mesh.ep), 1,
               "Expert-parallel ranks, a divisor of dp x cp x tp", most_ranks),
       integer("etp", TESSERA_MEMBER(parallel.layout.mesh.etp), 1,
               "Tensor-parallel ranks of each expert, ep x etp a divisor of dp x cp x tp", most_ranks),
       integer("zero", TESSERA_MEMBER(parallel.layout.zero), 0,
               "What dp x cp ranks share out: 1 optimizer, 2 and gradients, 3 and parameters", 3),
       choice<>("schedule", TESSERA_MEMBER(parallel.layout.schedule),
                std::vector<std::pair<std::string, ScheduleKind>>{{"1f1b", ScheduleKind::one_f_one_b},
                                                                  {"interleaved", ScheduleKind::interleaved},
                                                                  {"zero_bubble", ScheduleKind::zero_bubble}},
                "Order of the pipeline's work"),
       integer("virtual_stages", TESSERA_MEMBER(parallel.layout.virtual_stages), 1,
               "Chunks of layers on each stage, for schedule: interleaved", most_ranks),
       counts("layers", TESSERA_MEMBER(parallel.layout.layers),
              "Layers of each pipeline chunk; auto splits by cost, embedding and head included"),
       choice<>("context", TESSERA_MEMBER(parallel.layout.context),
                std::vector<std::pair<std::string, ContextMethod>>{{"all_gather", ContextMethod::all_gather},
                                                                   {"ulysses", ContextMethod::ulysses}},
                "How attention sees a sequence spread over cp"),
       number(
           "expert_buffer", TESSERA_MEMBER(parallel.layout.expert_buffer), {.low = 0},
           "Rows that one rank may send another for its experts, as a multiple of the even share, 1 or more; "
           "more stops the run, and ep holds any. 0: as many as come, of which the host reads the counts"),
       auto_integer("reduce_groups", TESSERA_MEMBER(parallel.reduce_groups), most_ranks,
                    "Groups in which a step's gradients are summed; auto is dp of the first start, or "
                    "with zero 2 and 3 the microbatches of a step. Other groups, other bits"),
       choice<>(
           "sum_order", TESSERA_MEMBER(parallel.sum_order),
           std::vector<std::pair<std::string, SumOrder>>{{"tree", SumOrder::tree},
                                                         {"native", SumOrder::native}},
           "Order of sums over ranks on GPUs: tree gives the same bits on any number of data-parallel ranks; "
           "native is NCCL's own, faster")},
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
  static const std::vector<Section> all = {model_section(),   init_section(),      data_section(),
                                           train_section(),   optimizer_section(), schedule_section(),
                                           experts_section(), parallel_section(),  checkpoint_section(),
                                           log_section(),     kernels_section()};
  return all;
}

}  // namespace tessera::fields
