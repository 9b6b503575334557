#include "launch/inference.h"

#include <CLI/CLI.hpp>

#include "core/base/error.h"
#include "core/base/log.h"
#include "core/base/progress.h"
#include "launch/estimate.h"
#include "launch/host_memory.h"
#include "launch/options.h"

namespace tessera {

void add_device_option(CLI::App& verb, DeviceKind& device) {
  verb.add_option_function<std::string>(
          "--device",
          [&device](const std::string& word) {
            device = word == "cuda" ? DeviceKind::cuda : DeviceKind::cpu;
          },
          "Where to compute: cpu, or cuda, the first GPU that this process sees")
      ->check(one_of({"cpu", "cuda"}))
      ->default_str("cpu");
}

void add_inference_options(CLI::App& verb, InferenceOptions& options) {
  verb.add_option("--precision", options.precision, "Compute in fp32 or bf16")
      ->check(one_of({"fp32", "bf16"}))
      ->capture_default_str();
  verb.add_option("--threads", options.threads, "Threads; all cores if not given")
      ->check(whole_number(1, 4096));
  add_device_option(verb, options.device);
}

std::unique_ptr<Device> make_inference_device(int threads, DeviceKind kind) {
  return make_device(kind, {0, threads == 0 ? available_cpus() : threads});
}

void require_room(const Device& device, double bytes, const std::string& what) {
  if (device.kind() == DeviceKind::cpu) return require_host_memory(bytes, what);
  if (const auto room = device.available(); room && bytes > static_cast<double>(*room))
    fail("{} would take {}, and {} {} has room for {}", what, bytes_text(bytes), name(device.kind()),
         device.ordinal(), bytes_text(static_cast<double>(*room)));
}

InferenceModel::InferenceModel(ModelSource source, const InferenceOptions& options, const InferenceWork& work)
    : source_(std::move(source)), device_(make_inference_device(options.threads, options.device)) {
  const std::int64_t meant = source_.spec().max_positions;
  if (work.positions > meant)
    log::warn("sequences of {} tokens are longer than the {} positions that the model is meant for",
              work.positions, meant);
  const ModelOptions model{options.precision == "bf16" ? DType::bf16 : DType::f32, Recompute::none,
                           work.positions};
  require_room(*device_, estimate_inference(source_.spec(), model, work.sequences, work.logits),
               fmt::format("'{}'", source_.origin()));
  model_ = std::make_unique<Model>(source_.spec(), *device_, model);
  load_parameters(*model_, source_);
}

Tensor InferenceModel::logits(std::span<const std::int32_t> tokens, std::int64_t sequences,
                              const std::string& origin) {
  const std::int64_t vocab = source_.spec().vocab_size;
  for (std::size_t i = 0; i < tokens.size(); ++i)
    if (tokens[i] < 0 || tokens[i] >= vocab)
      fail("{}: token {} at index {} is outside the model's vocabulary of {}", origin, tokens[i], i, vocab);
  const std::int64_t length = static_cast<std::int64_t>(tokens.size()) / sequences;
  return model_->logits({Tensor::from_host(tokens.data(), {sequences, length}, DType::i32, *device_),
                         plain_positions(sequences, length, *device_),
                         {},
                         {}});
}

}  // namespace tessera
