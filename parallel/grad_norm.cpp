#include "parallel/grad_norm.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/tensor/device.h"

namespace tessera {
namespace {

constexpr std::int64_t block_rows = 64;

struct Rows {
  const std::string* name;
  Tensor values;  // [rows, columns]
};

double squares(const float* x, std::int64_t n) {
  double lane[8] = {};
  std::int64_t i = 0;
  for (; i + 8 <= n; i += 8)
    for (int j = 0; j < 8; ++j) lane[j] += static_cast<double>(x[i + j]) * static_cast<double>(x[i + j]);
  for (int j = 0; i < n; ++i, ++j) lane[j] += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  return ((lane[0] + lane[1]) + (lane[2] + lane[3])) + ((lane[4] + lane[5]) + (lane[6] + lane[7]));
}

}  // namespace

double gradient_norm(std::span<Parameter* const> parameters) {
  if (parameters.empty()) return 0;
  std::vector<Rows> tensors;
  for (const Parameter* p : parameters)
    for (const Segment& segment : p->segments())
      tensors.push_back({&segment.name, p->gradient().narrow(0, segment.begin, segment.rows)});
  std::sort(tensors.begin(), tensors.end(), [](const Rows& a, const Rows& b) { return *a.name < *b.name; });
  struct Block {
    const float* data;
    std::int64_t count;
  };
  std::vector<Block> blocks;
  for (const Rows& t : tensors) {
    const std::int64_t rows = t.values.size(0);
    const std::int64_t columns = t.values.numel() / std::max<std::int64_t>(1, rows);
    for (std::int64_t row = 0; row < rows; row += block_rows)
      blocks.push_back({t.values.data<float>() + row * columns, std::min(block_rows, rows - row) * columns});
  }
  std::vector<double> sums(blocks.size());
  parameters[0]->device().threads().parallel_for(
      static_cast<std::int64_t>(blocks.size()), [&](std::int64_t i) {
        const Block& block = blocks[static_cast<std::size_t>(i)];
        sums[static_cast<std::size_t>(i)] = squares(block.data, block.count);
      });
  double total = 0;
  for (const double sum : sums) total += sum;
  // A NaN made by the processor carries a sign, which would be printed.
  return std::isnan(total) ? std::numeric_limits<double>::quiet_NaN() : std::sqrt(total);
}

}  // namespace tessera
