// What a run begins from: the model of init.from, or of the run's own checkpoint once there is one.
//
// A config may leave out what that model says already. Rank's thread only.
#pragma once

#include <map>
#include <nlohmann/json.hpp>
#include <string>

#include "checkpoint/coordination.h"
#include "launch/config/config.h"

namespace tessera {

struct Origin {
  Json keys = Json::object();  // config.json's, those unknown to the family too; none without init.from
  std::string place;  // of the model; rank 0 finds it: the directory may be another job's, and get newer ones
  std::map<std::string, std::string> files;  // tokenizer's, chat template, licence, …; on rank 0 only
};

// Completes config.model from the origin of a config with init.from: the family and every key left out.
// Throws Error, at the key's place, for a key that says otherwise of what the model computes, while the run
// has no checkpoint (one is compared by find_run). Rank 0 reads for all; collective.
Origin take_origin(Config& config, Coordination& ranks = alone());

}  // namespace tessera
