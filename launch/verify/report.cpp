#include "launch/verify/report.h"

#include <algorithm>

#include "core/base/error.h"

namespace tessera::verify {

std::string verdict(const Comparison& comparison) {
  if (comparison.fault) return fmt::format("{}: {}", comparison.fault->tensor, comparison.fault->what);
  if (comparison.bits) return "the same bits as one rank";
  double worst = comparison.loss;
  for (const GroupRow& row : comparison.rows) worst = std::max(worst, row.worst);
  return fmt::format("within rounding of one rank ({:.1e})", worst);
}

std::string report(const Subject& subject, const ParallelLayout& layout, const Comparison& comparison) {
  std::string out =
      fmt::format("{:<34} {:>7}  {:>12}  {:>14}\n", "tensors", "number", "gradient", "weight / lr");
  for (const GroupRow& row : comparison.rows)
    out += fmt::format("{:<34} {:>7}  {:>12.1e}  {:>14.1e}\n", row.group, row.tensors, row.worst,
                       row.worst_update);
  out += fmt::format("{:<34} {:>7}  {:>12.1e}\n", "loss", subject.steps, comparison.loss);
  out += fmt::format("{:<34} {:>7}  {:>12.1e}\n", "gradient norm", subject.steps, comparison.norm);
  if (!comparison.bits)
    out +=
        fmt::format("weights of {} of {} elements are left out: their gradient is below its rounding error\n",
                    comparison.left_out, comparison.elements);
  for (const std::string& remark : comparison.remarks) out += "remark: " + remark + "\n";
  out += fmt::format("promised: {}\n",
                     comparison.bits ? "the bits of one rank"
                                     : fmt::format("one rank's numbers within {:.0e}", comparison.allowed));
  out += fmt::format("{}  {}: {}\n", comparison.fault ? "NO " : "yes", text(layout), verdict(comparison));
  return out;
}

}  // namespace tessera::verify
