#include "core/ops/router.h"

#include <algorithm>
#include <cmath>

#include "kernels/cpu/simd.h"

namespace tessera {
namespace {

constexpr std::int64_t grain = 16;  // tokens

void softmax(const float* logits, float* probs, std::int64_t n) {
  const float top = *std::max_element(logits, logits + n);
  float total = 0;
  for (std::int64_t i = 0; i < n; ++i) total += probs[i] = std::exp(logits[i] - top);
  for (std::int64_t i = 0; i < n; ++i) probs[i] /= total;
}

// The k largest by repeated search: k is small, and ties go to the lowest index.
void choose(const float* probs, const float* bias, std::int64_t experts, std::int64_t k,
            std::int32_t* indices) {
  for (std::int64_t j = 0; j < k; ++j) {
    std::int64_t best = -1;
    float best_score = 0;
    for (std::int64_t e = 0; e < experts; ++e) {
      if (std::find(indices, indices + j, static_cast<std::int32_t>(e)) != indices + j) continue;
      const float score = bias == nullptr ? probs[e] : probs[e] + bias[e];
      if (best < 0 || score > best_score) {
        best = e;
        best_score = score;
      }
    }
    indices[j] = static_cast<std::int32_t>(best);
  }
}

void run_forward(const RouteForward& args, Workspace) {
  const std::int64_t experts = args.logits.size(1);
  const std::int64_t k = args.indices.size(1);
  const float* bias = args.bias.defined() ? args.bias.data<float>() : nullptr;
  args.logits.device().threads().parallel_blocks(
      args.logits.size(0), grain, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t t = begin; t < end; ++t) {
          float* probs = args.probs.data<float>() + t * experts;
          std::int32_t* indices = args.indices.data<std::int32_t>() + t * k;
          float* gates = args.gates.data<float>() + t * k;
          softmax(args.logits.data<float>() + t * experts, probs, experts);
          if (args.choose) choose(probs, bias, experts, k, indices);
          float total = 0;
          for (std::int64_t j = 0; j < k; ++j) total += gates[j] = probs[indices[j]];
          for (std::int64_t j = 0; args.normalize && j < k; ++j) gates[j] /= total;
        }
      });
}

// dp of the chosen from the gates, of all from the balance term; then dlogits = p (dp − Σ p dp).
void run_backward(const RouteBackward& args, Workspace) {
  const std::int64_t experts = args.probs.size(1);
  const std::int64_t k = args.indices.size(1);
  args.probs.device().threads().parallel_blocks(
      args.probs.size(0), grain, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t t = begin; t < end; ++t) {
          const float* probs = args.probs.data<float>() + t * experts;
          const std::int32_t* indices = args.indices.data<std::int32_t>() + t * k;
          const float* dgates = args.dgates.data<float>() + t * k;
          float* d = args.dlogits.data<float>() + t * experts;
          if (args.balance.defined())
            std::copy_n(args.balance.data<float>() + (args.rows.first + t) / args.rows.length * experts,
                        experts, d);
          else
            std::fill_n(d, experts, 0.0F);
          float total = 0;
          float dot = 0;
          for (std::int64_t j = 0; j < k; ++j) {
            total += probs[indices[j]];
            dot += dgates[j] * probs[indices[j]];
          }
          for (std::int64_t j = 0; j < k; ++j)
            d[indices[j]] += args.normalize ? (dgates[j] - dot / total) / total : dgates[j];
          float mean = 0;
          for (std::int64_t e = 0; e < experts; ++e) mean += probs[e] * d[e];
          for (std::int64_t e = 0; e < experts; ++e) d[e] = probs[e] * (d[e] - mean);
        }
      });
}

template <class Count>
void count_choices(const CountChoicesArgs& args) {
  const std::int64_t k = args.indices.size(1);
  const std::int64_t experts = args.counts.size(1);
  for (std::int64_t t = 0; t < args.indices.size(0); ++t)
    for (std::int64_t j = 0; j < k; ++j)
      args.counts.data<Count>()[(args.rows.first + t) / args.rows.length * experts +
                                args.indices.data<std::int32_t>()[t * k + j]] += 1;
}

void run_count_choices(const CountChoicesArgs& args, Workspace) {
  if (args.counts.dtype() == DType::f64)
    count_choices<double>(args);
  else
    count_choices<float>(args);
}

void run_balance_sum(const BalanceSumArgs& args, Workspace) {
  const std::int64_t experts = args.probs.size(1);
  double total = 0;
  for (std::int64_t t = 0; t < args.probs.size(0); ++t) {
    const float* probs = args.probs.data<float>() + t * experts;
    const float* balance = args.balance.data<float>() + (args.rows.first + t) / args.rows.length * experts;
    for (std::int64_t e = 0; e < experts; ++e)
      total += static_cast<double>(probs[e]) * static_cast<double>(balance[e]);
  }
  *args.out.data<double>() += total;
}

const Register<RouteForward> register_forward(route_forward_kernel(),
                                              {DeviceKind::cpu, "plain", run_forward});
const Register<RouteBackward> register_backward(route_backward_kernel(),
                                                {DeviceKind::cpu, "plain", run_backward});
const Register<CountChoicesArgs> register_count(count_choices_kernel(),
                                                {DeviceKind::cpu, "plain", run_count_choices});
const Register<BalanceSumArgs> register_balance(balance_sum_kernel(),
                                                {DeviceKind::cpu, "plain", run_balance_sum});

}  // namespace
}  // namespace tessera
