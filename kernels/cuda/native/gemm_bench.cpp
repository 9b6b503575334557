#include "kernels/cuda/native/gemm_bench.h"

namespace tessera::cuda {

std::vector<GemmKey> layer_products(std::int64_t tokens, std::int64_t d, std::int64_t qkv, std::int64_t f) {
  struct Linear {
    std::int64_t in, out;
  };
  std::vector<GemmKey> products;
  for (const auto [in, out] : {Linear{d, qkv}, Linear{d, d}, Linear{d, 2 * f}, Linear{f, d}}) {
    products.push_back({.m = tokens, .n = out, .k = in, .transpose_b = true});
    products.push_back({.m = tokens, .n = in, .k = out});
    products.push_back(
        {.m = out, .n = in, .k = tokens, .transpose_a = true, .c = DType::f32, .accumulate = true});
  }
  products.push_back({.m = tokens, .n = qkv, .k = d, .transpose_b = true, .bias = true});
  return products;
}

std::vector<GemmRow> bench_gemm(Device& device, std::span<const GemmKey> products) {
  std::vector<GemmRow> rows;
  for (const GemmKey& key : products) {
    const Gemm::Comparison comparison = gemm_of(device).compare(key);
    const double tera =
        2e-12 * static_cast<double>(key.m) * static_cast<double>(key.n) * static_cast<double>(key.k);
    rows.push_back(
        {key.text(), tera / comparison.first_seconds, tera / comparison.tuned_seconds, comparison.algorithm});
  }
  return rows;
}

}  // namespace tessera::cuda
