// A parameter: fused storage of one or several logical tensors, its gradient, and the views that kernels
// read.
//
// Storage is what kernels like best (q, k and v rows in one buffer); its segments are the logical tensors,
// with names, and checkpoints, norms and files know only those. The fp32 master value is the truth; `view`
// gives it in the form that an op computes with, cached until the value changes. Owned by a Module; used by
// the rank's thread only.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/tensor/tensor.h"

namespace tessera {

// A logical tensor: `rows` rows of the storage from `begin`.
struct Segment {
  std::string name;  // "layers.0.attention.q.weight"
  std::int64_t begin = 0;
  std::int64_t rows = 0;
  std::int64_t unit = 1;  // rows that stay together when sharded: a head's
};

// How values are first drawn; keyed by (seed, logical name, index in the logical tensor), so any layout draws
// the same.
struct Initializer {
  enum class Kind { normal, constant } kind = Kind::normal;
  float value = 0.02F;  // standard deviation, or the constant
};

enum class ViewKind { compute };

class Parameter {
 public:
  // Rank 1 or 2; `segments` cover the rows in order. `decays`: weight decay applies.
  Parameter(std::string name, Shape shape, std::vector<Segment> segments, Initializer initializer,
            bool decays, DType compute, Device& device);

  const std::string& name() const { return name_; }
  const Shape& shape() const { return value_.shape(); }
  const std::vector<Segment>& segments() const { return segments_; }
  Shape segment_shape(const Segment& segment) const;
  bool decays() const { return decays_; }
  Device& device() const { return value_.device(); }

  // fp32 master. Whoever writes to it calls changed() afterwards.
  const Tensor& value() const { return value_; }
  void changed() { ++version_; }
  void initialize(std::uint64_t seed);

  // The value in the form that ops read: the master itself in fp32, else a copy made once per version.
  const Tensor& view(ViewKind kind);
  DType compute_dtype() const { return compute_; }

  // Where backward adds this parameter's gradient: fp32, of the same shape. Allocated by bind_gradient,
  // zeroed by the step. `accumulate` is false for the first contribution after clear_gradient(): ops may
  // overwrite.
  struct GradientSink {
    Tensor tensor;
    bool accumulate = true;
  };
  GradientSink gradient_sink();
  const Tensor& gradient() const { return gradient_; }
  void bind_gradient(Tensor gradient);  // a slice of a bucket
  void clear_gradient() { gradient_written_ = false; }
  bool gradient_written() const { return gradient_written_; }

 private:
  std::string name_;
  std::vector<Segment> segments_;
  Initializer initializer_;
  bool decays_;
  DType compute_;
  Tensor value_;
  Tensor gradient_;
  bool gradient_written_ = false;
  std::uint64_t version_ = 1;
  Tensor cached_;
  std::uint64_t cached_version_ = 0;
};

}  // namespace tessera
