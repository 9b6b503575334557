// Steps as graphs on a GPU: the same bits as without.

#include <gtest/gtest.h>

#include "parallel/comm/local.h"
#include "tests/verify/short_run.h"
#include "tests/verify/subjects.h"

namespace tessera::verify {
namespace {

ShortRun train(const Subject& subject, bool graphs) {
  ShortRun run;
  run_local_ranks(1, [&](ProcessGroup& world) {
    const auto device = make_device(DeviceKind::cuda);
    Engine engine(subject.spec, *device, world, {}, subject.model, subject.batch, subject.reduce_groups,
                  subject.optimizer);
    if (graphs) engine.use_graphs();
    run = run_shortly(subject, engine);
  });
  return run;
}

class GpuGraphs : public testing::TestWithParam<const char*> {};

TEST_P(GpuGraphs, TrainToTheSameBits) {
  Subject subject = subject_of(GetParam(), false, 4, 2);
  subject.reduce_groups = 2;
  subject.steps = 6;
  for (const DType compute : {DType::f32, DType::bf16}) {
    subject.model.compute = compute;
    const ShortRun graphs = train(subject, true);
    expect_same(graphs, train(subject, false));
    EXPECT_LT(graphs.reports.back().loss, graphs.reports.front().loss);
  }
}

INSTANTIATE_TEST_SUITE_P(Families, GpuGraphs, testing::Values("llama", "qwen3", "qwen3_moe"),
                         [](const auto& test) { return std::string(test.param); });

}  // namespace
}  // namespace tessera::verify
