// A parameter: fused storage of one or several logical tensors, its gradient, and the view that kernels
// read.
//
// Storage is what kernels like best (q, k and v rows in one buffer); its segments are the logical tensors,
// with names, and checkpoints, norms and files know only those. A rank's storage may hold a part of each (its
// Layout says how it is cut), and of that storage a rank may own only some rows, those that its optimizer
// updates. The fp32 master of the owned rows is the truth; `view` gives all rows in the dtype that ops
// compute with. Owned by a Module; used by the rank's thread only.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "core/tensor/tensor.h"

namespace tessera {

// A logical tensor's rows within the storage, and what part of the whole they are.
struct Segment {
  std::string name;  // "layers.0.attention.q.weight"
  std::int64_t begin = 0;
  std::int64_t rows = 0;
  Shape global;                   // of the whole logical tensor
  std::int64_t first_row = 0;     // of the whole, where the rows held here begin
  std::int64_t first_column = 0;  // likewise
  int replicas = 1;               // neighbouring ranks along the cutting axis that hold this very part
};

// How ranks share a parameter. Those of dense layers are cut over tensor-parallel ranks and replicated over
// all others of a stage; those of experts are cut over expert-parallel ranks, and over the experts' own
// tensor-parallel ranks.
struct Layout {
  enum class Ranks : std::uint8_t { dense, expert } ranks = Ranks::dense;
  enum class Cut : std::uint8_t { none, rows, columns } cut = Cut::none;
};

// How values are first drawn; keyed by (seed, logical name, index in the logical tensor), so any layout draws
// the same.
struct Initializer {
  enum class Kind { normal, constant } kind = Kind::normal;
  float value = 0.02F;  // standard deviation, or the constant
};

enum class ViewKind { compute };

// What a block declares; `shape` is of this rank's storage, of rank 1 or 2, whose rows the segments cover in
// order.
struct ParameterSpec {
  std::string name;
  Shape shape;
  std::vector<Segment> segments;
  Initializer initializer;
  bool decays = true;  // weight decay applies
  Layout layout = {};
  bool trained = true;  // by gradient; else a state that something else updates, the same on every rank
  bool copy = false;    // of a parameter of that name, which counts in its stead: a tied head
};

// A parameter that is one logical tensor, all of it here.
ParameterSpec plain_parameter(const std::string& name, const Shape& shape, Initializer initializer = {});

struct RowRange {
  std::int64_t begin = 0, end = 0;
  std::int64_t size() const { return end - begin; }
  bool operator==(const RowRange&) const = default;
};

class Parameter {
 public:
  Parameter(ParameterSpec spec, DType compute, Device& device);

  const std::string& name() const { return spec_.name; }
  const Shape& shape() const { return spec_.shape; }
  std::int64_t columns() const { return spec_.shape.rank() == 2 ? spec_.shape[1] : 1; }
  const std::vector<Segment>& segments() const { return spec_.segments; }
  bool decays() const { return spec_.decays; }
  const Layout& layout() const { return spec_.layout; }
  bool is_trained() const { return spec_.trained; }
  bool is_copy() const { return spec_.copy; }
  Device& device() const { return *device_; }
  DType compute_dtype() const { return compute_; }

  // From now on value, view and owned rows are those of `original`, which outlives this; so is the gradient,
  // unless one is bound here.
  void share(Parameter& original) { original_ = &original; }
  bool is_shared() const { return original_ != nullptr; }

  // Rows of the storage that this rank's optimizer updates: all, unless bound otherwise.
  RowRange owned() const { return original_ == nullptr ? owned_ : original_->owned(); }
  // fp32 master of the owned rows, made when first asked for unless bound. Whoever writes to it calls
  // changed() afterwards.
  const Tensor& value() const;
  void bind_value(Tensor value, RowRange rows);
  void changed() { ++version_; }
  // Draws the owned rows.
  void initialize(std::uint64_t seed);

  // All rows in the compute dtype. Unless bound: the master itself in fp32, else a copy made once per
  // version. A bound view is kept up to date by whoever bound it, and may be taken away again (undefined);
  // `fetch` is then called when the view is asked for, and binds it.
  const Tensor& view(ViewKind kind);
  void bind_view(Tensor view);
  void on_missing_view(std::function<void()> fetch) { fetch_ = std::move(fetch); }

  // Where backward adds this parameter's gradient: fp32, all rows. `accumulate` is false for the first
  // contribution after clear_gradient(): ops may overwrite. `make` is called if none is bound, and binds one.
  struct GradientSink {
    Tensor tensor;
    bool accumulate = true;
  };
  GradientSink gradient_sink();
  const Tensor& gradient() const { return gradient_; }
  void on_missing_gradient(std::function<void()> make) { make_gradient_ = std::move(make); }
  void bind_gradient(Tensor gradient);  // a slice of a bucket; undefined takes it away
  void clear_gradient() { gradient_written_ = false; }
  bool gradient_written() const { return gradient_written_; }
  // The gradient of the owned rows, summed over ranks: what the optimizer reads. The gradient itself unless
  // bound.
  Tensor owned_gradient() const;
  bool has_owned_gradient() const { return owned_gradient_.defined(); }
  void bind_owned_gradient(Tensor gradient);

 private:
  ParameterSpec spec_;
  DType compute_;
  Device* device_;
  Parameter* original_ = nullptr;
  RowRange owned_;
  mutable Tensor value_;
  Tensor gradient_, owned_gradient_;
  bool gradient_written_ = false;
  std::uint64_t version_ = 1;
  Tensor view_;
  std::function<void()> fetch_, make_gradient_;
  bool view_is_bound_ = false;
  std::uint64_t view_version_ = 0;
};

// The part of a segment that lies in the rows `owned` of its storage: rows of the storage, empty where none
// do.
RowRange owned_rows(const Segment& segment, RowRange owned);

}  // namespace tessera
