// The global gradient norm: every logical tensor once, whoever holds it, summed in double in an order that no
// data-parallel, ZeRO or pipeline degree changes.
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
  GradientNorm(const std::vector<SegmentOf>& segments, ProcessGroup* ranks);

  // √(Σ g²) over the owned gradients. Collective; the same bits on every rank.
  double operator()() const;

 private:
  // Consecutive blocks of one segment.
  struct Run {
    Parameter* parameter = nullptr;
    RowRange rows;  // of the storage
    std::int64_t blocks = 0;
  };
  std::vector<double> own_sums() const;

  std::vector<Run> runs_;  // this rank's
  ProcessGroup* ranks_;
  std::vector<std::int64_t> counts_;  // blocks by rank
  struct Span {
    std::int64_t begin = 0, count = 0;
  };
  std::vector<Span> order_;  // of all ranks' blocks, one rank's after another's, as they are added
};

// On one rank.
double gradient_norm(std::span<Parameter* const> parameters);

}  // namespace tessera
