// The codec of Hugging Face's config.json: two dialects in, the newer one out.
//
// Both directions work on JSON objects and keep keys that they do not know. Stateless; any thread.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/base/dtype.h"
#include "core/base/json.h"
#include "core/models/family.h"
#include "core/nn/spec.h"

namespace tessera {

// A model's config as the rest of the program uses it: an object with "model_type", every key of the family
// in the newer dialect (rope_parameters; derived keys such as head_dim resolved; floats as floats), then the
// keys that the family does not know, as met.
struct ReleaseConfig {
  const Family* family = nullptr;
  std::shared_ptr<const Json> config;  // never null once read
  ModelSpec spec;
  std::optional<DType> dtype;  // "dtype" or "torch_dtype"
};

// `raw` is config.json's content. Absent keys take the family's defaults. Throws Error beginning with
// `origin` for a family, architecture or rope type that is unknown, a wrong type, a size that is 0, negative,
// absurd or does not divide, a token id outside the vocabulary, or quantised weights.
ReleaseConfig read_release_config(const Json& raw, const std::string& origin);

// The same for a config of ours: `keys` as in a training config, without "model_type".
ReleaseConfig make_release_config(const Family& family, const Json& keys, const std::string& origin);

// config.json's content for `config` (a ReleaseConfig's) with weights in `dtype`.
Json write_release_config(const Json& config, DType dtype);

// Whether two configs describe one computation on the same tensors: the names of the family's keys that make
// the difference, empty if there is none. Keys that are not used, token ids, what is merely carried, initial
// weights and the longest sequence are left out.
std::vector<std::string> model_differences(const ReleaseConfig& a, const ReleaseConfig& b);

// "bfloat16" and its like.
const char* torch_name(DType dtype);
std::optional<DType> dtype_from_torch_name(const std::string& name);

}  // namespace tessera
