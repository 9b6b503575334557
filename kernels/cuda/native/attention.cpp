#include "kernels/cuda/native/attention.h"

#include <cassert>

#include "kernels/cuda/native/attention_planner.h"
#include "kernels/cuda/native/check.h"
#include "kernels/cuda/native/libraries.h"

namespace tessera::cuda {
namespace {

constexpr const char* takes =
    "bf16, heads of a multiple of 8 up to 256, a key length that is a multiple of 128, more than one query "
    "in backward";

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
  explicit State(Device& device)
      : plans(std::make_unique<Cudnn>(compute_capability(), native_stream(device.stream())),
              attention_workspace_budget()) {}

  AttentionPlanner plans;
};

Attention::Attention(Device& device) : state_(std::make_unique<State>(device)) {}
Attention::~Attention() = default;

std::size_t Attention::workspace_bytes(const AttentionProblem& problem) {
  return state_->plans.of(problem).plan->workspace_bytes();
}

void Attention::run(const AttentionProblem& problem, const AttentionTensors& tensors, Workspace workspace) {
  const AttentionPlanner::Planned& planned = state_->plans.of(problem);
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
  return attention_of(args.out.device().modelled()).workspace_bytes(problem_of(args.in));
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
  return attention_of(args.dq.device().modelled()).workspace_bytes(backward_problem<deterministic>(args));
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
