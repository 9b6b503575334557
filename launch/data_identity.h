// What a run's data is, by content: compared over its ranks, with the checkpoint that it resumes from, and
// with the model whose weights it takes. Paths only name files in messages.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "checkpoint/model_source.h"
#include "core/base/json.h"
#include "data/dataset.h"
#include "launch/config/config.h"
#include "parallel/comm/communicator.h"

namespace tessera {

// Throws Error, on every rank the same, naming path, ranks and hosts, where two ranks opened other contents.
// Collective.
void require_same_files(std::span<const TokenFile* const> files, ProcessGroup& ranks);

// Warns of sources that give no sample before the run's last step.
void warn_of_unused_sources(const Config& config, const Dataset& data);

// The value of a checkpoint meta's key "data" after `samples` samples of the stream.
Json data_meta(const Dataset& data, std::uint64_t samples);

// Whether a meta's "data" tells contents; those of older versions do not.
bool tells_contents(const Json& data_meta);

// Throws Error (usage), naming the source, if the saved stream is not the one that `data` goes on with.
// `origin` begins messages.
void require_same_stream(const Json& data_meta, const Dataset& data, const std::string& origin);

// Why `file` is not for `model`: both carry a tokenizer, and not the same. "" where nothing speaks against
// it.
std::string tokenizer_conflict(const ModelSource& model, const TokenFile& file);

}  // namespace tessera
