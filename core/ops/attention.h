// Causal softmax attention with grouped KV heads, document masks and sliding windows, computed in blocks: no
// kernel holds a seq × seq matrix.
//
// Queries are the last Sq of Sk positions: query i stands at p = Sk − Sq + i and sees key j if
// max(doc_start[i], p − window + 1) ≤ j ≤ p. Query head h reads KV head ⌊h · nkv / nh⌋. Softmax in fp32.
#pragma once

#include "core/tensor/kernel.h"

namespace tessera {

struct AttentionInputs {
  Tensor q;          // [B, Sq, nh, dh]; last dimension contiguous, others with any stride; f32 or bf16
  Tensor k;          // [B, Sk, nkv, dh], Sk ≥ Sq
  Tensor v;          // [B, Sk, nkv, dh]
  Tensor doc_start;  // i32 [B, Sq], index of a key, or undefined; rows of any stride
  float scale = 1;
  std::int64_t window = 0;  // 0: none
};

struct AttentionForward {
  AttentionInputs in;
  Tensor out;  // contiguous [B, Sq, nh, dh]
  Tensor lse;  // f32 [B, nh, Sq]: log Σ exp of the scaled scores, for backward
};
Kernel<AttentionForward>& attention_forward_kernel();

struct AttentionBackward {
  AttentionInputs in;
  Tensor out, lse;    // of forward
  Tensor dout;        // contiguous [B, S, nh, dh]
  Tensor dq, dk, dv;  // contiguous, shapes of q, k, v
};
Kernel<AttentionBackward>& attention_backward_kernel();

// To [B, Sq, nh · dh].
Tensor attention(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& doc_start, float scale,
                 std::int64_t window = 0);

}  // namespace tessera
