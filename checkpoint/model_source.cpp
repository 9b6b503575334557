#include "checkpoint/model_source.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "checkpoint/safetensors.h"
#include "core/base/error.h"
#include "core/base/mutant.h"
#include "core/tensor/device.h"

namespace tessera {

namespace {

// `text` matched against `from`, where "{}" stands for decimal digits, and those digits put into `to`.
std::optional<std::string> translate(std::string_view text, std::string_view from, std::string_view to) {
  std::string result;
  while (true) {
    const std::size_t hole = from.find("{}");
    const std::size_t target = to.find("{}");
    if (hole == std::string_view::npos)
      return text == from ? std::optional<std::string>(result.append(to)) : std::nullopt;
    if (text.substr(0, hole) != from.substr(0, hole)) return std::nullopt;
    text.remove_prefix(hole);
    const auto digits = std::min(text.find_first_not_of("0123456789"), text.size());
    if (digits == 0 || (digits > 1 && text[0] == '0')) return std::nullopt;
    result.append(to.substr(0, target)).append(text.substr(0, digits));
    text.remove_prefix(digits);
    from.remove_prefix(hole + 2);
    to.remove_prefix(target + 2);
  }
}

constexpr std::size_t block_elements = std::size_t{1} << 22;

}  // namespace

Json model_meta(const ModelDescription& description) {
  Json meta = Json::object();
  meta["config"] = *description.release.config;
  meta["dtype"] = name(description.dtype);
  return meta;
}

void visit_logical_tensors(const ModelSpec& spec, const std::function<void(LogicalTensor)>& visit) {
  const auto device = make_device(DeviceKind::meta);
  const auto layers = static_cast<std::int64_t>(spec.layers.size());
  for (std::int64_t layer = 0; layer < layers; ++layer) {
    const Model model(spec, *device, {}, {layer, layer + 1, layer == 0, layer + 1 == layers, {}});
    for (const Parameter* parameter : model.parameters()) {
      if (parameter->is_copy()) continue;
      for (const Segment& segment : parameter->segments()) {
        LogicalTensor tensor{segment.name, {}};
        for (int i = 0; i < segment.global.rank(); ++i) tensor.shape.push_back(segment.global[i]);
        visit(std::move(tensor));
      }
    }
  }
}

std::vector<LogicalTensor> logical_tensors(const ModelSpec& spec) {
  std::vector<LogicalTensor> result;
  visit_logical_tensors(spec, [&](LogicalTensor tensor) { result.push_back(std::move(tensor)); });
  return result;
}

std::optional<std::string> release_name(const Family& family, std::string_view logical) {
  std::string name(logical);
  if (mutant("swap_gate_up")) {
    if (const std::size_t gate = name.find(".gate."); gate != std::string::npos)
      name.replace(gate, 6, ".up.");
    else if (const std::size_t up = name.find(".up."); up != std::string::npos)
      name.replace(up, 4, ".gate.");
  }
  for (const TensorName& pair : family.names)
    if (auto found = translate(name, pair.logical, pair.release)) return found;
  return std::nullopt;
}

ModelSource::ModelSource(ModelDescription description, std::string origin,
                         std::shared_ptr<const Reader> reader, std::vector<LogicalTensor> beyond)
    : description_(std::make_shared<const ModelDescription>(std::move(description))),
      origin_(std::move(origin)),
      reader_(std::move(reader)),
      beyond_(std::move(beyond)) {}

void ModelSource::require_nothing_beyond() const {
  if (!beyond_.empty())
    fail(
        "'{}' chooses experts by '{}', trained with experts.balance: bias, and a {} model has no place for "
        "it; "
        "to use or publish the model, train on with another balance",
        origin_, beyond_[0].name, description_->release.family->model_type);
}

void ModelSource::read(const LogicalTensor& tensor, std::int64_t first, std::int64_t rows,
                       std::span<float> out) const {
  reader_->read(tensor, first, rows, out);
}

void load_parameters(Model& model, const ModelSource& source, DType rounded_to) {
  source.require_nothing_beyond();
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
