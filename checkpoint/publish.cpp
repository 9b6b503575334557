#include "checkpoint/publish.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>

#include "checkpoint/release_files.h"
#include "checkpoint/release_folder.h"
#include "checkpoint/safetensors.h"
#include "core/base/error.h"
#include "core/base/hash.h"
#include "core/base/io.h"
#include "core/base/philox.h"
#include "core/base/progress.h"
#include "core/tensor/device.h"

namespace tessera {

namespace fs = std::filesystem;

namespace {

constexpr std::int64_t block_elements = std::int64_t{1} << 22;
constexpr std::int64_t compared_sequences = 2;
constexpr std::int64_t compared_length = 64;

void write_text(const fs::path& path, const std::string& text) {
  io::File file = io::File::create(path);
  file.write(text);
  file.sync();
  file.close();
}

std::vector<SafetensorsShard> plan(const ModelSource& source, DType dtype, std::uint64_t max_shard_bytes,
                                   std::map<std::string, LogicalTensor>& logical) {
  std::vector<SafetensorsTensor> tensors;
  for (LogicalTensor& tensor : logical_tensors(source.spec())) {
    const auto name = release_name(*source.description().release.family, tensor.name);
    if (!name)
      fail("family {} has no name for '{}'", source.description().release.family->model_type, tensor.name);
    tensors.push_back({*name, dtype, tensor.shape});
    logical.emplace(*name, std::move(tensor));
  }
  std::sort(tensors.begin(), tensors.end(), [](const auto& a, const auto& b) { return a.name < b.name; });
  return plan_shards(std::move(tensors), max_shard_bytes);
}

void write_weights(const ModelSource& source, const fs::path& dir,
                   const std::vector<SafetensorsShard>& shards,
                   const std::map<std::string, LogicalTensor>& logical) {
  Progress progress("writing", static_cast<double>(parameter_count(source.spec())), "M parameters", 1e6);
  std::vector<float> block;
  for (const SafetensorsShard& shard : shards) {
    SafetensorsWriter writer(dir / shard.file, shard.tensors);
    for (const SafetensorsTensor& tensor : writer.tensors()) {
      const LogicalTensor& from = logical.at(tensor.name);
      const std::int64_t rows = tensor.shape[0];
      const std::int64_t width = tensor.numel() / rows;
      const std::int64_t step = std::max<std::int64_t>(1, block_elements / width);
      for (std::int64_t row = 0; row < rows; row += step) {
        const std::int64_t count = std::min(step, rows - row);
        block.resize(static_cast<std::size_t>(count * width));
        source.read(from, row, count, block);
        writer.write_floats(tensor.name, row * width, block);
        progress.advance(static_cast<double>(block.size()));
      }
    }
    writer.finish();
  }
  if (shards.size() > 1) write_text(dir / "model.safetensors.index.json", index_text(shards));
}

void write_sums(const fs::path& dir) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(dir)) names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  std::string text;
  for (const std::string& name : names)
    if (name != ReleaseFolder::marker) text += sha256_hex_of_file(dir / name) + "  " + name + "\n";
  write_text(dir / "SHA256SUMS", text);
}

// What is compared: a hash of each parameter's bits, and the logits.
struct Evidence {
  std::map<std::string, std::uint64_t> weights;
  std::vector<float> logits;
};

Evidence evidence_of(Model& model, const Batch& batch) {
  Evidence result;
  std::vector<std::byte> bytes;
  for (const Parameter* parameter : model.parameters()) {
    bytes.resize(parameter->value().bytes());
    parameter->value().to_host(bytes.data());
    result.weights[parameter->name()] = xxh3_64(bytes);
  }
  const Tensor logits = model.logits(batch);
  result.logits.resize(static_cast<std::size_t>(logits.numel()));
  logits.to_host(result.logits.data());
  return result;
}

void compare(const ModelSource& source, const ModelSource& released, DType dtype, Device& device) {
  const ModelSpec& spec = source.spec();
  if (logical_tensors(spec).size() != logical_tensors(released.spec()).size())
    fail("the written config describes another model");
  const std::int64_t length = std::min(compared_length, spec.max_positions);
  const Key key(0, "publish");
  std::vector<std::int32_t> tokens(static_cast<std::size_t>(compared_sequences * length));
  for (std::size_t i = 0; i < tokens.size(); ++i)
    tokens[i] = static_cast<std::int32_t>(
        std::min(static_cast<double>(uniform(key, i)) * static_cast<double>(spec.vocab_size),
                 static_cast<double>(spec.vocab_size - 1)));
  const Batch batch{Tensor::from_host(tokens.data(), {compared_sequences, length}, DType::i32, device),
                    plain_positions(compared_sequences, length, device),
                    {},
                    {}};
  // One model after the other, each built from its own config: memory for one is enough.
  const auto evidence = [&](const ModelSource& from) {
    Model model(from.spec(), device, {DType::f32, Recompute::none, length});
    load_parameters(model, from, dtype);
    return evidence_of(model, batch);
  };
  const Evidence ours = evidence(source);
  const Evidence theirs = evidence(released);
  for (const auto& [name, hash] : ours.weights)
    if (const auto other = theirs.weights.find(name); other == theirs.weights.end() || other->second != hash)
      fail("the written files hold other values for '{}'", name);
  if (!std::all_of(ours.logits.begin(), ours.logits.end(), [](float x) { return std::isfinite(x); }))
    fail("the logits in {} are not finite{}", torch_name(dtype),
         dtype == DType::f16 ? "; choose bf16 or fp32" : "");
  if (ours.logits.size() != theirs.logits.size() ||
      std::memcmp(ours.logits.data(), theirs.logits.data(), ours.logits.size() * sizeof(float)) != 0)
    fail("the written files give other logits than the checkpoint");
}

}  // namespace

Published publish(const ModelSource& source, const PublishOptions& options, Device& device) {
  check_destination(options);
  source.require_nothing_beyond();
  Published result;
  result.dtype = options.dtype.value_or(source.description().dtype);
  result.parameters = parameter_count(source.spec());
  result.has_tokenizer = source.description().files.contains("tokenizer.json");

  ReleaseFolder scratch(options.to);
  std::map<std::string, LogicalTensor> logical;
  const auto shards = plan(source, result.dtype, options.max_shard_bytes, logical);
  result.shards = static_cast<int>(shards.size());
  write_weights(source, scratch.path(), shards, logical);
  for (const auto& [name, text] : release_files(source.description(), result.dtype, options))
    write_text(scratch.path() / name, text);
  for (const SafetensorsShard& shard : shards) result.bytes += fs::file_size(scratch.path() / shard.file);
  write_sums(scratch.path());
  try {
    compare(source, open_release(scratch.path()), result.dtype, device);
  } catch (const Error& e) {
    fail("publishing '{}' was refused and nothing is left: {}", source.origin(), e.what());
  }
  scratch.put_in_place();
  return result;
}

}  // namespace tessera
