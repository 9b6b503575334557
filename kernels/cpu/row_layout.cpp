#include "core/ops/row_layout.h"

#include <algorithm>
#include <numeric>
#include <vector>

namespace tessera {
namespace {

void run_lay_out_rows(const LayOutRowsArgs& args, Workspace) {
  const std::int64_t sources = args.counts.size(0);
  const std::int64_t groups = args.counts.size(1);
  const std::int64_t parts = args.counts.size(2);
  const std::int64_t capacity = args.to_slot.numel() / sources;
  // Of each source, where its groups begin among its slots: [sources][groups + 1].
  std::vector<std::int64_t> begins(static_cast<std::size_t>(sources * (groups + 1)));
  double most = 0;
  for (std::int64_t s = 0; s < sources; ++s) {
    std::int64_t rows = 0;
    for (std::int64_t x = 0; x < groups; ++x) {
      const auto* counts = args.counts.data<std::int32_t>() + (s * groups + x) * parts;
      rows = std::accumulate(counts, counts + parts, rows);
      begins[static_cast<std::size_t>(s * (groups + 1) + x + 1)] = std::min(rows, capacity);
    }
    most = std::max(most, static_cast<double>(rows));
  }
  auto* over = args.over.data<double>();
  if (most > static_cast<double>(capacity)) *over = std::max(*over, most);
  auto* offsets = args.offsets.data<std::int32_t>();
  auto* to_slot = args.to_slot.data<std::int32_t>();
  auto* from_slot = args.from_slot.data<std::int32_t>();
  std::fill_n(to_slot, args.to_slot.numel(), -1);
  std::fill_n(from_slot, args.from_slot.numel(), -1);
  std::int32_t row = 0;
  for (std::int64_t x = 0; x < groups; ++x) {
    offsets[x] = row;
    for (std::int64_t s = 0; s < sources; ++s) {
      const auto* begin = &begins[static_cast<std::size_t>(s * (groups + 1) + x)];
      for (std::int64_t slot = s * capacity + begin[0]; slot < s * capacity + begin[1]; ++slot) {
        to_slot[row] = static_cast<std::int32_t>(slot);
        from_slot[slot] = row++;
      }
    }
  }
  offsets[groups] = row;
}

const Register<LayOutRowsArgs> register_lay_out(lay_out_rows_kernel(),
                                                {DeviceKind::cpu, "plain", run_lay_out_rows});

}  // namespace
}  // namespace tessera
