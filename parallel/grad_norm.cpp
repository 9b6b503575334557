#include "parallel/grad_norm.h"

#include <algorithm>
#include <cmath>
#include <limits>
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

GradientNorm::GradientNorm(const std::vector<SegmentOf>& segments, ProcessGroup* ranks) : ranks_(ranks) {
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
  for (const Place& place : places) order_.push_back({place.begin, place.blocks});
}

std::vector<double> GradientNorm::own_sums() const {
  std::int64_t count = 0;
  for (const Run& run : runs_) count += run.blocks;
  std::vector<double> host(static_cast<std::size_t>(count));
  if (runs_.empty()) return host;
  const Tensor sums = Tensor::empty({count}, DType::f64, runs_[0].parameter->device());
  std::int64_t begin = 0;
  for (const Run& run : runs_) {
    const Tensor rows = run.parameter->owned_gradient().narrow(
        0, run.rows.begin - run.parameter->owned().begin, run.rows.size());
    square_sums(rows, norm_block_rows * run.parameter->columns(), sums.narrow(0, begin, run.blocks));
    begin += run.blocks;
  }
  sums.to_host(host.data());
  return host;
}

double GradientNorm::operator()() const {
  std::vector<double> sums = own_sums();
  if (ranks_ != nullptr) sums = ranks_->all_gather(sums, counts_);
  if (mutant("norm_of_first_rank"))
    std::fill(sums.begin() + static_cast<std::ptrdiff_t>(counts_[0]), sums.end(), 0.0);
  double total = 0;
  for (const Span& span : order_)
    for (std::int64_t i = span.begin; i < span.begin + span.count; ++i)
      total += sums[static_cast<std::size_t>(i)];
  // A NaN made by the processor carries a sign, which would be printed.
  return std::isnan(total) ? std::numeric_limits<double>::quiet_NaN() : std::sqrt(total);
}

double gradient_norm(std::span<Parameter* const> parameters) {
  std::vector<SegmentOf> segments;
  for (Parameter* parameter : parameters)
    for (const Segment& segment : parameter->segments()) segments.push_back({parameter, &segment});
  return GradientNorm(segments, nullptr)();
}

}  // namespace tessera
