#include "parallel/grad_norm.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <sstream>
#include <tuple>

#include "core/base/mutant.h"
#include "core/tensor/reductions.h"

namespace tessera {
namespace {

// Where a run lies in its logical tensor, and how many blocks it has: what decides the order of sums.
struct Place {
  std::string name;
  std::int64_t row = 0, column = 0, blocks = 0;
  std::int64_t begin = 0;  // of its blocks, among all ranks'
  bool operator<(const Place& other) const {
    return std::tie(name, row, column) < std::tie(other.name, other.row, other.column);
  }
};

}  // namespace

GradientNorm::GradientNorm(const std::vector<SegmentOf>& segments, ProcessGroup* ranks, Device& device)
    : ranks_(ranks), device_(device) {
  std::ostringstream mine;
  for (const auto& [parameter, segment] : segments) {
    const RowRange rows = owned_rows(*segment, parameter->owned());
    if (rows.size() == 0) continue;
    const std::int64_t first = rows.begin - segment->begin;
    assert(first % norm_block_rows == 0);
    runs_.push_back({parameter, rows, (rows.size() + norm_block_rows - 1) / norm_block_rows});
    mine << segment->name << ' ' << segment->first_row + first << ' ' << segment->first_column << ' '
         << runs_.back().blocks << '\n';
  }
  const std::vector<std::string> all =
      ranks == nullptr ? std::vector<std::string>{mine.str()} : ranks->all_gather_text(mine.str());
  std::vector<Place> places;
  std::int64_t begin = 0;
  for (const std::string& text : all) {
    const std::int64_t start = begin;
    std::istringstream lines(text);
    for (Place place; lines >> place.name >> place.row >> place.column >> place.blocks;) {
      place.begin = begin;
      begin += place.blocks;
      places.push_back(place);
    }
    counts_.push_back(begin - start);
  }
  std::sort(places.begin(), places.end());
  std::vector<std::int32_t> order;
  for (const Place& place : places)
    for (std::int64_t i = place.begin; i < place.begin + place.blocks; ++i)
      if (!mutant("norm_of_first_rank") || i < counts_[0]) order.push_back(static_cast<std::int32_t>(i));
  order_ = Tensor::from_host(order.data(), {static_cast<std::int64_t>(order.size())}, DType::i32, device);
}

Tensor GradientNorm::own_sums() const {
  std::int64_t count = 0;
  for (const Run& run : runs_) count += run.blocks;
  Tensor sums = Tensor::empty({count}, DType::f64, device_);
  std::int64_t begin = 0;
  for (const Run& run : runs_) {
    const Tensor rows = run.parameter->owned_gradient().narrow(
        0, run.rows.begin - run.parameter->owned().begin, run.rows.size());
    square_sums(rows, norm_block_rows * run.parameter->columns(), sums.narrow(0, begin, run.blocks));
    begin += run.blocks;
  }
  return sums;
}

Tensor GradientNorm::combine(const Tensor& own_sums) const {
  constexpr std::int64_t run = 256;
  Tensor sums = own_sums;
  if (ranks_ != nullptr) {
    std::vector<Tensor> all;
    const Tensor joined = Tensor::empty({std::accumulate(counts_.begin(), counts_.end(), std::int64_t{0})},
                                        DType::f64, device_);
    std::int64_t begin = 0;
    for (const std::int64_t count : counts_) {
      all.push_back(joined.narrow(0, begin, count));
      begin += count;
    }
    ranks_->all_gather(all, own_sums);
    sums = joined;
  }
  return sum_by_runs(sum_runs(sums, order_, run), run);
}

double gradient_norm(std::span<Parameter* const> parameters) {
  std::vector<SegmentOf> segments;
  for (Parameter* parameter : parameters)
    for (const Segment& segment : parameter->segments()) segments.push_back({parameter, &segment});
  double squares = 0;
  GradientNorm(segments, nullptr, parameters[0]->device()).square_sum().to_host(&squares);
  // A NaN made by the processor carries a sign, which would be printed.
  return std::isnan(squares) ? std::abs(squares) : std::sqrt(squares);
}

}  // namespace tessera
