#include "launch/verify/report.h"

#include <algorithm>

#include "core/base/error.h"

namespace tessera::verify {

std::string verdict(const Comparison& comparison) {
  if (comparison.fault) return fmt::format("{}: {}", comparison.fault->tensor, comparison.fault->what);
  return summary(comparison);
}

std::string verdict(const Verdict& all) {
  if (all.fault) return fmt::format("{}: {}", all.fault->tensor, all.fault->what);
  return summary(all.comparison);
}

std::string report(const Verdict& all) {
  const Comparison& comparison = all.comparison;
  std::string out = "kept:\n";
  for (const std::string& line : all.small.kept) out += "  " + line + "\n";
  out += fmt::format("\n{:<34} {:>7}  {:>12}  {:>14}\n", "tensors", "number", "gradient", "weight / lr");
  for (const GroupRow& row : comparison.rows)
    out += fmt::format("{:<34} {:>7}  {:>12.1e}  {:>14.1e}\n", row.group, row.tensors, row.worst,
                       row.worst_update);
  const int steps = all.small.subject.steps;
  out += fmt::format("{:<34} {:>7}  {:>12.1e}\n", "loss", steps, comparison.loss);
  out += fmt::format("{:<34} {:>7}  {:>12.1e}\n", "gradient norm", steps, comparison.norm);
  if (!comparison.bits)
    out +=
        fmt::format("weights of {} of {} elements are left out: their gradient is below its rounding error\n",
                    comparison.left_out, comparison.elements);
  for (const std::string& remark : comparison.remarks) out += "remark: " + remark + "\n";
  out += comparison.bits
             ? "promised: the bits of one rank\n"
             : fmt::format(
                   "promised: one rank's numbers within {:.0e}, loss within {:.0e}, norm within {:.0e}\n",
                   comparison.allowed, comparison.allowed_loss, comparison.allowed_norm);
  for (const std::string& line : all.lines) out += line + "\n";
  out += fmt::format("{}  {}: {}\n", all.fault ? "NO " : "yes", text(all.small.layout), verdict(all));
  return out;
}

}  // namespace tessera::verify
