#include "kernels/cuda/native/attention.h"

#include <array>
#include <cassert>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <map>

#include "core/base/error.h"
#include "core/base/log.h"
#include "kernels/cuda/native/attention_slices.h"
#include "kernels/cuda/native/check.h"
#include "kernels/cuda/native/cudnn.h"
#include "kernels/cuda/native/libraries.h"

namespace tessera::cuda {
namespace {

constexpr const char* takes =
    "bf16, heads of a multiple of 8 up to 256, a key length that is a multiple of 128, more than one query "
    "in "
    "backward";

std::size_t workspace_budget() {
  const char* wish = std::getenv("TESSERA_ATTENTION_WORKSPACE");
  std::size_t mebibytes = 4096;
  if (wish != nullptr) {
    const char* end = wish + std::strlen(wish);
    const auto [read, error] = std::from_chars(wish, end, mebibytes);
    if (error != std::errc() || read != end || mebibytes == 0)
      fail("TESSERA_ATTENTION_WORKSPACE={}: a number of MiB is wanted, as 8192", wish);
  }
  return mebibytes << 20;
}

// Of the smallest slice: a score matrix for each query head of a KV head.
std::size_t least_workspace(const AttentionProblem& n) {
  return static_cast<std::size_t>(2 * n.heads / n.kv_heads * n.queries * n.keys);
}

int compute_capability() {
  int device = 0;
  int major = 0;
  int minor = 0;
  check(cudaGetDevice(&device), "asking for the GPU");
  check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device),
        "asking for the GPU's kind");
  check(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device),
        "asking for the GPU's kind");
  return 10 * major + minor;
}

}  // namespace

struct Attention::State {
  struct Planned {
    AttentionSlices slices;
    std::unique_ptr<AttentionPlan> plan;  // of a slice
  };

  explicit State(Device& device)
      : cudnn(compute_capability(), native_stream(device.stream())), budget(workspace_budget()) {}
  const Planned& planned(const AttentionProblem& problem);

  Cudnn cudnn;
  std::size_t budget;
  bool said_any_order = false;
  std::map<AttentionProblem, Planned> plans;
};

const Attention::State::Planned& Attention::State::planned(const AttentionProblem& problem) {
  if (const auto found = plans.find(problem); found != plans.end()) return found->second;
  std::unique_ptr<AttentionPlan> plan;
  const auto slices = fit_slices(problem, budget, [&](const AttentionProblem& slice) {
    plan = cudnn.plan(slice);
    return plan->workspace_bytes();
  });
  if (!slices)
    fail(
        "{}: one KV head of one row needs {} MiB of workspace and more, {} are allowed; raise "
        "TESSERA_ATTENTION_WORKSPACE, or use `kernels: {{attention_backward: cudnn_any_order}}` if bits may "
        "differ "
        "from run to run",
        problem.text(), least_workspace(problem) >> 20, budget >> 20);
  if (!problem.deterministic && !said_any_order) {
    said_any_order = true;
    log::info(
        "attention_backward: cudnn_any_order sums in any order: results differ in the last bits from run "
        "to run");
  }
  return plans.emplace(problem, Planned{*slices, std::move(plan)}).first->second;
}

Attention::Attention(Device& device) : state_(std::make_unique<State>(device)) {}
Attention::~Attention() = default;

std::size_t Attention::workspace_bytes(const AttentionProblem& problem) {
  return state_->planned(problem).plan->workspace_bytes();
}

void Attention::run(const AttentionProblem& problem, const AttentionTensors& tensors, Workspace workspace) {
  const State::Planned& planned = state_->planned(problem);
  assert(workspace.bytes >= planned.plan->workspace_bytes());
  for_each_slice(problem, planned.slices, tensors,
                 [&](const AttentionTensors& slice) { planned.plan->run(slice, workspace.address); });
}

Attention& attention_of(Device& device) {
  std::shared_ptr<Attention>& attention = libraries(device).attention;
  if (attention == nullptr) attention = std::make_shared<Attention>(device);
  return *attention;
}

