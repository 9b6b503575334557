// The small files of a release: configs, tokenizer files and the model card. Stateless; any thread.
#pragma once

#include <map>
#include <string>

#include "checkpoint/model_source.h"
#include "checkpoint/publish.h"

namespace tessera {

// Name to content, in the order they are written. What the description carries is taken as it is; the rest
// is made from the config.
std::map<std::string, std::string> release_files(const ModelDescription& description, DType dtype,
                                                 const PublishOptions& options);

}  // namespace tessera
