// Sums, conversions and scaling by 16-byte vectors.
#include "core/tensor/elementwise.h"

#include <algorithm>

#include "kernels/cuda/kernel.h"

namespace tessera::cuda {
namespace {

// Reads a and b, writes out: 6 n bytes in bf16. `out` may be a or b.
template <class T, int w>
__global__ void add(const T* a, const T* b, T* out, std::int64_t n) {
  const std::int64_t vectors = n / w;
  for (std::int64_t i = grid_index(); i < vectors; i += grid_stride()) {
    const Vector<T, w> x = load_vector<w>(a + i * w);
    const Vector<T, w> y = load_vector<w>(b + i * w);
    Vector<T, w> sum;
    for (int j = 0; j < w; ++j) sum.at[j] = T(to_float(x.at[j]) + to_float(y.at[j]));
    store_vector(out + i * w, sum);
  }
  for (std::int64_t i = vectors * w + grid_index(); i < n; i += grid_stride())
    out[i] = T(to_float(a[i]) + to_float(b[i]));
}

void run_add(const AddArgs& args, Workspace) {
  const std::int64_t n = args.out.numel();
  const bool wide = aligned(args.a.raw()) && aligned(args.b.raw()) && aligned(args.out.raw());
  visit(args.out.dtype(), [&](auto tag) {
    using T = decltype(tag);
    visit_width<T>(wide, [&](auto width) {
      constexpr int w = decltype(width)::value;
      launch(args.out.device().stream(), add<T, w>, blocks_for(n, w), args.a.data<T>(), args.b.data<T>(),
             args.out.data<T>(), n);
    });
  });
}

// Reads from, writes to: 6 n bytes between f32 and bf16.
template <class From, class To, int w>
__global__ void convert_values(const From* from, To* to, std::int64_t n) {
  const std::int64_t vectors = n / w;
  for (std::int64_t i = grid_index(); i < vectors; i += grid_stride()) {
    const Vector<From, w> x = load_vector<w>(from + i * w);
    Vector<To, w> y;
    for (int j = 0; j < w; ++j) y.at[j] = To(to_float(x.at[j]));
    store_vector(to + i * w, y);
  }
  for (std::int64_t i = vectors * w + grid_index(); i < n; i += grid_stride()) to[i] = To(to_float(from[i]));
}

template <class From, class To, int w>
void launch_convert(const ConvertArgs& args) {
  const std::int64_t n = args.to.numel();
  launch(args.to.device().stream(), convert_values<From, To, w>, blocks_for(n, w), args.from.data<From>(),
         args.to.data<To>(), n);
}

void run_convert(const ConvertArgs& args, Workspace) {
  const bool wide = aligned(args.from.raw()) && aligned(args.to.raw());
  visit(args.from.dtype(), [&](auto from_tag) {
    visit(args.to.dtype(), [&](auto to_tag) {
      using From = decltype(from_tag);
      using To = decltype(to_tag);
      if (wide)
        launch_convert<From, To, std::min(widest<From>, widest<To>)>(args);
      else
        launch_convert<From, To, 1>(args);
    });
  });
}

// Reads and writes x: 8 n bytes.
template <int w>
__global__ void scale_values(float* x, const float* factor, std::int64_t n) {
  const float f = factor[0];
  const std::int64_t vectors = n / w;
  for (std::int64_t i = grid_index(); i < vectors; i += grid_stride()) {
    Vector<float, w> value = load_vector<w>(x + i * w);
    for (int j = 0; j < w; ++j) value.at[j] *= f;
    store_vector(x + i * w, value);
  }
  for (std::int64_t i = vectors * w + grid_index(); i < n; i += grid_stride()) x[i] *= f;
}

void run_scale(const ScaleArgs& args, Workspace) {
  const std::int64_t n = args.x.numel();
  visit_width<float>(aligned(args.x.raw()), [&](auto width) {
    constexpr int w = decltype(width)::value;
    launch(args.x.device().stream(), scale_values<w>, blocks_for(n, w), args.x.data<float>(),
           args.factor.data<float>(), n);
  });
}

const Register<AddArgs> register_add(add_kernel(), {DeviceKind::cuda, "vector", run_add});
const Register<ConvertArgs> register_convert(convert_kernel(), {DeviceKind::cuda, "vector", run_convert});
const Register<ScaleArgs> register_scale(scale_kernel(), {DeviceKind::cuda, "vector", run_scale});

}  // namespace
}  // namespace tessera::cuda
