#include "core/autograd/tape.h"

#include <atomic>
#include <map>

#include "core/tensor/elementwise.h"

namespace tessera {
namespace {

thread_local bool recording = true;
thread_local int walks = 0;

struct WalkScope {
  WalkScope() { ++walks; }
  ~WalkScope() { --walks; }
  WalkScope(const WalkScope&) = delete;
  WalkScope& operator=(const WalkScope&) = delete;
};

std::uint64_t next_order() {
  thread_local std::uint64_t order = 0;
  return ++order;
}

void accumulate(Tensor& sum, const Tensor& gradient) {
  if (!gradient.defined()) return;
  sum = sum.defined() ? add_values(sum, gradient) : gradient;
}

}  // namespace

Node::~Node() {
  std::vector<Edge> dropped = std::move(inputs);
  while (!dropped.empty()) {
    const std::shared_ptr<Node> node = std::move(dropped.back().node);
    dropped.pop_back();
    if (!node || node.use_count() > 1) continue;
    for (Edge& edge : node->inputs) dropped.push_back(std::move(edge));
    node->inputs.clear();
  }
}

NoGrad::NoGrad() : previous_(recording) {
  recording = false;
}
NoGrad::~NoGrad() {
  recording = previous_;
}
RecordScope::RecordScope() : previous_(recording) {
  recording = true;
}
RecordScope::~RecordScope() {
  recording = previous_;
}
bool grad_enabled() {
  return recording;
}

bool in_backward() {
  return walks > 0;
}

bool needs_record(std::span<const Tensor> inputs, bool has_parameters) {
  if (!recording) return false;
  if (has_parameters) return true;
  for (const Tensor& input : inputs)
    if (input.node()) return true;
  return false;
}

void record(const char* op, std::span<const Tensor> inputs, std::span<Tensor*> outputs,
            BackwardFunction backward) {
  auto node = std::make_shared<Node>();
  node->op = op;
  node->order = next_order();
  for (const Tensor* output : outputs) node->output_shapes.push_back(output->shape());
  for (const Tensor& input : inputs) node->inputs.push_back({input.node(), input.output_index()});
  node->backward = std::move(backward);
  for (std::size_t i = 0; i < outputs.size(); ++i) outputs[i]->set_node(node, static_cast<int>(i));
}

Tensor record_move(const char* op, const Tensor& x, Tensor y, std::function<Tensor(const Tensor&)> backward) {
  if (!needs_record(std::span(&x, 1), false)) return y;
  Tensor* outputs[] = {&y};
  record(op, std::span(&x, 1), outputs,
         [backward = std::move(backward)](std::span<const Tensor> g, const BackwardContext&) {
           return std::vector<Tensor>{backward(g[0].detach())};
         });
  return y;
}

Tensor as_leaf(const Tensor& tensor) {
  Tensor leaf = tensor.detach();
  auto node = std::make_shared<Node>();
  node->op = "leaf";
  node->order = next_order();
  node->output_shapes = {tensor.shape()};
  leaf.set_node(std::move(node), 0);
  return leaf;
}

std::vector<Tensor> backward(std::span<const Tensor> outputs, std::span<const Tensor> gradients,
                             std::span<const Tensor> leaves, WeightTasks* tasks) {
  assert(outputs.size() == gradients.size());
  struct Pending {
    std::shared_ptr<Node> node;
    std::vector<Tensor> gradients;
  };
  std::map<std::uint64_t, Pending> pending;  // by order: the last one is safe to run, all its users have
  const auto deliver = [&](const std::shared_ptr<Node>& node, int output, const Tensor& gradient) {
    if (!node || !gradient.defined()) return;
    Pending& entry = pending[node->order];
    if (!entry.node) entry = {node, std::vector<Tensor>(node->output_shapes.size())};
    const auto index = static_cast<std::size_t>(output);
    const Shape& shape = node->output_shapes[index];
    accumulate(entry.gradients[index], gradient.shape() == shape ? gradient : gradient.view(shape));
  };
  for (std::size_t i = 0; i < outputs.size(); ++i)
    deliver(outputs[i].node(), outputs[i].output_index(), gradients[i]);

  const NoGrad no_grad;
  const WalkScope walk;
  const BackwardContext context{tasks};
  std::map<const Node*, Tensor> leaf_gradients;
  while (!pending.empty()) {
    auto last = std::prev(pending.end());
    Pending entry = std::move(last->second);
    pending.erase(last);
    if (entry.node->inputs.empty() && !entry.node->backward) {
      leaf_gradients[entry.node.get()] = entry.gradients[0];
      continue;
    }
    assert(entry.node->backward && "backward ran over this graph before");
    const BackwardFunction function = std::move(entry.node->backward);
    entry.node->backward = nullptr;
    const std::vector<Edge> inputs = std::move(entry.node->inputs);
    const std::vector<Tensor> input_gradients = function(entry.gradients, context);
    assert(input_gradients.size() == inputs.size());
    for (std::size_t i = 0; i < inputs.size(); ++i)
      deliver(inputs[i].node, inputs[i].output, input_gradients[i]);
  }
  std::vector<Tensor> result;
  for (const Tensor& leaf : leaves) result.push_back(leaf_gradients[leaf.node().get()]);
  return result;
}

Tensor mark(const Tensor& x, std::function<void()> passed, std::function<void()> weights_done) {
  if (!needs_record(std::span(&x, 1), false)) return x;
  Tensor y = x.detach();
  Tensor* outputs[] = {&y};
  record("mark", std::span(&x, 1), outputs,
         [passed = std::move(passed), weights_done = std::move(weights_done)](
             std::span<const Tensor> gradients, const BackwardContext& context) {
           if (passed) passed();
           if (weights_done) context.weight_task(weights_done);
           return std::vector<Tensor>{gradients[0].detach()};
         });
  return y;
}

Tensor checkpoint(const std::function<Tensor(const Tensor&)>& block, const Tensor& x) {
  if (!grad_enabled()) return block(x);
  Tensor y;
  {
    const NoGrad no_grad;
    y = block(x).detach();
  }
  Tensor* outputs[] = {&y};
  record("checkpoint", std::span(&x, 1), outputs,
         [block, saved = x.detach()](std::span<const Tensor> gradients, const BackwardContext& context) {
           const RecordScope on;
           const Tensor leaf = as_leaf(saved);
           const Tensor again = block(leaf);
           return backward(std::span(&again, 1), gradients, std::span(&leaf, 1), context.tasks);
         });
  return y;
}

}  // namespace tessera
