// From a config to what a rank trains with: device, data, model, first weights. Also the table that says what
// will run.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "checkpoint/coordination.h"
#include "checkpoint/model_source.h"
#include "core/nn/model.h"
#include "data/dataset.h"
#include "launch/config/config.h"
#include "launch/trainer.h"
#include "parallel/comm/communicator.h"
#include "parallel/engine.h"

namespace tessera {

struct RunSetup {
  std::unique_ptr<Device> device;
  std::unique_ptr<ProcessGroup> device_ranks;  // null where the run's own ranks move the device's memory
  ProcessGroup* ranks = nullptr;               // those that exchange tensors
  std::unique_ptr<Dataset> data;
  std::vector<std::unique_ptr<TokenFile>> valid;
  ModelDescription description;  // config as published, tokenizer and other files
  std::string begins_from;       // the model that init.from stands for, found once for all ranks
  ModelOptions model;
  ParallelLayout layout;
  BatchShape batch;
  AdamWOptions optimizer;
};

// What the config and its files say about a run of that many ranks: all but devices. Completes the config by
// its origin. Throws Error. Collective over `coordination`.
RunSetup read_run(Config& config, int ranks, Coordination& coordination = alone());

// Opens and builds everything; checks that all ranks were given the same config, and completes it by its
// origin. Throws Error.
RunSetup set_up_run(Config& config, ProcessGroup& ranks);

// Throws Error where logs could not be written, which would be found out only once training begins; rank 0.
void require_log_folder(const Config& config);

// Throws a mistake whose message begins with its key, as "parallel.tp", at the place where the user wrote it.
[[noreturn]] void fail_at_its_key(const Config& config, const Error& error);

// Drawn from init.seed, or read from where the run begins, which must be in the tokens of its data.
// Collective.
void initialize_weights(const Config& config, const RunSetup& setup, Engine& engine);

// Weights of whatever part each rank holds, choice biases of experts if both have some; `source` is of the
// engine's spec.
void load_weights(Engine& engine, const ModelSource& source);

// For a message about memory: sizes that the config leaves to the family's defaults; empty where it gives
// all.
std::string assumed_sizes(const Config& config, const ReleaseConfig& release);

// Prints what will run, with parameters, and estimates of memory and time; rank 0.
void print_start_table(const Config& config, const RunSetup& setup, const Engine& engine,
                       const ProcessGroup& ranks, const TrainOptions& options);

}  // namespace tessera
