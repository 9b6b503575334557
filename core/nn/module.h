// A named tree of parameters and children, with hooks by which parallelism enters.
//
// A Module owns its parameters; children are members of the concrete block and outlive nothing else. Hooks
// run when a block's forward begins and ends, in recomputation too; reshards change what a block is given and
// gives back. Both are identity unless `parallel` installs some. Rank's thread only.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/autograd/parameter.h"

namespace tessera {

class Module {
 public:
  explicit Module(std::string name) : name_(std::move(name)) {}
  virtual ~Module() = default;
  Module(const Module&) = delete;
  Module& operator=(const Module&) = delete;

  const std::string& name() const { return name_; }
  // This module's own parameters, then its children's, in order of construction.
  std::vector<Parameter*> parameters() const;
  // This module and all below it, each before its children.
  std::vector<Module*> modules();

  using Hook = std::function<void(Module&)>;
  void on_enter(Hook hook) { enter_.push_back(std::move(hook)); }
  void on_leave(Hook hook) { leave_.push_back(std::move(hook)); }

  // Activations [tokens, width] on their way in, and on their way out: a block that is cut over ranks is
  // given all tokens, and its partial sums are added up.
  using Reshard = std::function<Tensor(const Tensor&)>;
  void reshard(Reshard input, Reshard output) {
    input_ = std::move(input);
    output_ = std::move(output);
  }

  // Told what a module that reports makes in forward: the residual stream after embedding and cells.
  using Probe = std::function<void(const Module&, const Tensor&)>;
  void set_probe(Probe probe) { probe_ = std::move(probe); }

  // A forward pass through a module holds one of these.
  class Scope {
   public:
    explicit Scope(Module& module) : module_(module) {
      for (const Hook& hook : module_.enter_) hook(module_);
    }
    ~Scope() {
      for (const Hook& hook : module_.leave_) hook(module_);
    }
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    Module& module_;
  };

 protected:
  Parameter& add_parameter(ParameterSpec spec, DType compute, Device& device);
  void add_child(Module& child) { children_.push_back(&child); }
  Tensor input(const Tensor& x) const { return input_ ? input_(x) : x; }
  Tensor output(const Tensor& y) const { return output_ ? output_(y) : y; }
  Tensor reported(const Tensor& y) const {
    if (probe_) probe_(*this, y);
    return y;
  }

 private:
  std::string name_;
  std::vector<std::unique_ptr<Parameter>> own_;
  std::vector<Module*> children_;
  std::vector<Hook> enter_, leave_;
  Reshard input_, output_;
  Probe probe_;
};

}  // namespace tessera
