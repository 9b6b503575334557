// What `tessera bench kernels` times: every kernel slot at the shapes of a training step, with the bytes that
// it must move at least or the operations that it must do.
//
// A case holds its tensors, filled with random values, since a GPU's clocks depend on them; running it again
// gives other numbers, not other work. Cases belong to the device's rank thread.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "core/tensor/device.h"
#include "core/tensor/tensor.h"

namespace tessera::bench {

// A model's sizes, and how many tokens meet them at a time.
struct ModelSizes {
  std::string name;
  std::int64_t tokens = 0, seq_len = 0;
  std::int64_t hidden = 0, heads = 0, kv_heads = 0, head_size = 0, ffn = 0, vocab = 0;
  std::int64_t qkv() const { return (heads + 2 * kv_heads) * head_size; }
};
struct AttentionSizes {
  std::int64_t batch = 0, length = 0, heads = 0, kv_heads = 0, head_size = 0;
  std::int64_t window = 0;    // 0: none
  std::int64_t document = 0;  // length of each; 0: no masks
};
struct ExpertSizes {
  std::int64_t experts = 0, chosen = 0, width = 0;
};

struct Sizes {
  std::vector<ModelSizes> models;  // for products; memory-bound kernels take the first's
  std::vector<AttentionSizes> attention;
  ExpertSizes experts;           // beside the first model's tokens and hidden size
  std::int64_t loss_tokens = 0;  // of a chunk of the head
  std::size_t copy_bytes = 0;    // of the copy that kernels are compared with
  std::size_t cold_bytes = 0;    // cases run on so many bytes by turns, more than a cache holds
};
// Llama models of 1.2 and 8 billion parameters, experts as in Qwen3-30B-A3B.
Sizes full_sizes();
// Of every slot a few kilobytes.
Sizes small_sizes();

struct Case {
  std::string slot;
  std::string shape;  // for people
  double bytes = 0;   // each input read once, each output written once
  double flop = 0;    // 0: bound by memory
  std::function<void()> run;
};
using MakeCase = std::function<Case(Device&)>;

// Of kernels that are bound by memory, or too small to be bound by anything but their launch.
std::vector<MakeCase> dense_cases(const Sizes& sizes);
std::vector<MakeCase> expert_cases(const Sizes& sizes);
// Products and attention; of a mask what is seen is counted.
std::vector<MakeCase> arithmetic_cases(const Sizes& sizes);

}  // namespace tessera::bench
