// SwiGLU: a block per row, by 16-byte vectors.
#include "core/ops/swiglu.h"

#include "kernels/cuda/kernel.h"

namespace tessera::cuda {
namespace {

__device__ float sigmoid(float x) {
  return 1.0F / (1.0F + std::exp(-x));
}

// Reads x, writes y: 6 n bytes per row in bf16.
template <class T, int w>
__global__ void forward(const T* x, T* y, std::int64_t n) {
  const T* gate = x + block_index() * 2 * n;
  const T* up = gate + n;
  T* to = y + block_index() * n;
  for (std::int64_t i = std::int64_t{thread_index()} * w; i < n; i += std::int64_t{thread_count()} * w) {
    const Vector<T, w> g = load_vector<w>(gate + i);
    const Vector<T, w> u = load_vector<w>(up + i);
    Vector<T, w> out;
    for (int j = 0; j < w; ++j) {
      const float value = to_float(g.at[j]);
      out.at[j] = T(value * sigmoid(value) * to_float(u.at[j]));
    }
    store_vector(to + i, out);
  }
}

// Reads x and dy, writes dx: 10 n bytes per row in bf16. d silu(g)/dg = σ(g) (1 + g (1 − σ(g))).
template <class T, int w>
__global__ void backward(const T* x, const T* dy, T* dx, std::int64_t n) {
  const T* gate = x + block_index() * 2 * n;
  const T* up = gate + n;
  const T* from = dy + block_index() * n;
  T* dgate = dx + block_index() * 2 * n;
  T* dup = dgate + n;
  for (std::int64_t i = std::int64_t{thread_index()} * w; i < n; i += std::int64_t{thread_count()} * w) {
    const Vector<T, w> gates = load_vector<w>(gate + i);
    const Vector<T, w> ups = load_vector<w>(up + i);
    const Vector<T, w> dys = load_vector<w>(from + i);
    Vector<T, w> to_gate;
    Vector<T, w> to_up;
    for (int j = 0; j < w; ++j) {
      const float g = to_float(gates.at[j]);
      const float sigma = sigmoid(g);
      const float d = to_float(dys.at[j]);
      to_up.at[j] = T(d * g * sigma);
      to_gate.at[j] = T(d * to_float(ups.at[j]) * sigma * (1.0F + g * (1.0F - sigma)));
    }
    store_vector(dgate + i, to_gate);
    store_vector(dup + i, to_up);
  }
}

void run_forward(const SwigluForward& args, Workspace) {
  const std::int64_t n = args.y.size(1);
  visit(args.x.dtype(), [&](auto tag) {
    using T = decltype(tag);
    const bool wide = aligned(args.x.raw()) && aligned(args.y.raw()) && n % widest<T> == 0;
    visit_width<T>(wide, [&](auto width) {
      launch(args.x.device().stream(), forward<T, decltype(width)::value>, {args.x.size(0), 256, 0},
             args.x.data<T>(), args.y.data<T>(), n);
    });
  });
}

void run_backward(const SwigluBackward& args, Workspace) {
  const std::int64_t n = args.dy.size(1);
  visit(args.x.dtype(), [&](auto tag) {
    using T = decltype(tag);
    const bool wide =
        aligned(args.x.raw()) && aligned(args.dy.raw()) && aligned(args.dx.raw()) && n % widest<T> == 0;
    visit_width<T>(wide, [&](auto width) {
      launch(args.x.device().stream(), backward<T, decltype(width)::value>, {args.x.size(0), 256, 0},
             args.x.data<T>(), args.dy.data<T>(), args.dx.data<T>(), n);
    });
  });
}

const Register<SwigluForward> register_forward(swiglu_forward_kernel(),
                                               {DeviceKind::cuda, "vector", run_forward});
const Register<SwigluBackward> register_backward(swiglu_backward_kernel(),
                                                 {DeviceKind::cuda, "vector", run_backward});

}  // namespace
}  // namespace tessera::cuda
