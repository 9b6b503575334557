#include "core/ops/split.h"

#include "core/autograd/tape.h"

namespace tessera {

Kernel<ConcatenateArgs>& concatenate_kernel() {
  static Kernel<ConcatenateArgs> slot("concatenate");
  return slot;
}

std::vector<Tensor> split(const Tensor& x, const std::vector<std::int64_t>& sizes) {
  std::vector<Tensor> parts;
  std::int64_t begin = 0;
  for (const std::int64_t size : sizes) {
    parts.push_back(x.narrow(-1, begin, size));
    begin += size;
  }
  assert(begin == x.size(-1) && x.is_contiguous());
  if (!needs_record(std::span(&x, 1), false)) return parts;
  std::vector<Tensor*> outputs;
  for (Tensor& part : parts) outputs.push_back(&part);
  record("split", std::span(&x, 1), outputs,
         [shape = x.shape(), dtype = x.dtype(), sizes, device = &x.device()](std::span<const Tensor> g,
                                                                             const BackwardContext&) {
           const Tensor out = Tensor::empty(shape, dtype, *device);
           concatenate_kernel()({{g.begin(), g.end()}, sizes, out}, *device);
           return std::vector<Tensor>{out};
         });
  return parts;
}

}  // namespace tessera
