#include "launch/verify/trace.h"

#include "core/autograd/tape.h"
#include "core/base/error.h"
#include "core/base/hash.h"
#include "core/tensor/device.h"
#include "launch/batches.h"

namespace tessera::verify {
namespace {

constexpr int traced_steps = 2;

class Tracer {
 public:
  Tracer(const Subject& subject, const ParallelLayout& layout, ProcessGroup& world)
      : subject_(subject),
        device_(make_device(DeviceKind::cpu, {0, 1})),
        engine_(subject.spec, *device_, world, layout, subject.model, subject.batch, subject.reduce_groups,
                subject.optimizer) {
    for (const auto& chunk : engine_.chunks())
      for (Module* module : chunk->model().modules())
        module->set_probe([this](const Module& one, const Tensor& x) {
          if (!in_backward())
            note(fmt::format("{}: what it makes in microbatch {}", one.name(), microbatch_), x);
        });
  }

  std::vector<std::string> run() {
    draw_weights(subject_, engine_);
    for (int step = 0; step < traced_steps; ++step) run_step(step);
    return lines_;
  }

 private:
  void run_step(int step) {
    const std::vector<std::int64_t> microbatches = engine_.microbatches();
    const auto load = [&](std::size_t i) {
      microbatch_ = step * subject_.batch.microbatches() + microbatches[i];
      std::vector<Sample> samples;
      for (std::int64_t s = 0; s < subject_.batch.micro_batch; ++s)
        samples.push_back(
            draw_sample(subject_, static_cast<std::uint64_t>(microbatch_ * subject_.batch.micro_batch + s)));
      return make_batch(samples, subject_.document_mask, *device_, engine_.positions());
    };
    // Which targets count does not matter here: all do.
    engine_.run_step(load, subject_.batch.global_batch * subject_.batch.seq_len);
    const std::vector<Engine::Owned> owned = engine_.owned();
    for (auto part = owned.rbegin(); part != owned.rend(); ++part)
      if (part->gradient.defined())
        note(fmt::format("{}: its gradient in step {}", part->name, step), part->gradient);
    engine_.update(subject_.lr, subject_.clip);
    const EngineReport report = engine_.next_report();
    lines_.push_back(fmt::format("loss: of step {}, {:a}", step, report.loss));
    lines_.push_back(fmt::format("gradient norm: of step {}, {:a}", step, report.norm));
    for (const Engine::Owned& part : engine_.held())
      note(fmt::format("{}: what it is after step {}", part.name, step), part.weight);
  }

  void note(const std::string& what, const Tensor& values) {
    std::vector<std::byte> bytes(values.bytes());
    values.to_host(bytes.data());
    lines_.push_back(fmt::format("{}, {}", what, xxh3_128_hex(bytes)));
  }

  const Subject& subject_;
  std::unique_ptr<Device> device_;
  Engine engine_;
  std::int64_t microbatch_ = 0;
  std::vector<std::string> lines_;
};

}  // namespace

std::vector<std::string> trace(const Subject& subject, const ParallelLayout& layout, ProcessGroup& world) {
  return Tracer(subject, layout, world).run();
}

}  // namespace tessera::verify