namespace {

AttentionStrides strides(const Tensor& x) {
  return {x.stride(0), x.stride(1), x.stride(2)};
}

bool aligned(const Tensor& x) {
  constexpr std::int64_t bytes = 16;
  const auto element = static_cast<std::int64_t>(bytes_per_element(x.dtype()));
  for (int dim = 0; dim < 3; ++dim)
    if (x.size(dim) > 1 && x.stride(dim) * element % bytes != 0) return false;
  return reinterpret_cast<std::uintptr_t>(x.raw()) % static_cast<std::uintptr_t>(bytes) == 0;
}

bool takes_inputs(const AttentionInputs& in) {
  return in.q.dtype() == DType::bf16 && in.q.size(3) % 8 == 0 && in.q.size(3) <= 256 &&
         in.k.size(1) % 128 == 0 && in.q.numel() > 0 && aligned(in.q) && aligned(in.k) && aligned(in.v);
}

AttentionProblem problem_of(const AttentionInputs& in) {
  AttentionProblem n;
  n.batch = in.q.size(0);
  n.queries = in.q.size(1);
  n.keys = in.k.size(1);
  n.heads = in.q.size(2);
  n.kv_heads = in.k.size(2);
  n.head_size = in.q.size(3);
  n.window = in.window < n.keys ? in.window : 0;  // one that leaves nothing out
  n.documents = in.doc_start.defined();
  if (n.documents) {
    n.document_row = in.doc_start.stride(0);
    n.document_position = in.doc_start.stride(1);
  }
  n.scale = in.scale;
  n.q = strides(in.q);
  n.k = strides(in.k);
  n.v = strides(in.v);
  n.out = {n.queries * n.heads * n.head_size, n.heads * n.head_size, n.head_size};
  n.gradients = {n.keys * n.kv_heads * n.head_size, n.kv_heads * n.head_size, n.head_size};
  return n;
}

AttentionTensors tensors_of(const AttentionInputs& in, const Tensor& out, const Tensor& lse) {
  AttentionTensors t;
  t.q = in.q.raw();
  t.k = in.k.raw();
  t.v = in.v.raw();
  if (in.doc_start.defined()) t.doc_start = in.doc_start.raw();
  t.out = out.raw();
  t.lse = lse.raw();
  return t;
}

bool can_run_forward(const AttentionForward& args) {
  return takes_inputs(args.in);
}
std::size_t forward_workspace(const AttentionForward& args) {
  return attention_of(args.out.device()).workspace_bytes(problem_of(args.in));
}
void run_forward(const AttentionForward& args, Workspace workspace) {
  attention_of(args.out.device())
      .run(problem_of(args.in), tensors_of(args.in, args.out, args.lse), workspace);
}

bool can_run_backward(const AttentionBackward& args) {
  return takes_inputs(args.in) && args.in.q.size(1) > 1;
}
template <bool deterministic>
AttentionProblem backward_problem(const AttentionBackward& args) {
  AttentionProblem n = problem_of(args.in);
  n.backward = true;
  n.deterministic = deterministic;
  return n;
}
template <bool deterministic>
std::size_t backward_workspace(const AttentionBackward& args) {
  return attention_of(args.dq.device()).workspace_bytes(backward_problem<deterministic>(args));
}
template <bool deterministic>
void run_backward(const AttentionBackward& args, Workspace workspace) {
  AttentionTensors t = tensors_of(args.in, args.out, args.lse);
  t.dout = args.dout.raw();
  t.dq = args.dq.raw();
  t.dk = args.dk.raw();
  t.dv = args.dv.raw();
  attention_of(args.dq.device()).run(backward_problem<deterministic>(args), t, workspace);
}

const Register<AttentionForward> register_forward(attention_forward_kernel(),
                                                  {.device = DeviceKind::cuda,
                                                   .name = "cudnn",
                                                   .run = run_forward,
                                                   .can_run = can_run_forward,
                                                   .workspace_bytes = forward_workspace,
                                                   .takes = takes});
const Register<AttentionBackward> register_backward(attention_backward_kernel(),
                                                    {.device = DeviceKind::cuda,
                                                     .name = "cudnn",
                                                     .run = run_backward<true>,
                                                     .can_run = can_run_backward,
                                                     .workspace_bytes = backward_workspace<true>,
                                                     .takes = takes});
const Register<AttentionBackward> register_any_order(attention_backward_kernel(),
                                                     {.device = DeviceKind::cuda,
                                                      .name = "cudnn_any_order",
                                                      .run = run_backward<false>,
                                                      .can_run = can_run_backward,
                                                      .workspace_bytes = backward_workspace<false>,
                                                      .deterministic = false,
                                                      .on_request = true,
                                                      .takes = takes});

}  // namespace
}  // namespace tessera::cuda
