#include "launch/estimate.h"

#include <algorithm>
#include <bit>
#include <chrono>

#include "core/autograd/tape.h"
#include "core/base/error.h"
#include "core/base/progress.h"
#include "core/nn/moe.h"
#include "core/ops/linear.h"
#include "core/tensor/device.h"
#include "data/dataset.h"
#include "parallel/comm/null.h"
#include "parallel/context.h"
#include "parallel/experts.h"
#include "parallel/pipeline/schedule.h"
#include "parallel/pipeline/split.h"

namespace tessera {

namespace {

// Bytes per element of a parameter that this rank holds, with `owners` ranks sharing state out.
double bytes_per_parameter(const ModelOptions& options, int zero, int owners, std::int64_t gradient_buffers) {
  const double share = 1.0 / owners;
  const bool bf16 = options.compute == DType::bf16;
  const double master = 4 * (zero == 0 || (zero < 3 && !bf16) ? 1 : share);
  const double view = bf16 ? 2 * (zero == 3 ? share : 1) : 0;
  const double gradients = 4 * static_cast<double>(gradient_buffers) * (zero >= 2 ? share : 1);
  return master + view + gradients + 8 * (zero >= 1 ? share : 1);
}

// Full gradient buffers: the main one, and partial sums where a rank holds several reduce groups.
std::int64_t gradient_buffers(const ReduceGroups& groups) {
  return static_cast<std::int64_t>(std::bit_width(static_cast<std::uint64_t>(groups.local_groups)));
}

// What one microbatch takes in a chunk of layers: while nothing works on it, and at most.
struct ChunkMemory {
  std::size_t kept = 0, peak = 0;
};

enum class Directions : std::uint8_t { forward, both };

ChunkMemory activation_bytes(Model& model, const RunShape& run, Directions directions) {
  Device& device = model.device();
  for (Parameter* parameter : model.parameters()) {
    parameter->view(ViewKind::compute);
    parameter->bind_gradient(Tensor::empty(parameter->shape(), DType::f32, device));
  }
  const MeshShape& mesh = run.layout.mesh;
  const BatchShape& batch = run.batch;
  device.reset_peak();
  const std::size_t before = device.memory().in_use;
  const Tensor ids = Tensor::empty({batch.micro_batch, batch.seq_len / mesh.cp}, DType::i32, device);
  const Batch one{ids, ids, batch.document_mask ? ids : Tensor(), ids};
  const auto output_of = [&](const Tensor& x) {
    const Tensor y = model.hidden(x, one);
    if (model.head() == nullptr) return y;
    return model.head()->loss(y, ids.view({ids.numel()}), Tensor::empty({1}, DType::f32, device));
  };
  Tensor input;  // of the chunk before, or none
  if (model.embedding() == nullptr)
    input = as_leaf(Tensor::empty({ids.numel(), model.spec().hidden_size}, run.options.compute, device));
  ChunkMemory memory;
  if (directions == Directions::forward) {
    const NoGrad no_grad;
    output_of(input);
  } else {
    const Tensor y = output_of(input);
    memory.kept = device.memory().in_use - before;
    const Tensor gradient = Tensor::empty(y.shape(), y.dtype(), device);
    backward(std::span(&y, 1), std::span(&gradient, 1),
             input.defined() ? std::span<const Tensor>(&input, 1) : std::span<const Tensor>());
  }
  memory.peak = device.memory().peak - before;
  return memory;
}

// One microbatch through what one rank holds of a chunk, forward and back. Rank 0 of those that share a
// sequence has its end, which attends to most. Where experts' buffers are unbounded, with all experts here:
// as many rows meet them as leave for other ranks.
ChunkMemory dry_run(const RunShape& run, ModelPart part, Device& meta, Directions directions) {
  const MeshShape& mesh = run.layout.mesh;
  const ExpertBuffer buffer{run.layout.expert_buffer};
  const bool bounded = buffer.bounded() && mesh.ep * mesh.etp > 1;
  if (!bounded) part.place.expert = {};
  Model model(run.spec, meta, run.options, part);
  const auto cp = make_null_group(mesh.cp);
  const auto ep = make_null_group(mesh.ep);
  const auto etp = make_null_group(mesh.etp);
  for (Module* module : model.modules()) {
    if (auto* attention = dynamic_cast<Attention*>(module); attention != nullptr && mesh.cp > 1)
      attention->set_mixer(context_mixer(run.layout.context, *cp));
    if (auto* moe = dynamic_cast<Moe*>(module); moe != nullptr && bounded)
      moe->set_dispatcher(expert_dispatcher(*ep, *etp, buffer));
  }
  return activation_bytes(model, run, directions);
}

// Weights, gradients, moments and tables of what one rank holds of a chunk.
double state_bytes(const RunShape& run, const ModelPart& part, Device& meta) {
  const MeshShape& mesh = run.layout.mesh;
  const std::size_t before = meta.memory().in_use;
  Model model(run.spec, meta, run.options, part);
  auto bytes = static_cast<double>(meta.memory().in_use - before);  // parameters are made when first used
  for (const Parameter* parameter : model.parameters()) {
    const int owners = parameter->layout().ranks == Layout::Ranks::expert ? mesh.edp() : mesh.dp * mesh.cp;
    bytes += static_cast<double>(parameter->shape().numel()) *
             bytes_per_parameter(run.options, owners == 1 ? 0 : run.layout.zero, owners,
                                 gradient_buffers(run.groups));
  }
  return bytes;
}

PipelineSchedule schedule_of(const ParallelLayout& layout, std::int64_t microbatches) {
  const int chunks = layout.mesh.pp * layout.virtual_stages;
  // More of them change nothing: they come one by one as others go.
  const PipelineShape shape{layout.mesh.pp, layout.virtual_stages,
                            static_cast<int>(std::min<std::int64_t>(microbatches, std::int64_t{4} * chunks))};
  if (layout.schedule == ScheduleKind::interleaved) return interleaved_one_f_one_b(shape);
  return layout.schedule == ScheduleKind::zero_bubble ? zero_bubble(shape) : one_f_one_b(shape);
}

// The most that activations take while a stage does this, microbatch by microbatch.
std::size_t peak_of(const std::vector<PipelineAction>& actions, const std::vector<ChunkMemory>& chunks) {
  std::size_t kept = 0;
  std::size_t peak = 0;
  for (const PipelineAction& action : actions) {
    const ChunkMemory& chunk = chunks[static_cast<std::size_t>(action.chunk)];
    if (action.step == PipelineStep::forward) kept += chunk.kept;
    peak = std::max(peak, kept + chunk.peak - chunk.kept);
    if (action.step == PipelineStep::backward || action.step == PipelineStep::backward_weight)
      kept -= chunk.kept;
  }
  return peak;
}

// Less than any rank takes, without building a model: sizes beyond this are not worth a dry run, in which
// they would overflow.
double least_bytes(const ModelSpec& spec, double tokens, int ranks = 1) {
  double widest = static_cast<double>(spec.hidden_size);
  for (const CellSpec& cell : spec.layers.at(0))
    if (const auto* ffn = std::get_if<FfnSpec>(&cell.body))
      widest = std::max(widest, static_cast<double>(ffn->width));
  return (4 * static_cast<double>(parameter_count(spec)) + 2 * tokens * widest) / ranks;
}
constexpr double beyond_any = 0x1p50;

}  // namespace

std::vector<std::size_t> estimate_stages(const RunShape& run, Device* device) {
  const MeshShape& mesh = run.layout.mesh;
  std::vector<std::size_t> stages(static_cast<std::size_t>(mesh.pp), 0);
  const double tokens = static_cast<double>(run.batch.micro_batch) * static_cast<double>(run.batch.seq_len);
  if (const double least = least_bytes(run.spec, tokens, mesh.ranks()); least > beyond_any) {
    std::fill(stages.begin(), stages.end(), static_cast<std::size_t>(std::min(least, 0x1p62)));
    return stages;
  }
  const DeviceOptions as{
      .chunk_bytes = device != nullptr ? device->chunk_bytes() : DeviceOptions().chunk_bytes,
      .stands_for = device};
  const auto meta = make_device(DeviceKind::meta, as);
  const int chunks = mesh.pp * run.layout.virtual_stages;
  const auto counts = run.layout.layers.empty()
                          ? split_layers(split_costs(run.spec, run.batch.seq_len), chunks)
                          : run.layout.layers;
  const ModelPlace place{{0, mesh.tp}, {0, mesh.ep}, {0, mesh.etp}};
  std::vector<ChunkMemory> activations;
  for (const ModelPart& part : pipeline_parts(run.spec, counts, place)) {
    std::size_t& stage = stages[activations.size() % stages.size()];
    activations.push_back(dry_run(run, part, *meta, Directions::both));
    stage += static_cast<std::size_t>(state_bytes(run, part, *meta));
    if (run.graphs) stage += dry_run(run, part, *meta, Directions::forward).peak;
  }
  const PipelineSchedule schedule =
      schedule_of(run.layout, run.groups.local_groups * run.groups.microbatches_per_group());
  for (std::size_t stage = 0; stage < stages.size(); ++stage)
    stages[stage] += peak_of(schedule.actions[stage], activations);
  return stages;
}

std::size_t estimate_memory(const ModelSpec& spec, const ModelOptions& options, const ParallelLayout& layout,
                            const BatchShape& batch, const ReduceGroups& groups, Device* device,
                            bool graphs) {
  const auto stages = estimate_stages({spec, options, layout, batch, groups, graphs}, device);
  return *std::max_element(stages.begin(), stages.end());
}

double samples_bytes(const RunShape& run) {
  constexpr double numbers = 4;  // of a position: token, target, place, begin of its document
  const double samples = static_cast<double>(run.batch.global_batch) / run.layout.mesh.dp;
  return samples *
         (sizeof(Sample) + numbers * sizeof(std::int32_t) * static_cast<double>(run.batch.seq_len + 1));
}

double estimate_inference(const ModelSpec& spec, const ModelOptions& options, std::int64_t sequences,
                          bool logits) {
  const double tokens = static_cast<double>(sequences) * static_cast<double>(options.positions);
  const double least = least_bytes(spec, tokens);
  if (least > beyond_any) return least;
  const auto meta = make_device(DeviceKind::meta);
  const NoGrad no_grad;
  Model model(spec, *meta, options);
  for (Parameter* parameter : model.parameters()) parameter->view(ViewKind::compute);
  const Tensor ids = Tensor::empty({sequences, options.positions}, DType::i32, *meta);
  const Batch batch{ids, ids, ids, ids};
  if (logits)
    model.logits(batch);
  else
    model.loss(batch, Tensor::empty({1}, DType::f32, *meta));
  return static_cast<double>(meta->memory().peak);
}

std::string what_would_fit(const RunShape& run,
                           const std::function<std::optional<double>(const RunShape&)>& fits) {
  std::string list;
  const auto try_one = [&](const RunShape& other, const std::string& change) {
    const std::optional<double> bytes = fits(other);
    if (bytes)
      list += fmt::format("{}{} would take {}", list.empty() ? "" : ", ", change, bytes_text(*bytes));
    return bytes.has_value();
  };
  for (const auto& [recompute, text] :
       {std::pair{Recompute::selective, "selective"}, std::pair{Recompute::full, "full"}}) {
    RunShape other = run;
    other.options.recompute = recompute;
    if (recompute > run.options.recompute && try_one(other, fmt::format("train.recompute: {}", text))) break;
  }
  for (std::int64_t micro = run.batch.micro_batch / 2; micro > 0; micro /= 2) {
    RunShape other = run;
    other.batch.micro_batch = micro;
    if (try_one(other, fmt::format("train.micro_batch: {}", micro))) break;
  }
  for (int zero = run.layout.zero + 1; zero <= 3 && run.layout.mesh.dp * run.layout.mesh.cp > 1; ++zero) {
    RunShape other = run;
    other.layout.zero = zero;
    if (try_one(other, fmt::format("parallel.zero: {}", zero))) break;
  }
  return list.empty() ? "share the model among more ranks (parallel.tp, pp), or shorten data.seq_len" : list;
}

void take_memory(Device& device, const ModelSpec& spec, const ModelOptions& options,
                 const ParallelLayout& layout, const BatchShape& batch, const ReduceGroups& groups,
                 bool graphs) {
  const std::optional<std::size_t> available = device.available();
  if (!available) return;
  const auto most = [&](const RunShape& run) {
    const auto stages = estimate_stages(run, &device);
    return *std::max_element(stages.begin(), stages.end());
  };
  const RunShape run{spec, options, layout, batch, groups, graphs};
  const std::size_t needed = most(run);
  if (needed <= *available) return device.reserve(needed);
  const std::string fits = what_would_fit(run, [&](const RunShape& other) -> std::optional<double> {
    const std::size_t bytes = most(other);
    if (bytes > *available) return std::nullopt;
    return static_cast<double>(bytes);
  });
  fail_usage("the run would take {} a rank, and {} {} has room for {}: {}",
             bytes_text(static_cast<double>(needed)), name(device.kind()), device.ordinal(),
             bytes_text(static_cast<double>(*available)), fits);
}

double measure_flops(Device& device, DType compute, std::int64_t hidden_size) {
  const std::int64_t rows = 512;
  const NoGrad no_grad;
  Parameter weight(plain_parameter("probe", {hidden_size, hidden_size}, {Initializer::Kind::constant, 0.0F}),
                   compute, device);
  weight.initialize(0);
  const Tensor x = Tensor::zeros({rows, hidden_size}, compute, device);
  linear(x, weight, nullptr);  // warms up
  using Clock = std::chrono::steady_clock;
  const auto start = Clock::now();
  double seconds = 0;
  int rounds = 0;
  do {
    linear(x, weight, nullptr);
    device.stream().synchronize();
    seconds = std::chrono::duration<double>(Clock::now() - start).count();
  } while (++rounds < 1000 && seconds < 0.03);
  return rounds * 2.0 * static_cast<double>(rows * hidden_size * hidden_size) / seconds;
}

}  // namespace tessera
