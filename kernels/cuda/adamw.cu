// AdamW by 16-byte vectors.
#include "core/optim/adamw.h"

#include "kernels/cuda/kernel.h"

namespace tessera::cuda {
namespace {

struct Factors {
  float beta1, beta2, eps, decay;
};

// Reads p, g, m and v, writes p, m and v: 28 bytes an element.
template <int w>
__global__ void update(float* p, const float* g, float* m, float* v, const float* scalars, Factors f,
                       std::int64_t n) {
  const float lr = scalars[0];
  const float clip = scalars[1];
  if (clip != clip) return;  // NaN
  const float keep = 1.0F - lr * f.decay;
  const float rate = lr / scalars[2];
  const float inverse2 = 1.0F / scalars[3];
  const auto step = [&](float& weight, float gradient, float& first, float& second) {
    gradient *= clip;
    first = f.beta1 * first + (1.0F - f.beta1) * gradient;
    second = f.beta2 * second + (1.0F - f.beta2) * gradient * gradient;
    weight = weight * keep - rate * first / (std::sqrt(second) * inverse2 + f.eps);
  };
  const std::int64_t vectors = n / w;
  for (std::int64_t i = grid_index(); i < vectors; i += grid_stride()) {
    Vector<float, w> weight = load_vector<w>(static_cast<const float*>(p + i * w));
    const Vector<float, w> gradient = load_vector<w>(g + i * w);
    Vector<float, w> first = load_vector<w>(static_cast<const float*>(m + i * w));
    Vector<float, w> second = load_vector<w>(static_cast<const float*>(v + i * w));
    for (int j = 0; j < w; ++j) step(weight.at[j], gradient.at[j], first.at[j], second.at[j]);
    store_vector(p + i * w, weight);
    store_vector(m + i * w, first);
    store_vector(v + i * w, second);
  }
  for (std::int64_t i = vectors * w + grid_index(); i < n; i += grid_stride()) {
    float weight = p[i];
    float first = m[i];
    float second = v[i];
    step(weight, g[i], first, second);
    p[i] = weight;
    m[i] = first;
    v[i] = second;
  }
}

void run_adamw(const AdamWArgs& args, Workspace) {
  const std::int64_t n = args.p.numel();
  const bool wide =
      aligned(args.p.raw()) && aligned(args.g.raw()) && aligned(args.m.raw()) && aligned(args.v.raw());
  visit_width<float>(wide, [&](auto width) {
    constexpr int w = decltype(width)::value;
    launch(args.p.device().stream(), update<w>, blocks_for(n, w), args.p.data<float>(), args.g.data<float>(),
           args.m.data<float>(), args.v.data<float>(), args.scalars.data<float>(),
           Factors{args.beta1, args.beta2, args.eps, args.decay}, n);
  });
}

// One thread: a few numbers.
__global__ void decide(const double* loss, const double* squares, const double* rates, const double* over,
                       std::int64_t over_count, double* steps, float* scalars, double* report, double beta1,
                       double beta2) {
  if (grid_index() != 0) return;
  const double norm = std::sqrt(squares[0]);
  bool fine = std::isfinite(loss[0]) && std::isfinite(norm);
  for (std::int64_t i = 0; i < over_count; ++i) fine = fine && !(over[i] > 0);
  const double count = fine ? steps[0] + 1 : steps[0];
  steps[0] = count;
  const double most = rates[1];
  const double clip = most > 0 && most < norm + 1e-6 ? most / (norm + 1e-6) : 1.0;
  scalars[0] = static_cast<float>(rates[0]);
  scalars[1] = fine ? static_cast<float>(clip) : NAN;
  scalars[2] = static_cast<float>(1 - std::pow(beta1, count));
  scalars[3] = static_cast<float>(std::sqrt(1 - std::pow(beta2, count)));
  report[0] = loss[0];
  report[1] = norm;
  report[2] = fine ? 1 : 0;
}

void run_update_scalars(const UpdateScalarsArgs& args, Workspace) {
  const double* over = args.over.defined() ? args.over.data<double>() : nullptr;
  launch(args.steps.device().stream(), decide, Grid{1, 32}, args.loss.data<double>(),
         args.squares.data<double>(), args.rates.data<double>(), over,
         over == nullptr ? 0 : args.over.numel(), args.steps.data<double>(), args.scalars.data<float>(),
         args.report.data<double>(), args.beta1, args.beta2);
}

const Register<AdamWArgs> register_adamw(adamw_kernel(), {DeviceKind::cuda, "vector", run_adamw});
const Register<UpdateScalarsArgs> register_update_scalars(update_scalars_kernel(),
                                                          {DeviceKind::cuda, "plain", run_update_scalars});

}  // namespace
}  // namespace tessera::cuda
