#include "core/nn/module.h"

namespace tessera {

std::vector<Parameter*> Module::parameters() const {
  std::vector<Parameter*> all;
  for (const auto& parameter : own_) all.push_back(parameter.get());
  for (const Module* child : children_) {
    const std::vector<Parameter*> theirs = child->parameters();
    all.insert(all.end(), theirs.begin(), theirs.end());
  }
  return all;
}

std::vector<Module*> Module::modules() {
  std::vector<Module*> all{this};
  for (Module* child : children_) {
    const std::vector<Module*> theirs = child->modules();
    all.insert(all.end(), theirs.begin(), theirs.end());
  }
  return all;
}

Parameter& Module::add_parameter(ParameterSpec spec, DType compute, Device& device) {
  own_.push_back(std::make_unique<Parameter>(std::move(spec), compute, device));
  return *own_.back();
}

}  // namespace tessera
