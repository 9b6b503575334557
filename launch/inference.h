// A model opened to look at: what `logits`, `eval` and `generate` share.
//
// Owns its device and the model on it; one thread.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "checkpoint/model_source.h"
#include "core/nn/model.h"
#include "core/tensor/device.h"

namespace CLI {
class App;
}

namespace tessera {

struct InferenceOptions {
  std::string model;               // a checkpoint or a Hugging Face directory
  std::string precision = "fp32";  // what it computes in: fp32 or bf16
  int threads = 0;                 // 0: all cores of this process
  DeviceKind device = DeviceKind::cpu;
};

// Adds --device to a verb.
void add_device_option(CLI::App& verb, DeviceKind& device);
// Adds --precision, --threads and --device.
void add_inference_options(CLI::App& verb, InferenceOptions& options);

std::unique_ptr<Device> make_inference_device(int threads, DeviceKind kind = DeviceKind::cpu);

// Throws Error where `bytes` are more than the device has room for; `what` begins the message.
void require_room(const Device& device, double bytes, const std::string& what);

// What a model is opened for.
struct InferenceWork {
  std::int64_t sequences = 1;  // of one forward pass
  std::int64_t positions = 1;  // the longest of them
  bool logits = true;          // of every position; else losses
};

class InferenceModel {
 public:
  // Throws Error, before it allocates anything, where there is no room for the model at this work.
  InferenceModel(ModelSource source, const InferenceOptions& options, const InferenceWork& work);

  const ModelSource& source() const { return source_; }
  Model& model() { return *model_; }
  Device& device() { return *device_; }

  // F32 [sequences, length, vocab] of token ids, row by row; throws Error for an id outside the vocabulary.
  Tensor logits(std::span<const std::int32_t> tokens, std::int64_t sequences, const std::string& origin);

 private:
  ModelSource source_;
  std::unique_ptr<Device> device_;
  std::unique_ptr<Model> model_;
};

}  // namespace tessera
