// Publish: a checkpoint becomes a Hugging Face release whose logits are proven equal to its own.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include "core/base/dtype.h"

namespace tessera {

class Device;
class ModelSource;

struct PublishOptions {
  std::filesystem::path to;    // absent, or an empty directory
  std::optional<DType> dtype;  // f32, bf16 or f16; absent: the checkpoint's own
  std::uint64_t max_shard_bytes = 5'000'000'000;
  std::optional<std::int64_t> end_of_text;  // eos_token_id where the checkpoint's config has none
  std::string license;                      // for the model card; empty: what an import brought, or none
};

struct Published {
  DType dtype = DType::f32;
  std::int64_t parameters = 0;
  std::uint64_t bytes = 0;  // of the weights
  int shards = 0;
  bool has_tokenizer = false;
};

// Writes safetensors (with an index where there are several), config.json, generation_config.json, tokenizer
// files, README.md and SHA256SUMS beside `to`, reads them back, and compares every weight, and the logits of
// fixed pseudo-random tokens, with those of the source's weights rounded to the same dtype, through the
// same kernels on `device`. Only if all bits are equal does the directory appear under its name; else it
// throws Error and leaves nothing. The same checkpoint gives the same bytes.
Published publish(const ModelSource& source, const PublishOptions& options, Device& device);

}  // namespace tessera
