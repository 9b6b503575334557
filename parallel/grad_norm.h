// The global gradient norm: every logical tensor once, whoever holds it, summed in double in an order that no
// data-parallel, ZeRO or pipeline degree changes: blocks of rows by name and place, in runs of 256, then runs
// of 256 of those, and so on.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "core/autograd/parameter.h"
#include "parallel/comm/communicator.h"

namespace tessera {

// Squares are summed per this many rows of a segment; partitions of rows over ranks keep such blocks whole.
inline constexpr std::int64_t norm_block_rows = 16;

// A segment of a parameter.
struct SegmentOf {
  Parameter* parameter = nullptr;
  const Segment* segment = nullptr;
};

class GradientNorm {
 public:
  // `segments`: those whose owned rows this rank speaks for, so that over all ranks every row of every
  // logical tensor is spoken for once. Collective over `ranks`, which may be null on one rank. All outlive
  // this.
  GradientNorm(const std::vector<SegmentOf>& segments, ProcessGroup* ranks, Device& device);

  // Σ g² over the owned gradients, f64 [1] on the device. Collective; the same bits on every rank.
  Tensor square_sum() const { return combine(own_sums()); }
  // In two parts: what this rank sums, without an exchange and from the same memory every time; and the rest.
  Tensor own_sums() const;  // f64, by block
  Tensor combine(const Tensor& own_sums) const;

 private:
  // Consecutive blocks of one segment.
  struct Run {
    Parameter* parameter = nullptr;
    RowRange rows;  // of the storage
    std::int64_t blocks = 0;
  };

  std::vector<Run> runs_;  // this rank's
  ProcessGroup* ranks_;
  Device& device_;
  std::vector<std::int64_t> counts_;  // blocks by rank
  Tensor order_;                      // of all ranks' blocks, one rank's after another's, as they are added
};

// √(Σ g²) on one rank.
double gradient_norm(std::span<Parameter* const> parameters);

}  // namespace tessera
