// The reverse-mode tape: nodes that ops record, and the walk that yields gradients.
//
// The graph hangs off its output tensors, so each microbatch in flight owns its own, and dropping the outputs
// drops it. Kept poor on purpose: eager, first order, one thread (the rank's), no ambient graph. A node saves
// what its backward needs and frees it once used; it saves the Parameter, never a parameter's data.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "core/tensor/tensor.h"

namespace tessera {

// Weight-gradient work put off for later, in the order in which it was met.
using WeightTasks = std::deque<std::function<void()>>;

// What a backward closure is given beside its gradients.
struct BackwardContext {
  WeightTasks* tasks = nullptr;  // null: compute weight gradients at once
  // Runs `task` now, or keeps it for later.
  void weight_task(std::function<void()> task) const {
    if (tasks != nullptr)
      tasks->push_back(std::move(task));
    else
      task();
  }
};

// Gradients of the outputs in (undefined where an output was not used), gradients of the inputs out
// (undefined where an input has none).
using BackwardFunction =
    std::function<std::vector<Tensor>(std::span<const Tensor> output_gradients, const BackwardContext&)>;

struct Edge {
  std::shared_ptr<Node> node;  // null: no gradient flows there
  int output = 0;
};

struct Node {
  const char* op = "";
  std::uint64_t order = 0;           // nodes made later have larger numbers: a topological order
  std::vector<Shape> output_shapes;  // a gradient arrives in this shape, whatever view of the output was used
  std::vector<Edge> inputs;
  BackwardFunction backward;  // empty on a leaf, and once it has run

  Node() = default;
  ~Node();  // drops what only it held, without recursion: graphs are as deep as a step is long
  Node(const Node&) = delete;
  Node& operator=(const Node&) = delete;
};

// No op records while a NoGrad lives on this thread.
class NoGrad {
 public:
  NoGrad();
  ~NoGrad();
  NoGrad(const NoGrad&) = delete;
  NoGrad& operator=(const NoGrad&) = delete;

 private:
  bool previous_;
};
// Turns recording on again inside a NoGrad: recomputation in backward.
class RecordScope {
 public:
  RecordScope();
  ~RecordScope();
  RecordScope(const RecordScope&) = delete;
  RecordScope& operator=(const RecordScope&) = delete;

 private:
  bool previous_;
};
bool grad_enabled();

// Whether a backward walk is under way on this thread: what runs then may be recomputation.
bool in_backward();

// Records an op: `outputs` get one new node. Ops with parameters record even if no input tensor is on the
// tape.
void record(const char* op, std::span<const Tensor> inputs, std::span<Tensor*> outputs,
            BackwardFunction backward);
// Records `op`, without parameters, as making y of x alone; `backward` makes the gradient of x of that of y.
// Returns y.
Tensor record_move(const char* op, const Tensor& x, Tensor y, std::function<Tensor(const Tensor&)> backward);
// True if an op over these inputs must record.
bool needs_record(std::span<const Tensor> inputs, bool has_parameters);

// The same bytes as a leaf of the tape: backward() can yield its gradient.
Tensor as_leaf(const Tensor& tensor);

// Walks from `outputs`, whose gradients are `gradients`, and returns the gradients of `leaves` (made by
// as_leaf; undefined where none arrived). Parameters receive theirs through gradient sinks. A closure runs
// once: a second walk over the same graph asserts. Where a tensor fed several ops, its gradients add up in
// the order in which the walk meets them, latest op first. Iterative.
std::vector<Tensor> backward(std::span<const Tensor> outputs, std::span<const Tensor> gradients,
                             std::span<const Tensor> leaves = {}, WeightTasks* tasks = nullptr);

// x itself; when backward comes by, calls `passed`, and `weights_done` once all weight gradients of what came
// after have been computed, be they put off. Either may be empty.
Tensor mark(const Tensor& x, std::function<void()> passed, std::function<void()> weights_done);

// Activation recomputation: runs `block` without recording, keeps only x, and runs it again in backward.
Tensor checkpoint(const std::function<Tensor(const Tensor&)>& block, const Tensor& x);

}  // namespace tessera
