#include "launch/verify/verify.h"

#include "core/base/error.h"
#include "launch/verify/expert_room.h"
#include "launch/verify/life.h"
#include "launch/verify/trace.h"

namespace tessera::verify {
namespace {

// What a run of one step would have recorded.
Record first_step(Record record) {
  for (std::vector<double>* numbers : {&record.losses, &record.norms, &record.balances}) numbers->resize(1);
  record.weights = record.updated;
  return record;
}

// Steps of one rank and of the layout, and of the layout with a buffer too small. `small` is told how large
// buffers are.
Comparison compare_steps(Small& small, const Place& place) {
  const Record one = run(small.subject, {}, nullptr, place);
  const auto tight = tight_buffer(small.subject, small.layout, one.choices);
  if (tight) {
    small.layout.expert_buffer = tight->factor;
    small.kept.push_back(fmt::format("expert_buffer {:.3f}, with which no more rows find room than come{}",
                                     tight->factor, tight->below ? "; with one less, an error" : ""));
  }
  // Where the fullest buffer is not in the first step, of which most is compared, that step goes ahead.
  if (tight && tight->first < tight->factor) {
    Small first = small;
    first.subject.steps = 1;
    first.layout.expert_buffer = tight->first;
    const Record full = run(first.subject, first.layout, &one.choices, place);
    Comparison result = compare(first.subject, first.layout, first_step(one), full);
    if (result.fault) return result;
  }
  const Record many = run(small.subject, small.layout, &one.choices, place);
  Comparison result = compare(small.subject, small.layout, one, many);
  if (result.fault || !tight) return result;
  if (const std::string what = overflow_fault(small.subject, small.layout, *tight, one.choices, place);
      !what.empty())
    result.fault = Fault{"expert_buffer", what};
  return result;
}

// With natural choices any load must find room.
ParallelLayout roomy(ParallelLayout layout) {
  if (layout.expert_buffer > 0) layout.expert_buffer = layout.mesh.ep;
  return layout;
}

}  // namespace

Verdict verify_layout(const Config& config, const ReleaseConfig& release, const ParallelLayout& layout,
                      const VerifyOptions& options) {
  Verdict verdict;
  for (const DType compute : {DType::f32, DType::bf16}) {
    if (compute == DType::bf16 && !options.bf16) break;
    verdict.small = shrink(config, release.spec, layout, compute);
    verdict.comparison = compare_steps(verdict.small, options.place);
    verdict.fault = verdict.comparison.fault;
    if (verdict.fault) return verdict;
    if (options.bf16 && compute == DType::f32)
      verdict.lines.push_back("steps in fp32: " + summary(verdict.comparison));
  }
  if (options.fast) {
    verdict.lines.emplace_back("--fast: neither data, import, resume and validation, nor MPI");
    return verdict;
  }
  const Subject& subject = verdict.small.subject;
  verdict.fault = live(config, release, subject, verdict.small.layout, options.place);
  if (verdict.fault) return verdict;
  verdict.lines.emplace_back("import, data, count of targets, save, validation, resume: as they should be");
  if (options.mpi_program.empty()) return verdict;
  const Small single = shrink(config, release.spec, layout, DType::f32);  // what its processes make of it
  const MpiCheck mpi = check_mpi(single.subject, roomy(single.layout), options.mpi_program);
  verdict.fault = mpi.fault;
  if (!mpi.fault)
    verdict.lines.push_back(mpi.skipped.empty() ? "MPI: the bits of thread ranks"
                                                : "MPI: not run: " + mpi.skipped);
  return verdict;
}

int verify_mpi_rank(const Config& config, const ReleaseConfig& release, const ParallelLayout& layout,
                    const std::string& folder) {
  const Small small = shrink(config, release.spec, layout, DType::f32);
  return run_mpi_rank(small.subject, roomy(small.layout), folder);
}

}  // namespace tessera::verify
