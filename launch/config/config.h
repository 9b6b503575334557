// What a run is: the typed form of a config file.
//
// Plain values, checked when they are read, so that the rest of the program trusts them. A mistake in the
// file throws Error (exit code 2) that begins with file:line:column, or with the override that holds it.
// Reading, printing and the JSON Schema come from one table (fields.cpp). Relative paths are relative to the
// current directory. Any thread may read a Config.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/base/json.h"
#include "core/nn/spec.h"
#include "core/tensor/device_kind.h"
#include "parallel/comm/sum_order.h"
#include "parallel/layout.h"

namespace tessera {

enum class Precision { fp32, bf16 };
enum class OnNonfinite { stop, skip };
enum class ScheduleName { cosine, wsd, constant };

struct ModelConfig {
  ModelConfig();                     // no family, no keys
  std::string family;                // Hugging Face's model_type
  std::shared_ptr<const Json> keys;  // the other keys as given, those of config.json: an object, never null
};

struct InitConfig {
  std::uint64_t seed = 1;
  std::optional<std::string> from;  // a checkpoint or a Hugging Face directory
};

struct Source {
  std::string path;
  double weight = 1;  // of validation sources always 1
};

struct DataConfig {
  std::vector<Source> train;
  std::vector<Source> valid;             // may be empty
  std::optional<std::string> tokenizer;  // absent: the one the token file names
  std::int64_t seq_len = 0;
  bool document_mask = false;
  std::uint64_t seed = 1;
};

struct TrainConfig {
  std::int64_t steps = 0;
  std::int64_t global_batch = 0;  // sequences a step
  std::int64_t micro_batch = 0;   // sequences a forward pass of one rank
  Precision precision = Precision::fp32;
  Recompute recompute = Recompute::none;
  DeviceKind device = DeviceKind::cpu;
  bool cuda_graphs = false;
  std::optional<int>
      watchdog;  // seconds; absent (auto): 60, or ten of the longest step so far if that is more
  std::optional<int> storage_watchdog;  // seconds of one call of storage; absent (auto): ten times watchdog
  std::optional<std::int64_t>
      compare_every;           // steps between comparisons of replicas; absent (auto): at saves
  std::optional<int> threads;  // of one rank; absent (auto): the cores of the machine, shared among its ranks
};

struct OptimizerConfig {
  std::string name = "adamw";
  double lr = 0;  // the schedule's peak
  double beta1 = 0.9, beta2 = 0.95;
  double eps = 1e-8;
  double weight_decay = 0.1;
  double clip = 1;  // global norm; 0 switches clipping off
  OnNonfinite on_nonfinite = OnNonfinite::stop;
  std::int64_t max_skipped = 10;  // steps in a row, after which a run ends that skips
};

struct ScheduleConfig {
  ScheduleName name = ScheduleName::cosine;
  std::int64_t warmup = 0;
  double min_lr = 0;
  std::optional<std::int64_t> decay_steps;  // of wsd; absent (auto): a tenth of train.steps
};

struct ParallelConfig {
  LayoutRequest layout;
  std::optional<int> reduce_groups;  // absent (auto): of the run's first start, dp, or from ZeRO 2 on one a
                                     // microbatch
  SumOrder sum_order = SumOrder::tree;
};

struct ExpertsConfig {
  Balance balance = Balance::sequence;
  double coefficient = 1e-3;  // of the term, for sequence and global
  double bias_rate = 1e-3;    // of the bias
};

struct CheckpointConfig {
  std::string dir = "checkpoints";
  std::int64_t every = 100;  // steps
  std::int64_t keep = 3;     // the newest ones
};

struct LogConfig {
  std::string dir = "runs";
  std::int64_t every = 10;      // steps between progress lines
  std::int64_t eval_every = 0;  // steps between validations; 0: none
};

struct Config {
  ModelConfig model;
  InitConfig init;
  DataConfig data;
  TrainConfig train;
  OptimizerConfig optimizer;
  ScheduleConfig schedule;
  ExpertsConfig experts;
  ParallelConfig parallel;
  CheckpointConfig checkpoint;
  LogConfig log;
  std::map<std::string, std::string> kernels;  // slot → candidate, where the user chooses
  // Where each key was written: "data.train.0.path" → "demo.yaml:4:17". Not part of the config's value.
  std::map<std::string, std::string> places;

  // Throws Error (exit code 2) "<place>: <key> <message>", for faults found only when the run is set up;
  // `key` is dotted, and a key the user did not write is shown without a place.
  [[noreturn]] void fail_at(const std::string& key, const std::string& message) const;
};

// Reads `path`, applies `overrides` in order ("train.steps=10", "data.train.0.path=a.h5"; the value is YAML),
// checks types, ranges and what must fit together.
Config load_config(const std::filesystem::path& path, const std::vector<std::string>& overrides = {});
// The same from text; `origin` begins messages in place of the path.
Config parse_config(const std::string& text, const std::string& origin,
                    const std::vector<std::string>& overrides = {});

// Every key with its value, as YAML that load_config reads back to the same Config.
std::string config_yaml(const Config& config);
// The same as one line of JSON, for checkpoints and logs; config_from_json is its inverse and checks as
// load_config does.
std::string config_json(const Config& config);
Config config_from_json(const std::string& text, const std::string& origin);

// The JSON Schema (2020-12) of a config file, for editors.
std::string config_schema();

// The keys that define the model or the data stream and differ between a checkpoint's config and this one,
// each as "train.global_batch (checkpoint 16, config 32)". Empty: `now` may resume what `saved` began. Steps,
// learning rate, ranks, micro_batch, reduce_groups, logging and where to save are free: some of them change
// bits.
std::vector<std::string> identity_differences(const Config& saved, const Config& now);

const char* name_of(Precision value);
const char* name_of(Recompute value);
const char* name_of(OnNonfinite value);
const char* name_of(ScheduleName value);
const char* name_of(Balance value);

}  // namespace tessera
