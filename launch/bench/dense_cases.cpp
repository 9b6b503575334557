#include <set>

#include "core/ops/embedding.h"
#include "core/ops/linear.h"
#include "core/ops/linear_cross_entropy.h"
#include "core/ops/rms_norm.h"
#include "core/ops/rope.h"
#include "core/ops/split.h"
#include "core/ops/swiglu.h"
#include "core/optim/adamw.h"
#include "core/tensor/elementwise.h"
#include "core/tensor/reductions.h"
#include "launch/bench/tensors.h"

namespace tessera::bench {
namespace {

using Cases = std::vector<MakeCase>;

// The largest matrix of a layer, in fp32 as gradients, moments and masters are.
Tensor matrix(const ModelSizes& m, Device& on) {
  return normal({2 * m.ffn, m.hidden}, DType::f32, on);
}
Tensor residual(const ModelSizes& m, Device& on) {
  return normal({m.tokens, m.hidden}, DType::bf16, on);
}
Tensor projected(const ModelSizes& m, Device& on) {
  return normal({m.tokens, m.qkv()}, DType::bf16, on);
}

void add_elementwise(const ModelSizes& m, Cases& cases) {
  cases.emplace_back([m](Device& on) {
    const Tensor a = residual(m, on), b = residual(m, on), out = residual(m, on);
    return memory_case(add_kernel(), {a, b, out}, a, bytes_of({a, b, out}));
  });
  cases.emplace_back([m](Device& on) {
    const Tensor from = matrix(m, on), to = Tensor::empty(from.shape(), DType::bf16, on);
    return memory_case(convert_kernel(), {from, to}, from, bytes_of({from, to}));
  });
  cases.emplace_back([m](Device& on) {
    const Tensor x = matrix(m, on);
    return memory_case(scale_kernel(), {x, constant(1, {1}, DType::f32, on)}, x, 2 * bytes_of({x}));
  });
  cases.emplace_back([m](Device& on) {
    const Tensor q = projected(m, on).narrow(1, 0, m.heads * m.head_size);
    const Tensor to = Tensor::empty(q.shape(), DType::bf16, on);
    return memory_case(strided_copy_kernel(), {q, to, false}, q, bytes_of({q, to}));
  });
  cases.emplace_back([m](Device& on) {
    const std::vector<std::int64_t> widths{m.heads * m.head_size, m.kv_heads * m.head_size,
                                           m.kv_heads * m.head_size};
    std::vector<Tensor> parts;
    for (const std::int64_t width : widths) parts.push_back(normal({m.tokens, width}, DType::bf16, on));
    const Tensor out = projected(m, on);
    return memory_case(concatenate_kernel(), {parts, widths, out}, out, 2 * bytes_of({out}));
  });
  cases.emplace_back([m](Device& on) {
    const Tensor x = projected(m, on), bias = normal({m.qkv()}, DType::bf16, on);
    return memory_case(add_bias_kernel(), {x, bias}, x, 2 * bytes_of({x}) + bytes_of({bias}));
  });
  cases.emplace_back([m](Device& on) {
    const Tensor x = projected(m, on), out = constant(0, {m.qkv()}, DType::f32, on);
    return memory_case(sum_rows_kernel(), {x, out, false}, x, bytes_of({x, out}));
  });
}

void add_norms_and_activations(const ModelSizes& m, Cases& cases) {
  const Shape rows{m.tokens, 1, m.hidden};
  cases.emplace_back([=](Device& on) {
    const Tensor x = normal(rows, DType::bf16, on), y = normal(rows, DType::bf16, on);
    const Tensor weight = normal({m.hidden}, DType::bf16, on);
    const Tensor inverse = constant(1, {m.tokens}, DType::f32, on);
    return memory_case(rms_norm_forward_kernel(), {x, weight, y, inverse, 1e-5F}, x,
                       bytes_of({x, weight, y, inverse}));
  });
  cases.emplace_back([=](Device& on) {
    const Tensor x = normal(rows, DType::bf16, on), dy = normal(rows, DType::bf16, on);
    const Tensor dx = normal(rows, DType::bf16, on), weight = normal({m.hidden}, DType::bf16, on);
    const Tensor inverse = constant(1, {m.tokens}, DType::f32, on);
    const Tensor dweight = constant(0, {m.hidden}, DType::f32, on);
    return memory_case(rms_norm_backward_kernel(), {x, weight, inverse, dy, dx, dweight, false}, x,
                       bytes_of({x, weight, inverse, dy, dx, dweight}));
  });
  cases.emplace_back([m](Device& on) {
    const Shape heads{m.tokens, m.heads, m.head_size};
    const Tensor x = normal(heads, DType::bf16, on), y = normal(heads, DType::bf16, on);
    const Tensor table = normal({m.seq_len, m.head_size}, DType::f32, on);
    const Tensor positions = counting_ids(m.tokens, m.seq_len, on);
    return memory_case(rope_kernel(), {x, table, positions, y, false}, x, bytes_of({x, y, table, positions}));
  });
  cases.emplace_back([m](Device& on) {
    const Tensor x = normal({m.tokens, 2 * m.ffn}, DType::bf16, on);
    const Tensor y = normal({m.tokens, m.ffn}, DType::bf16, on);
    return memory_case(swiglu_forward_kernel(), {x, y}, x, bytes_of({x, y}));
  });
  cases.emplace_back([m](Device& on) {
    const Tensor x = normal({m.tokens, 2 * m.ffn}, DType::bf16, on);
    const Tensor dy = normal({m.tokens, m.ffn}, DType::bf16, on);
    const Tensor dx = Tensor::empty(x.shape(), DType::bf16, on);
    return memory_case(swiglu_backward_kernel(), {x, dy, dx}, x, bytes_of({x, dy, dx}));
  });
}

void add_embedding(const ModelSizes& m, Cases& cases) {
  cases.emplace_back([m](Device& on) {
    const Tensor tokens = skewed_ids(m.tokens, m.vocab, on), out = residual(m, on);
    const Tensor weight = normal({m.vocab, m.hidden}, DType::bf16, on);
    return memory_case(embedding_forward_kernel(), {tokens, weight, out, 0}, out,
                       bytes_of({tokens}) + 2 * bytes_of({out}));
  });
  cases.emplace_back([m](Device& on) {
    const Tensor tokens = skewed_ids(m.tokens, m.vocab, on), dout = residual(m, on);
    const Tensor dweight = normal({m.vocab, m.hidden}, DType::f32, on);
    std::vector<std::int32_t> ids(static_cast<std::size_t>(m.tokens));
    tokens.to_host(ids.data());
    const auto rows = static_cast<double>(std::set<std::int32_t>(ids.begin(), ids.end()).size());
    return memory_case(embedding_backward_kernel(), {tokens, dout, dweight, true, 0}, dout,
                       bytes_of({tokens, dout}) + 8 * rows * static_cast<double>(m.hidden));
  });
}

void add_loss(const ModelSizes& m, std::int64_t n, Cases& cases) {
  cases.emplace_back([=](Device& on) {
    const Tensor logits = normal({n, m.vocab}, DType::f32, on), targets = skewed_ids(n, m.vocab, on);
    const Tensor lse = constant(0, {n}, DType::f32, on), loss = constant(0, {n}, DType::f32, on);
    return memory_case(cross_entropy_forward_kernel(), {logits, targets, lse, loss}, logits,
                       bytes_of({logits, targets, lse, loss}));
  });
  cases.emplace_back([=](Device& on) {
    const Tensor logits = normal({n, m.vocab}, DType::f32, on), targets = skewed_ids(n, m.vocab, on);
    const Tensor lse = constant(12, {n}, DType::f32, on);
    const Tensor dlogits = Tensor::empty(logits.shape(), DType::bf16, on);
    return memory_case(
        cross_entropy_backward_kernel(),
        {logits, targets, lse, constant(1, {1}, DType::f32, on), constant(1, {1}, DType::f64, on), dlogits},
        logits, bytes_of({logits, targets, lse, dlogits}));
  });
  cases.emplace_back([m](Device& on) {
    const Tensor loss = normal({m.tokens}, DType::f32, on), out = constant(0, {1}, DType::f64, on);
    return memory_case(sum_loss_kernel(), {loss, constant(1, {1}, DType::f32, on), out}, loss,
                       bytes_of({loss, out}));
  });
  cases.emplace_back([m](Device& on) {
    const Tensor targets = skewed_ids(m.tokens, m.vocab, on), out = skewed_ids(m.tokens, m.vocab, on);
    return memory_case(shard_targets_kernel(), {targets, out, m.vocab / 2, m.vocab / 2}, targets,
                       bytes_of({targets, out}));
  });
  cases.emplace_back([m](Device& on) {
    const Tensor parts = normal({2, m.tokens}, DType::f32, on);
    const Tensor targets = skewed_ids(m.tokens, m.vocab / 2, on);
    const Tensor lse = constant(0, {m.tokens}, DType::f32, on);
    const Tensor loss = constant(0, {m.tokens}, DType::f32, on);
    return memory_case(combine_lse_kernel(), {parts, targets, lse, loss, 0}, parts,
                       bytes_of({parts, targets, lse, loss, loss}));
  });
}

void add_update(const ModelSizes& m, Cases& cases) {
  cases.emplace_back([m](Device& on) {
    const Tensor p = matrix(m, on), g = matrix(m, on), first = matrix(m, on);
    const Tensor second = constant(1, p.shape(), DType::f32, on);
    const Tensor scalars = constant(0.5, {4}, DType::f32, on);
    return memory_case(adamw_kernel(), {p, g, first, second, scalars, 0.9F, 0.95F, 1e-8F, 0.1F}, p,
                       7 * bytes_of({p}));
  });
  cases.emplace_back([](Device& on) {
    const auto number = [&](std::int64_t n) { return constant(0.5, {n}, DType::f64, on); };
    const UpdateScalarsArgs args{number(1), number(1), number(2), number(1), constant(0, {4}, DType::f32, on),
                                 number(3), 0.9,       0.95};
    return memory_case(
        update_scalars_kernel(), args, args.scalars,
        bytes_of({args.loss, args.squares, args.rates, args.steps, args.steps, args.scalars, args.report}));
  });
  cases.emplace_back([m](Device& on) {
    const Tensor a = matrix(m, on), b = matrix(m, on), out = matrix(m, on);
    return memory_case(tree_sum_kernel(), {{a, b}, out}, a, bytes_of({a, b, out}));
  });
  cases.emplace_back([m](Device& on) {
    const Tensor x = matrix(m, on), out = constant(0, {(2 * m.ffn + 15) / 16}, DType::f64, on);
    return memory_case(square_sums_kernel(), {x, 16 * m.hidden, out}, x, bytes_of({x, out}));
  });
  cases.emplace_back([m](Device& on) {
    const std::int64_t n = 2 * m.ffn / 16;
    const Tensor x = constant(1, {n}, DType::f64, on), out = constant(0, {(n + 1) / 2}, DType::f64, on);
    return memory_case(sum_runs_kernel(), {x, {}, 2, out}, x, bytes_of({x, out}));
  });
}

}  // namespace

std::vector<MakeCase> dense_cases(const Sizes& sizes) {
  const ModelSizes& model = sizes.models.front();
  Cases cases;
  add_elementwise(model, cases);
  add_norms_and_activations(model, cases);
  add_embedding(model, cases);
  add_loss(model, sizes.loss_tokens, cases);
  add_update(model, cases);
  return cases;
}

}  // namespace tessera::bench
