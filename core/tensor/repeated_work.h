// Work that a device is given again and again, always the same: from the second time on as a graph, where it
// has graphs.
//
// The rank's thread only; the device outlives it.
#pragma once

#include <functional>
#include <memory>

#include "core/tensor/device.h"

namespace tessera {

class RepeatedWork {
 public:
  explicit RepeatedWork(Device& device) : device_(device) {}

  // Does what `work` gives the device. The first call runs it as it is, which chooses kernels and makes
  // plans; the second captures it; later ones do not call it: what it changes on the host it changes no more.
  // It keeps to what Device::capture allows, and to memory that stays in place.
  void run(const std::function<void()>& work) {
    if (!device_.has_graphs() || !seen_) {
      seen_ = true;
      return work();
    }
    if (graph_ == nullptr) graph_ = device_.capture(work);
    graph_->launch();
  }

 private:
  Device& device_;
  bool seen_ = false;
  std::unique_ptr<Graph> graph_;
};

}  // namespace tessera
