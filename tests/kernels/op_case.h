// One declarative case per op: what goes in, the op, and the same mathematics in double. The harness derives
// every check from it.
//
// Checks of a case, per dtype: outputs against the reference; gradients of inputs and parameters against
// finite differences of the reference under random cotangents; a second backward that accumulates; the same
// bits on all devices of a backend, which on the CPU are of 1 and of 3 threads; no write outside any buffer
// and no read of memory never written (GuardedDevice); the meta device gives the same shapes and, on the CPU,
// the same peak of memory. Tensors are read and written by way of the host only.
#pragma once

#include <functional>
#include <memory>
#include <ostream>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "core/autograd/parameter.h"
#include "core/tensor/device.h"
#include "core/tensor/tensor.h"

namespace tessera::testing_ops {

using Array = std::vector<double>;
using Arrays = std::vector<Array>;
// What cases' functions take and give.
using Tensors = std::vector<Tensor>;
using Inputs = std::span<const Tensor>;
using Weights = std::span<Parameter* const>;
using Values = std::span<const Array>;

struct CaseInput {
  std::string name;
  Shape shape;
  bool strided = false;  // a view of a wider buffer: heads (or columns) apart from their neighbours
  bool gradient = true;  // on the tape
  double scale = 1;      // values are offset + scale × normal
  double offset = 0;
  bool always_f32 = false;  // whatever the case's dtype
};

struct OpCase {
  std::string name;
  std::vector<CaseInput> inputs;
  std::vector<CaseInput> parameters;
  std::function<std::vector<Tensor>(std::span<const Tensor> x, std::span<Parameter* const> w)> op;
  // Inputs then parameters, to outputs.
  std::function<Arrays(std::span<const Array>)> reference;
  double terms = 1;      // of the longest sum, for the tolerance of fp32
  double roundings = 2;  // to bf16 between the inputs and a result
  bool bf16 = true;      // false: defined for fp32 only
  bool differentiable = true;
  bool unit_cotangents = false;  // 1 instead of random ones
  int samples = 64;              // elements of each tensor whose derivative is checked
};

// GoogleTest shows cases by name.
inline void PrintTo(const OpCase& test, std::ostream* out) {
  *out << test.name;
}

// Host memory with 4 KiB of guard bytes around each block, which is filled with NaN when it is handed out.
class GuardedDevice : public Device {
 public:
  explicit GuardedDevice(int threads) : Device(DeviceKind::cpu, {0, threads}) {}
  Stream& stream() override { return stream_; }
  void copy(void* to, const void* from, std::size_t bytes) override;
  void zero(void* address, std::size_t bytes) override;
  // Blocks whose guard bytes had changed when they were released.
  int violations() const { return violations_; }

 protected:
  void* do_allocate(std::size_t bytes) override;
  void do_release(void* address, std::size_t bytes) noexcept override;

 private:
  EagerStream stream_;
  int violations_ = 0;
};

// Where cases run.
struct Backend {
  int devices = 1;  // that must give the same bits
  std::function<std::unique_ptr<Device>(int index)> make;
  // Writes outside buffers that the device has seen; absent: it does not look.
  std::function<int(const Device&)> violations;
  bool memory_as_meta = false;  // uses as much as a meta that stands for it counts
};
Backend cpu_backend();

// Every check of the case in `dtype`; failures are GoogleTest failures that print the seed.
void check_case(const OpCase& test, DType dtype, const Backend& backend);

// Runs the case once and returns the names of the kernel slots it used.
std::set<std::string> slots_used(const OpCase& test);

std::vector<OpCase> elementwise_cases();
std::vector<OpCase> matmul_cases();
std::vector<OpCase> sequence_cases();
std::vector<OpCase> loss_cases();
std::vector<OpCase> expert_cases();
std::vector<OpCase> row_layout_cases();
std::vector<OpCase> all_cases();

}  // namespace tessera::testing_ops
