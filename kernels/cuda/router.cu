#include "core/ops/router.h"
#include "kernels/cuda/kernel.h"

namespace tessera::cuda {
namespace {

// The better of two experts: the larger score, of equal ones the lower index; −1 is none.
struct Best {
  float score = 0;
  std::int32_t expert = -1;
};
__device__ Best better(Best a, Best b) {
  if (a.expert < 0) return b;
  if (b.expert < 0) return a;
  return b.score > a.score || (b.score == a.score && b.expert < a.expert) ? b : a;
}

// A warp a token; lane l has experts l, l + 32, … Reads logits, writes probabilities: 8 E bytes a token.
__device__ void softmax(const float* logits, float* probs, std::int64_t experts) {
  float top = -INFINITY;
  for (std::int64_t e = lane_index(); e < experts; e += warp_size) top = std::fmax(top, logits[e]);
  top = warp_max(top);
  float total = 0;
  for (std::int64_t e = lane_index(); e < experts; e += warp_size) total += std::exp(logits[e] - top);
  total = warp_sum(total);
  for (std::int64_t e = lane_index(); e < experts; e += warp_size)
    probs[e] = std::exp(logits[e] - top) / total;
}

// The k best in order, by a search for each: k is small.
__device__ void choose(const float* probs, const float* bias, std::int64_t experts, std::int64_t k,
                       std::int32_t* indices) {
  for (std::int64_t j = 0; j < k; ++j) {
    Best mine;
    for (std::int64_t e = lane_index(); e < experts; e += warp_size) {
      bool taken = false;
      for (std::int64_t i = 0; i < j; ++i) taken = taken || indices[i] == e;
      const float score = bias == nullptr ? probs[e] : probs[e] + bias[e];
      if (!taken) mine = better(mine, {score, static_cast<std::int32_t>(e)});
    }
    for (int mask = warp_size / 2; mask > 0; mask /= 2)
      mine = better(mine, {shuffle_xor(mine.score, mask), shuffle_xor(mine.expert, mask)});
    if (lane_index() == 0) indices[j] = mine.expert;
    sync_warp();  // the other lanes read it next
  }
}

__global__ void forward(const float* logits, const float* bias, float* probs, std::int32_t* indices,
                        float* gates, std::int64_t tokens, std::int64_t experts, std::int64_t k,
                        bool normalize, bool chooses) {
  const std::int64_t token = grid_index() / warp_size;
  if (token >= tokens) return;
  probs += token * experts;
  indices += token * k;
  softmax(logits + token * experts, probs, experts);
  sync_warp();
  if (chooses) choose(probs, bias, experts, k, indices);
  float total = 0;
  for (std::int64_t j = 0; j < k; ++j) total += probs[indices[j]];
  for (std::int64_t j = lane_index(); j < k; j += warp_size)
    gates[token * k + j] = normalize ? probs[indices[j]] / total : probs[indices[j]];
}

// Which row of [rows, E] a token belongs to.
__device__ std::int64_t row_of(TokenRows rows, std::int64_t token) {
  return (rows.first + token) / rows.length;
}

// dp of the chosen from the gates, of all from the balance term; then dlogits = p (dp − Σ p dp). A warp a
// token.
__global__ void backward(const float* probs, const std::int32_t* indices, const float* dgates,
                         const float* balance, float* dlogits, TokenRows rows, std::int64_t tokens,
                         std::int64_t experts, std::int64_t k, bool normalize) {
  const std::int64_t token = grid_index() / warp_size;
  if (token >= tokens) return;
  probs += token * experts;
  indices += token * k;
  dgates += token * k;
  dlogits += token * experts;
  if (balance != nullptr) balance += row_of(rows, token) * experts;
  float total = 0;
  float dot = 0;
  for (std::int64_t j = 0; j < k; ++j) {
    total += probs[indices[j]];
    dot += dgates[j] * probs[indices[j]];
  }
  float mean = 0;
  for (std::int64_t e = lane_index(); e < experts; e += warp_size) {
    float d = balance == nullptr ? 0.0F : balance[e];
    for (std::int64_t j = 0; j < k; ++j)
      if (indices[j] == e) d += normalize ? (dgates[j] - dot / total) / total : dgates[j];
    dlogits[e] = d;
    mean += probs[e] * d;
  }
  mean = warp_sum(mean);
  for (std::int64_t e = lane_index(); e < experts; e += warp_size)
    dlogits[e] = probs[e] * (dlogits[e] - mean);
}

// A block a row of `counts` and 32 experts; its warps share out the row's tokens.
template <class Count>
__global__ void count_choices(const std::int32_t* indices, Count* counts, TokenRows rows, std::int64_t tokens,
                              std::int64_t experts, std::int64_t k) {
  SharedArena shared;
  const Shared<std::int32_t> found = shared.array<std::int32_t>(thread_count());
  const std::int64_t columns = (experts + warp_size - 1) / warp_size;
  const std::int64_t row = block_index() / columns;
  const std::int64_t expert = block_index() % columns * warp_size + lane_index();
  const std::int64_t first = row * rows.length - rows.first;
  const std::int64_t begin = (first > 0 ? first : 0) * k;
  const std::int64_t end = (first + rows.length < tokens ? first + rows.length : tokens) * k;
  std::int32_t mine = 0;
  for (std::int64_t slot = begin + warp_index(); slot < end; slot += warp_count())
    mine += indices[slot] == expert ? 1 : 0;
  found[thread_index()] = mine;
  sync_threads();
  if (warp_index() != 0 || expert >= experts) return;
  std::int32_t total = 0;
  for (int warp = 0; warp < warp_count(); ++warp) {
    const std::int32_t part = found[warp * warp_size + lane_index()];
    total += part;
  }
  counts[row * experts + expert] += static_cast<Count>(total);
}

constexpr std::int64_t block_tokens = 64;

__global__ void balance_partials(const float* probs, const float* balance, double* partial, TokenRows rows,
                                 std::int64_t tokens, std::int64_t experts) {
  SharedArena shared;
  const Shared<double> scratch = shared.array<double>(warp_size);
  const std::int64_t begin = block_index() * block_tokens;
  const std::int64_t end = begin + block_tokens < tokens ? begin + block_tokens : tokens;
  double total = 0;
  for (std::int64_t i = begin * experts + thread_index(); i < end * experts; i += thread_count())
    total += static_cast<double>(probs[i]) *
             static_cast<double>(balance[row_of(rows, i / experts) * experts + i % experts]);
  total = block_sum(total, scratch);
  if (thread_index() == 0) partial[block_index()] = total;
}

__global__ void balance_total(const double* partial, double* out, std::int64_t n) {
  SharedArena shared;
  const Shared<double> scratch = shared.array<double>(warp_size);
  double total = 0;
  for (std::int64_t i = thread_index(); i < n; i += thread_count()) total += partial[i];
  total = block_sum(total, scratch);
  if (thread_index() == 0) *out += total;
}

const float* floats_or_null(const Tensor& x) {
  return x.defined() ? x.data<float>() : nullptr;
}

void run_forward(const RouteForward& args, Workspace) {
  const std::int64_t tokens = args.logits.size(0);
  launch(args.logits.device().stream(), forward, blocks_for(tokens * warp_size), args.logits.data<float>(),
         floats_or_null(args.bias), args.probs.data<float>(), args.indices.data<std::int32_t>(),
         args.gates.data<float>(), tokens, args.logits.size(1), args.indices.size(1), args.normalize,
         args.choose);
}

void run_backward(const RouteBackward& args, Workspace) {
  const std::int64_t tokens = args.probs.size(0);
  launch(args.probs.device().stream(), backward, blocks_for(tokens * warp_size), args.probs.data<float>(),
         args.indices.data<std::int32_t>(), args.dgates.data<float>(), floats_or_null(args.balance),
         args.dlogits.data<float>(), args.rows, tokens, args.probs.size(1), args.indices.size(1),
         args.normalize);
}

void run_count_choices(const CountChoicesArgs& args, Workspace) {
  const std::int64_t experts = args.counts.size(1);
  const auto count = [&](auto tag) {
    using Count = decltype(tag);
    launch(args.counts.device().stream(), count_choices<Count>,
           Grid{args.counts.size(0) * ((experts + warp_size - 1) / warp_size), 256,
                shared_size<std::int32_t>(256)},
           args.indices.data<std::int32_t>(), args.counts.data<Count>(), args.rows, args.indices.size(0),
           experts, args.indices.size(1));
  };
  if (args.counts.dtype() == DType::f64)
    count(double{});
  else
    count(float{});
}

std::int64_t balance_blocks(const BalanceSumArgs& args) {
  return (args.probs.size(0) + block_tokens - 1) / block_tokens;
}

std::size_t balance_workspace(const BalanceSumArgs& args) {
  return static_cast<std::size_t>(balance_blocks(args)) * sizeof(double);
}

void run_balance_sum(const BalanceSumArgs& args, Workspace workspace) {
  Stream& stream = args.out.device().stream();
  auto* partial = static_cast<double*>(workspace.address);
  const std::size_t scratch = shared_size<double>(warp_size);
  launch(stream, balance_partials, Grid{balance_blocks(args), 256, scratch}, args.probs.data<float>(),
         args.balance.data<float>(), partial, args.rows, args.probs.size(0), args.probs.size(1));
  launch(stream, balance_total, Grid{1, 256, scratch}, partial, args.out.data<double>(),
         balance_blocks(args));
}

const Register<RouteForward> register_forward(route_forward_kernel(),
                                              {DeviceKind::cuda, "warps", run_forward});
const Register<RouteBackward> register_backward(route_backward_kernel(),
                                                {DeviceKind::cuda, "warps", run_backward});
const Register<CountChoicesArgs> register_count(count_choices_kernel(),
                                                {DeviceKind::cuda, "blocks", run_count_choices});
const Register<BalanceSumArgs> register_balance(balance_sum_kernel(),
                                                {DeviceKind::cuda, "blocks", run_balance_sum, nullptr,
                                                 balance_workspace});

}  // namespace
}  // namespace tessera::cuda
