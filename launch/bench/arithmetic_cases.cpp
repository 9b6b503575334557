#include <fmt/core.h>

#include "core/ops/attention.h"
#include "core/ops/grouped_linear.h"
#include "core/ops/linear.h"
#include "launch/bench/tensors.h"

namespace tessera::bench {
namespace {

// One weight [out, in] and the three products it takes part in.
struct Linear {
  std::string name;
  std::int64_t tokens, in, out;
  DType result = DType::bf16;
};

Case product(const std::string& name, const MatmulArgs& args, Device& on) {
  const std::int64_t m = args.c.size(0), n = args.c.size(1), k = args.a.size(args.transpose_a ? 0 : 1);
  return {matmul_kernel().name(), fmt::format("{}, {} x {} x {}", name, m, n, k), 0,
          2.0 * static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(k),
          [args, device = &on] { matmul_kernel()(args, *device); }};
}

void add_linear(const Linear& l, std::vector<MakeCase>& cases) {
  const auto activations = [l](std::int64_t width, Device& on) {
    return normal({l.tokens, width}, DType::bf16, on);
  };
  const auto weight = [l](DType dtype, Device& on) { return normal({l.out, l.in}, dtype, on); };
  cases.emplace_back([=](Device& on) {
    const Tensor y = Tensor::empty({l.tokens, l.out}, l.result, on);
    return product(l.name + " forward",
                   {activations(l.in, on), weight(DType::bf16, on), y, false, true, false}, on);
  });
  cases.emplace_back([=](Device& on) {
    const Tensor dx = activations(l.in, on);
    return product(l.name + " input gradient",
                   {activations(l.out, on), weight(DType::bf16, on), dx, false, false, false}, on);
  });
  cases.emplace_back([=](Device& on) {
    const Tensor dw = weight(DType::f32, on);
    return product(l.name + " weight gradient",
                   {activations(l.out, on), activations(l.in, on), dw, true, false, true}, on);
  });
}

void add_products(const ModelSizes& m, std::int64_t loss_tokens, std::vector<MakeCase>& cases) {
  add_linear({m.name + " q, k, v", m.tokens, m.hidden, m.qkv()}, cases);
  add_linear({m.name + " attention output", m.tokens, m.heads * m.head_size, m.hidden}, cases);
  add_linear({m.name + " gate and up", m.tokens, m.hidden, 2 * m.ffn}, cases);
  add_linear({m.name + " down", m.tokens, m.ffn, m.hidden}, cases);
  add_linear({m.name + " head", loss_tokens, m.hidden, m.vocab, DType::f32}, cases);
}

AttentionInputs attention_inputs(const AttentionSizes& a, Device& on) {
  const auto heads = [&](std::int64_t count) {
    return normal({a.batch, a.length, count, a.head_size}, DType::bf16, on);
  };
  AttentionInputs in{heads(a.heads), heads(a.kv_heads), heads(a.kv_heads), {}, 0.1F, a.window};
  if (a.document > 0) {
    std::vector<std::int32_t> starts;
    for (std::int64_t i = 0; i < a.batch * a.length; ++i)
      starts.push_back(static_cast<std::int32_t>(i % a.length / a.document * a.document));
    in.doc_start = Tensor::from_host(starts.data(), {a.batch, a.length}, DType::i32, on);
  }
  return in;
}

std::string attention_shape(const AttentionSizes& a) {
  std::string text =
      fmt::format("{} x {}, heads {}/{} of {}", a.batch, a.length, a.heads, a.kv_heads, a.head_size);
  if (a.window > 0) text += fmt::format(", window {}", a.window);
  if (a.document > 0) text += fmt::format(", documents of {}", a.document);
  return text;
}

// Of forward; backward has five products for its two.
double attention_flop(const AttentionSizes& a) {
  const auto length = static_cast<double>(a.length);
  double pairs = length * length / 2;  // of a query and a key that it sees
  if (a.window > 0) pairs = static_cast<double>(a.window) * (length - static_cast<double>(a.window) / 2);
  if (a.document > 0) pairs = length * static_cast<double>(a.document) / 2;
  return 4 * static_cast<double>(a.batch * a.heads * a.head_size) * pairs;
}

void add_attention(const AttentionSizes& a, std::vector<MakeCase>& cases) {
  const auto forward = [a](Device& on) {
    const AttentionInputs in = attention_inputs(a, on);
    return AttentionForward{in, Tensor::empty(in.q.shape(), DType::bf16, on),
                            Tensor::empty({a.batch, a.heads, a.length}, DType::f32, on)};
  };
  cases.emplace_back([=](Device& on) {
    return Case{attention_forward_kernel().name(), attention_shape(a), 0, attention_flop(a),
                [args = forward(on), device = &on] { attention_forward_kernel()(args, *device); }};
  });
  cases.emplace_back([=](Device& on) {
    const AttentionForward ahead = forward(on);
    attention_forward_kernel()(ahead, on);
    const auto like = [&](const Tensor& x) { return Tensor::empty(x.shape(), DType::bf16, on); };
    const AttentionInputs& in = ahead.in;
    const Tensor dout = normal(in.q.shape(), DType::bf16, on);
    const AttentionBackward args{in, ahead.out, ahead.lse, dout, like(in.q), like(in.k), like(in.v)};
    return Case{attention_backward_kernel().name(), attention_shape(a), 0, 2.5 * attention_flop(a),
                [args, device = &on] { attention_backward_kernel()(args, *device); }};
  });
}

// All experts get as many rows.
Tensor even_offsets(std::int64_t groups, std::int64_t rows, Device& on) {
  std::vector<std::int32_t> offsets;
  for (std::int64_t g = 0; g <= groups; ++g) offsets.push_back(static_cast<std::int32_t>(g * rows / groups));
  return Tensor::from_host(offsets.data(), {groups + 1}, DType::i32, on);
}

void add_grouped(const Sizes& sizes, std::vector<MakeCase>& cases) {
  const ModelSizes& m = sizes.models.front();
  const std::int64_t groups = sizes.experts.experts;
  const std::int64_t rows = m.tokens * sizes.experts.chosen;
  const std::int64_t k = m.hidden;
  const std::int64_t n = 2 * sizes.experts.width;
  const double flop = 2.0 * static_cast<double>(rows) * static_cast<double>(n) * static_cast<double>(k);
  const auto add = [&](GroupedProduct kind, const char* what) {
    const std::string shape = fmt::format("{} experts {}, {} x {} x {}", groups, what, rows, n, k);
    cases.emplace_back([=](Device& on) {
      const Tensor x = normal({rows, k}, DType::bf16, on), y = normal({rows, n}, DType::bf16, on);
      const bool gradient = kind == GroupedProduct::weight_gradient;
      const Tensor w = normal({groups * n, k}, gradient ? DType::f32 : DType::bf16, on);
      GroupedMatmulArgs args{kind, x, w, y, even_offsets(groups, rows, on), gradient};
      if (kind == GroupedProduct::input_gradient) std::swap(args.a, args.c);
      if (gradient) args = {kind, y, x, w, args.offsets, true};
      return Case{grouped_matmul_kernel().name(), shape, 0, flop,
                  [args, device = &on] { grouped_matmul_kernel()(args, *device); }};
    });
  };
  add(GroupedProduct::output, "forward");
  add(GroupedProduct::input_gradient, "input gradient");
  add(GroupedProduct::weight_gradient, "weight gradient");
}

}  // namespace

std::vector<MakeCase> arithmetic_cases(const Sizes& sizes) {
  std::vector<MakeCase> cases;
  for (const ModelSizes& model : sizes.models) add_products(model, sizes.loss_tokens, cases);
  for (const AttentionSizes& one : sizes.attention) add_attention(one, cases);
  add_grouped(sizes, cases);
  return cases;
}

Sizes full_sizes() {
  Sizes sizes;
  sizes.models = {{"1.2B", 16384, 4096, 2048, 16, 4, 128, 8192, 128256},
                  {"8B", 8192, 8192, 4096, 32, 8, 128, 14336, 128256}};
  // First those of the two models, then lengths, head sizes and masks.
  sizes.attention = {{4, 4096, 16, 4, 128},       {1, 8192, 32, 8, 128},         {8, 2048, 16, 4, 128},
                     {1, 16384, 16, 4, 128},      {4, 4096, 32, 8, 64},          {4, 4096, 8, 2, 256},
                     {4, 4096, 16, 4, 128, 1024}, {4, 4096, 16, 4, 128, 0, 1024}};
  sizes.experts = {128, 8, 768};
  sizes.loss_tokens = 2048;
  sizes.copy_bytes = std::size_t{1} << 29;
  sizes.cold_bytes = std::size_t{1} << 28;
  return sizes;
}

Sizes small_sizes() {
  Sizes sizes;
  sizes.models = {{"small", 64, 32, 64, 4, 2, 16, 96, 256}};
  sizes.attention = {{2, 32, 4, 2, 16}, {2, 32, 4, 2, 16, 8}, {2, 32, 4, 2, 16, 0, 16}};
  sizes.experts = {8, 2, 32};
  sizes.loss_tokens = 32;
  sizes.copy_bytes = std::size_t{1} << 16;
  sizes.cold_bytes = 0;
  return sizes;
}

}  // namespace tessera::bench
