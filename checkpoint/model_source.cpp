#include "checkpoint/model_source.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "checkpoint/safetensors.h"
#include "core/base/mutant.h"
#include "core/tensor/device.h"

namespace tessera {

namespace {

// Fills `text`'s layer number into `to` if `text` matches `from`, where "{}" stands for decimal digits.
std::optional<std::string> translate(std::string_view text, std::string_view from, std::string_view to) {
  const std::size_t hole = from.find("{}");
  if (hole == std::string_view::npos) return text == from ? std::optional<std::string>(to) : std::nullopt;
  const std::string_view tail = from.substr(hole + 2);
  if (text.size() <= hole + tail.size() || !text.starts_with(from.substr(0, hole)) || !text.ends_with(tail))
    return std::nullopt;
  const std::string_view number = text.substr(hole, text.size() - hole - tail.size());
  const bool digits = std::all_of(number.begin(), number.end(), [](char c) { return c >= '0' && c <= '9'; });
  if (!digits || (number.size() > 1 && number[0] == '0')) return std::nullopt;
  std::string result(to);
  return result.replace(result.find("{}"), 2, number);
}

constexpr std::size_t block_elements = std::size_t{1} << 22;

}  // namespace

Json model_meta(const ModelDescription& description) {
  Json meta = Json::object();
  meta["config"] = *description.release.config;
  meta["dtype"] = name(description.dtype);
  return meta;
}

std::vector<LogicalTensor> logical_tensors(const ModelSpec& spec) {
  const auto device = make_device(DeviceKind::meta);
  const Model model(spec, *device, {});
  std::vector<LogicalTensor> result;
  for (const Parameter* parameter : model.parameters())
    for (const Segment& segment : parameter->segments()) {
      LogicalTensor tensor{segment.name, {}};
      for (int i = 0; i < segment.global.rank(); ++i) tensor.shape.push_back(segment.global[i]);
      result.push_back(std::move(tensor));
    }
  return result;
}

std::optional<std::string> release_name(const Family& family, std::string_view logical) {
  for (const TensorName& name : family.names) {
    auto found = translate(logical, name.logical, name.release);
    if (!found) continue;
    if (mutant("swap_gate_up")) {
      if (const std::size_t gate = found->find("gate_proj"); gate != std::string::npos)
        found->replace(gate, 9, "up_proj");
      else if (const std::size_t up = found->find("up_proj"); up != std::string::npos)
        found->replace(up, 7, "gate_proj");
    }
    return found;
  }
  return std::nullopt;
}

ModelSource::ModelSource(ModelDescription description, std::string origin,
                         std::shared_ptr<const Reader> reader)
    : description_(std::make_shared<const ModelDescription>(std::move(description))),
      origin_(std::move(origin)),
      reader_(std::move(reader)) {}

void ModelSource::read(const LogicalTensor& tensor, std::int64_t first, std::int64_t rows,
                       std::span<float> out) const {
  reader_->read(tensor, first, rows, out);
}

void load_parameters(Model& model, const ModelSource& source, DType rounded_to) {
  std::vector<float> block;
  std::vector<std::byte> rounded;
  for (Parameter* parameter : model.parameters()) {
    for (const Segment& segment : parameter->segments()) {
      const Tensor part = parameter->value().narrow(0, segment.begin, segment.rows);
      LogicalTensor tensor{segment.name, {}};
      for (int i = 0; i < part.rank(); ++i) tensor.shape.push_back(part.size(i));
      const std::int64_t width = part.numel() / segment.rows;
      const std::int64_t step = std::max<std::int64_t>(1, static_cast<std::int64_t>(block_elements) / width);
      for (std::int64_t row = 0; row < segment.rows; row += step) {
        const std::int64_t rows = std::min(step, segment.rows - row);
        block.resize(static_cast<std::size_t>(rows * width));
        source.read(tensor, row, rows, block);
        if (rounded_to != DType::f32) {
          rounded.resize(block.size() * bytes_per_element(rounded_to));
          floats_to(rounded_to, block, rounded);
          floats_from(rounded_to, rounded, block);
        }
        model.device().copy(part.narrow(0, row, rows).raw(), block.data(), block.size() * sizeof(float));
      }
    }
    parameter->changed();
  }
}

void load_parameters(Model& model, const ModelSource& source) {
  load_parameters(model, source, DType::f32);
}

}  // namespace tessera
