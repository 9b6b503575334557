// Small checkpoints for the store's tests, and their content as one value.
#pragma once

#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "checkpoint/store.h"
#include "tests/data/temporary.h"

namespace tessera {

// Whole content of a checkpoint: step, meta, files, and each state's bytes.
inline std::string content(const LoadedCheckpoint& checkpoint) {
  std::map<std::string, std::string> tensors;
  for (const TensorInfo& info : checkpoint.tensors()) {
    std::string bytes(static_cast<std::size_t>(elements(info.shape)) * bytes_per_element(info.dtype), '\0');
    checkpoint.read_whole(info.name, info.state, bytes.data());
    tensors[info.name + " " + info.state + " " + text(info.shape)] = bytes;
  }
  std::string all = std::to_string(checkpoint.step()) + checkpoint.meta().dump();
  for (const auto& [name, text] : checkpoint.files()) all.append(name).append("=").append(text);
  for (const auto& [name, bytes] : tensors) all.append(name).append("=").append(bytes);
  return all;
}

// Two tensors of three states, each value different and depending on the step.
inline std::filesystem::path save_small(const std::filesystem::path& dir, std::int64_t step) {
  std::vector<std::vector<float>> values;
  std::vector<StateSlice> slices;
  values.reserve(6);
  for (const char* name : {"a.weight", "b.weight"})
    for (const char* state : {"weight", "adam_m", "adam_v"}) {
      const std::vector<std::int64_t> shape{name[0] == 'a' ? 30 : 7, 11};
      std::vector<float> data(static_cast<std::size_t>(elements(shape)));
      for (std::size_t i = 0; i < data.size(); ++i)
        data[i] = static_cast<float>(i) + 1000.0F * static_cast<float>(values.size()) +
                  0.5F * static_cast<float>(step);
      values.push_back(std::move(data));
      slices.push_back({name, state, DType::f32, shape, whole(shape), values.back().data()});
    }
  return save_checkpoint(dir, step, slices, Json{{"seed", 7}},
                         {{"tokenizer.json", "{}"}, {"notes.txt", "hello"}});
}

}  // namespace tessera
