#include "launch/run_setup.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <nlohmann/json.hpp>
#include <optional>

#include "core/base/activity.h"
#include "core/base/hash.h"
#include "core/base/io.h"
#include "core/base/log.h"
#include "core/base/mutant.h"
#include "core/base/progress.h"
#include "core/tensor/device.h"
#include "launch/data_identity.h"
#include "launch/estimate.h"
#include "launch/kernel_choices.h"
#include "launch/origin.h"
#include "launch/process.h"
#include "launch/run_state.h"
#include "parallel/comm/device_group.h"

namespace tessera {
namespace {

namespace fs = std::filesystem;

void check_same_program(ProcessGroup& ranks) {
  const auto builds = ranks.all_gather_text(program_build());
  for (std::size_t r = 1; r < builds.size(); ++r)
    if (builds[r] != builds[0])
      fail_usage("rank 0 runs tessera {}, rank {} runs tessera {}; start the same program on every node",
                 builds[0], r, builds[r]);
}

void check_same_config(const Config& config, ProcessGroup& ranks) {
  const auto hashes = ranks.all_gather_text(sha256_hex(bytes_of(config_json(config))));
  for (std::size_t r = 1; r < hashes.size(); ++r)
    if (hashes[r] != hashes[0]) fail_usage("ranks 0 and {} were given different configs", r);
}

int threads_of(const Config& config, const ProcessGroup& ranks) {
  return config.train.threads.value_or(std::max(1, available_cpus() / std::max(1, ranks.ranks_on_node())));
}

void set_up_device(const Config& config, ProcessGroup& ranks, RunSetup& setup) {
  const DeviceKind kind = config.train.device;
  if (config.parallel.sum_order == SumOrder::native && kind != DeviceKind::cuda)
    config.fail_at("parallel.sum_order", "'native' is for train.device: cuda, whose sums NCCL can take");
  check_kernels(config);
  setup.device = make_device(kind, {device_for_rank(ranks, kind), threads_of(config, ranks)});
  setup.device->wished_kernels = config.kernels;
  setup.device_ranks = make_device_group(ranks, *setup.device, config.parallel.sum_order);
  setup.ranks = setup.device_ranks ? setup.device_ranks.get() : &ranks;
}

void open_data(const Config& config, RunSetup& setup) {
  std::vector<SourceSpec> sources;
  for (const Source& source : config.data.train) sources.push_back({source.path, source.weight});
  setup.data =
      std::make_unique<Dataset>(sources, config.data.seq_len, config.data.document_mask, config.data.seed);
  const TokenFile& first = setup.data->file(0);
  for (const Source& source : config.data.valid) {
    setup.valid.push_back(std::make_unique<TokenFile>(source.path));
    const TokenFile& file = *setup.valid.back();
    if (file.info().tokenizer_sha256 != first.info().tokenizer_sha256)
      fail("'{}' and '{}' were made with different tokenizers", source.path, first.path().string());
    require_windows(file, config.data.seq_len);
  }
}

std::vector<const TokenFile*> files_of(const RunSetup& setup) {
  std::vector<const TokenFile*> files;
  for (std::size_t i = 0; i < setup.data->sources(); ++i) files.push_back(&setup.data->file(i));
  for (const auto& file : setup.valid) files.push_back(file.get());
  return files;
}

// The tokenizer's files, from data.tokenizer or else from inside the token file.
std::map<std::string, std::string> tokenizer_files(const Config& config, const TokenFile& tokens) {
  std::map<std::string, std::string> files;
  if (!config.data.tokenizer) {
    if (std::string json = tokens.tokenizer_json(); !json.empty()) files["tokenizer.json"] = std::move(json);
    return files;
  }
  const fs::path path = *config.data.tokenizer;
  files["tokenizer.json"] = io::read_text(path);
  const std::string& made_with = tokens.info().tokenizer_sha256;
  if (!made_with.empty() && sha256_hex(bytes_of(files["tokenizer.json"])) != made_with)
    config.fail_at("data.tokenizer", fmt::format("'{}' is not the tokenizer that '{}' was prepared with",
                                                 path.string(), tokens.path().string()));
  for (const char* name : {"tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"})
    if (fs::exists(path.parent_path() / name)) files[name] = io::read_text(path.parent_path() / name);
  return files;
}

// A model goes on with the files that it came with; those of another tokenizer would not be true of it.
std::map<std::string, std::string> model_files(const Origin& origin,
                                               const std::map<std::string, std::string>& tokenizer) {
  std::map<std::string, std::string> files = tokenizer;
  const auto ours = tokenizer.find("tokenizer.json");
  const auto theirs = origin.files.find("tokenizer.json");
  const bool same = ours == tokenizer.end() || theirs == origin.files.end() || ours->second == theirs->second;
  for (const auto& [name, content] : origin.files) {
    const bool of_any_tokenizer =
        name.starts_with("LICENSE") || name == "NOTICE" || name == "USE_POLICY.md" || name == "README.md";
    if (same || of_any_tokenizer) files.emplace(name, content);
  }
  return files;
}

// The config's model keys with what its origin carries, and what the data decides: vocabulary, end-of-text,
// length.
Json model_keys(const Config& config, const Origin& origin, const TokenFileInfo& tokens) {
  Json keys = origin.keys;
  keys.update(*config.model.keys);
  if (!keys.contains("vocab_size")) keys["vocab_size"] = tokens.vocab_size;
  if (!keys.contains("eos_token_id") && tokens.end_of_text) keys["eos_token_id"] = *tokens.end_of_text;
  const Json& vocab = keys["vocab_size"];
  if (vocab.is_number_integer() && vocab.get<std::int64_t>() < tokens.vocab_size)
    config.fail_at("model.vocab_size", fmt::format("{} is below the {} tokens of the tokenizer", vocab.dump(),
                                                   tokens.vocab_size));
  if (!keys.contains("max_position_embeddings")) {
    const Json full = complete_config(find_family(config.model.family), keys, "model", false);
    keys["max_position_embeddings"] =
        std::max(config.data.seq_len, full.at("max_position_embeddings").get<std::int64_t>());
  }
  return keys;
}

ParallelLayout layout_of(const Config& config, const ModelSpec& spec, const BatchShape& batch, int ranks) {
  try {
    return plan_layout(config.parallel.layout, spec, batch, ranks);
  } catch (const Error& e) {
    fail_at_its_key(config, e);
  }
}

// The weights of one part, row by row of the whole tensor.
void read_part(const ModelSource& source, const Engine::Owned& part) {
  LogicalTensor tensor{part.name, {}};
  for (int i = 0; i < part.global.rank(); ++i) tensor.shape.push_back(part.global[i]);
  const std::int64_t width = part.global.rank() == 2 ? part.global[1] : 1;
  const std::int64_t columns = part.weight.rank() == 2 ? part.weight.size(1) : 1;
  const std::int64_t rows = part.weight.size(0);
  const std::int64_t step = std::max<std::int64_t>(1, (std::int64_t{1} << 22) / width);
  std::vector<float> block;
  for (std::int64_t row = 0; row < rows; row += step) {
    const std::int64_t count = std::min(step, rows - row);
    block.resize(static_cast<std::size_t>(count * width));
    source.read(tensor, (mutant("import_ignores_row") ? 0 : part.row) + row, count, block);
    for (std::int64_t i = 0; i < count; ++i)
      std::memmove(block.data() + i * columns,
                   block.data() + i * width + (mutant("import_ignores_column") ? 0 : part.column),
                   static_cast<std::size_t>(columns) * sizeof(float));
    part.weight.device().copy(part.weight.narrow(0, row, count).raw(), block.data(),
                              static_cast<std::size_t>(count * columns) * sizeof(float));
  }
}

}  // namespace

void fail_at_its_key(const Config& config, const Error& error) {
  const std::string message = error.what();
  const std::string key = message.substr(0, message.find(' '));
  if (!config.places.contains(key)) throw Error(message, error.code());
  config.fail_at(key, message.substr(key.size() + 1));
}

RunSetup read_run(Config& config, int ranks, Coordination& coordination) {
  const Origin origin = take_origin(config, coordination);
  RunSetup setup;
  setup.begins_from = origin.place;
  set_position("start: opening the data");
  std::optional<DoingScope> opening(std::in_place, Doing::uses_storage, "the data's files");
  open_data(config, setup);
  const TokenFile& first = setup.data->file(0);
  setup.description.files = model_files(origin, tokenizer_files(config, first));
  opening.reset();
  set_position("start: building the model");
  setup.description.dtype = config.train.precision == Precision::bf16 ? DType::bf16 : DType::f32;
  setup.description.release = make_release_config(find_family(config.model.family),
                                                  model_keys(config, origin, first.info()), "model");
  const ModelSpec& spec = setup.description.release.spec;
  if (config.data.seq_len > spec.max_positions)
    config.fail_at("data.seq_len", fmt::format("{} is beyond the model's max_position_embeddings {}",
                                               config.data.seq_len, spec.max_positions));
  setup.model = {setup.description.dtype, config.train.recompute, config.data.seq_len, {}};
  setup.model.balance.kind = moe_layers(spec) > 0 ? config.experts.balance : Balance::none;
  setup.model.balance.coefficient = config.experts.coefficient;
  setup.model.balance.bias_rate = config.experts.bias_rate;
  setup.batch = {config.train.global_batch, config.train.micro_batch, config.data.seq_len,
                 config.data.document_mask};
  setup.layout = layout_of(config, spec, setup.batch, ranks);
  if (config.train.cuda_graphs)
    if (const auto obstacle = graphs_obstacle(setup.layout, config.train.device); !obstacle.empty())
      config.fail_at("train.cuda_graphs", obstacle);
  setup.optimizer = {config.optimizer.beta1, config.optimizer.beta2, config.optimizer.eps,
                     config.optimizer.weight_decay};
  return setup;
}

RunSetup set_up_run(Config& config, ProcessGroup& ranks) {
  set_position("start: comparing programs and configs");
  check_same_program(ranks);
  check_same_config(config, ranks);
  RankCoordination coordination(ranks);
  RunSetup setup = read_run(config, ranks.size(), coordination);
  require_same_files(files_of(setup), ranks);
  if (ranks.rank() == 0) warn_of_unused_sources(config, *setup.data);
  set_up_device(config, ranks, setup);
  return setup;
}

void require_log_folder(const Config& config) {
  const fs::path folder = config.log.dir;
  std::error_code error;
  fs::create_directories(folder, error);
  if (!error && access(folder.c_str(), W_OK | X_OK) != 0) error.assign(errno, std::generic_category());
  if (error)
    config.fail_at("log.dir", fmt::format("'{}' cannot be written to: {}", folder.string(), error.message()));
}

void initialize_weights(const Config& config, const RunSetup& setup, Engine& engine) {
  if (!config.init.from) {
    engine.initialize(config.init.seed);
    return;
  }
  set_position("start: reading the weights to begin with");
  const DoingScope scope(Doing::uses_storage, "read of", *config.init.from);
  const ModelSource source = open_model(setup.begins_from);
  if (const std::string conflict = tokenizer_conflict(source, setup.data->file(0)); !conflict.empty())
    config.fail_at("init.from", conflict);
  load_weights(engine, source);
  if (engine.mesh().world().rank() == 0 && !source.beyond().empty() &&
      config.experts.balance != Balance::bias)
    log::warn(
        "'{}' was trained with experts.balance: bias; its choice biases ('{}', …) are left out, and experts "
        "are chosen otherwise than in its training",
        source.origin(), source.beyond().front().name);
}

void load_weights(Engine& engine, const ModelSource& source) {
  const auto is_beyond = [&](const Engine::Owned& part) {
    std::vector<std::int64_t> shape;
    for (int i = 0; i < part.global.rank(); ++i) shape.push_back(part.global[i]);
    return std::any_of(source.beyond().begin(), source.beyond().end(), [&](const LogicalTensor& tensor) {
      return tensor.name == part.name && tensor.shape == shape;
    });
  };
  for (const Engine::Owned& part : engine.held())
    if (part.first_moment.defined() || is_beyond(part))
      read_part(source, part);
    else
      Tensor(part.weight).zero();  // biases of choices, of which the source has none
  engine.weights_changed();
}

std::string assumed_sizes(const Config& config, const ReleaseConfig& release) {
  std::vector<std::string> defaulted;
  complete_config(*release.family, *config.model.keys, "model", false, &defaulted);
  std::string list;
  for (const char* key : {"hidden_size", "intermediate_size", "num_hidden_layers", "num_local_experts"})
    if (std::find(defaulted.begin(), defaulted.end(), key) != defaulted.end())
      list += fmt::format("{}{} {}", list.empty() ? "" : ", ", key, release.config->at(key).dump());
  return list.empty() ? "" : fmt::format("; model does not say, so {} were assumed", list);
}

void print_start_table(const Config& config, const RunSetup& setup, const Engine& engine,
                       const ProcessGroup& ranks, const TrainOptions& options) {
  const ModelSpec& spec = engine.spec();
  const ReduceGroups& groups = engine.groups();
  const ModelDescription& description = setup.description;
  const auto row = [](const char* what, const std::string& text) {
    std::printf("  %-12s %s\n", what, text.c_str());
  };
  std::vector<std::string> defaulted;
  complete_config(*description.release.family, *config.model.keys, "model", false, &defaulted);
  std::string defaults;
  for (const std::string& key : defaulted)
    if (key != "vocab_size")
      defaults +=
          (defaults.empty() ? "" : ", ") + key + "=" + description.release.config->value(key, Json()).dump();

  const auto memory = static_cast<double>(estimate_memory(
      spec, setup.model, engine.layout(), setup.batch, groups, setup.device.get(), config.train.cuda_graphs));
  const double rate = measure_flops(engine.device(), setup.model.compute, spec.hidden_size) * ranks.size();
  const double step_tokens = static_cast<double>(config.train.global_batch * config.data.seq_len);
  const double step_seconds = step_tokens * flops_per_token(spec, config.data.seq_len) / rate;

  row("model", fmt::format("{}: {} layers, hidden size {}, vocabulary {}, {:.2f}M parameters{}",
                           config.model.family, spec.layers.size(), spec.hidden_size, spec.vocab_size,
                           static_cast<double>(parameter_count(spec)) / 1e6, spec.tied ? ", tied" : ""));
  if (!defaults.empty()) row("defaults", defaults);
  const Device& device = engine.device();
  row("compute",
      fmt::format("{}, recompute {}, device {}, {} threads a rank", name_of(config.train.precision),
                  name_of(config.train.recompute), device.model(), setup.device->threads().size()));
  const std::string layout = text(engine.layout());
  row("ranks", fmt::format("{} ({}){}, {} reduce groups{}", ranks.size(), options.started.how,
                           ranks.size() == 1 ? "" : ": " + layout, groups.groups,
                           config.parallel.sum_order == SumOrder::native ? ", sums in NCCL's order" : "") +
                   (config.train.cuda_graphs ? ", CUDA graphs" : ""));
  row("batch",
      fmt::format("{} sequences of {} tokens a step, {} a microbatch, {} steps", config.train.global_batch,
                  config.data.seq_len, config.train.micro_batch, config.train.steps));
  row("estimate",
      fmt::format("{} a rank; {} in all at this machine's matrix speed of {:.2f} TFLOP/s", bytes_text(memory),
                  duration_text(step_seconds * static_cast<double>(config.train.steps)), rate / 1e12));
  row("checkpoints", fmt::format("{}, every {} steps", config.checkpoint.dir, config.checkpoint.every));
  row("stop", options.started.stop);
  std::fflush(stdout);
}

}  // namespace tessera
