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

Parameter& Module::add_parameter(std::unique_ptr<Parameter> parameter) {
  own_.push_back(std::move(parameter));
  return *own_.back();
}

}  // namespace tessera
