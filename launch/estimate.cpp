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
#include "parallel/comm/null.h"
#include "parallel/context.h"
#include "parallel/experts.h"
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

enum class Directions : std::uint8_t { forward, both };

std::size_t activation_bytes(Model& model, const ParallelLayout& layout, const BatchShape& batch,
                             Directions directions) {
  Device& device = model.device();
  for (Parameter* parameter : model.parameters()) {
    parameter->value();
    parameter->bind_gradient(Tensor::empty(parameter->shape(), DType::f32, device));
  }
  device.reset_peak();
  const std::size_t before = device.memory().peak;
  const Tensor ids = Tensor::empty({batch.micro_batch, batch.seq_len / layout.mesh.cp}, DType::i32, device);
  const Batch one{ids, ids, batch.document_mask ? ids : Tensor(), ids};
  if (directions == Directions::forward) {
    const NoGrad no_grad;
    const Tensor y = model.hidden({}, one);
    if (model.head() != nullptr)
      model.head()->loss(y, ids.view({ids.numel()}), Tensor::empty({1}, DType::f32, device));
  } else if (model.head() != nullptr) {
    const Tensor loss = model.loss(one, Tensor::empty({1}, DType::f32, device));
    const Tensor gradient = Tensor::empty(loss.shape(), loss.dtype(), device);
    backward(std::span(&loss, 1), std::span(&gradient, 1));
  } else {
    const Tensor y = model.hidden({}, one);
    const Tensor gradient = Tensor::empty(y.shape(), y.dtype(), device);
    backward(std::span(&y, 1), std::span(&gradient, 1));
  }
  return device.memory().peak - before;
}

// One microbatch through what one rank holds of these chunks' first, forward and back. Rank 0 of those that
// share a sequence has its end, which attends to most. Where experts' buffers are unbounded, with all experts
// here: as many rows meet them as leave for other ranks.
std::size_t dry_run(const ModelSpec& spec, const ModelOptions& options, const ParallelLayout& layout,
                    const BatchShape& batch, const std::vector<std::int64_t>& chunks, Device& meta,
                    Directions directions = Directions::both) {
  const MeshShape& mesh = layout.mesh;
  const ExpertBuffer buffer{layout.expert_buffer};
  const bool bounded = buffer.bounded() && mesh.ep * mesh.etp > 1;
  const ModelPlace place{{0, mesh.tp}, {0, bounded ? mesh.ep : 1}, {0, mesh.etp}};
  Model model(spec, meta, options, pipeline_parts(spec, chunks, place)[0]);
  const auto cp = make_null_group(mesh.cp);
  const auto ep = make_null_group(mesh.ep);
  const auto etp = make_null_group(mesh.etp);
  for (Module* module : model.modules()) {
    if (auto* attention = dynamic_cast<Attention*>(module); attention != nullptr && mesh.cp > 1)
      attention->set_mixer(context_mixer(layout.context, *cp));
    if (auto* moe = dynamic_cast<Moe*>(module); moe != nullptr && bounded)
      moe->set_dispatcher(expert_dispatcher(*ep, *etp, buffer));
  }
  return activation_bytes(model, layout, batch, directions);
}

}  // namespace

std::size_t estimate_memory(const ModelSpec& spec, const ModelOptions& options, const ParallelLayout& layout,
                            const BatchShape& batch, const ReduceGroups& groups, Device* device,
                            bool graphs) {
  const DeviceOptions as{
      .chunk_bytes = device != nullptr ? device->chunk_bytes() : DeviceOptions().chunk_bytes,
      .stands_for = device};
  const auto meta = make_device(DeviceKind::meta, as);
  const MeshShape& mesh = layout.mesh;
  const int chunks = mesh.pp * layout.virtual_stages;
  const auto counts =
      layout.layers.empty() ? split_layers(split_costs(spec, batch.seq_len), chunks) : layout.layers;
  const ModelPlace place{{0, mesh.tp}, {0, mesh.ep}, {0, mesh.etp}};
  Model model(spec, *meta, options, pipeline_parts(spec, counts, place)[0]);
  double state = 0;
  for (const Parameter* parameter : model.parameters()) {
    const int owners = parameter->layout().ranks == Layout::Ranks::expert ? mesh.edp() : mesh.dp * mesh.cp;
    state += static_cast<double>(parameter->shape().numel()) *
             bytes_per_parameter(options, owners == 1 ? 0 : layout.zero, owners, gradient_buffers(groups));
  }
  std::size_t activations = dry_run(spec, options, layout, batch, counts, *meta);
  if (graphs) activations += dry_run(spec, options, layout, batch, counts, *meta, Directions::forward);
  if (chunks > 1 && device != nullptr)  // kernels of later stages too
    dry_run(spec, options, layout, batch, {static_cast<std::int64_t>(spec.layers.size())}, *meta);
  const auto live = std::min<std::int64_t>(mesh.pp, groups.local_groups * groups.microbatches_per_group());
  return static_cast<std::size_t>(state * layout.virtual_stages) +
         activations * static_cast<std::size_t>(live * layout.virtual_stages);
}

void take_memory(Device& device, const ModelSpec& spec, const ModelOptions& options,
                 const ParallelLayout& layout, const BatchShape& batch, const ReduceGroups& groups,
                 bool graphs) {
  const std::optional<std::size_t> available = device.available();
  if (!available) return;
  const std::size_t needed = estimate_memory(spec, options, layout, batch, groups, &device, graphs);
  if (needed <= *available) return device.reserve(needed);
  std::string fits;
  const auto try_one = [&](const ModelOptions& model, const ParallelLayout& ranks, const BatchShape& smaller,
                           const std::string& text) {
    const std::size_t bytes = estimate_memory(spec, model, ranks, smaller, groups, &device, graphs);
    if (bytes <= *available)
      fits += fmt::format("{}{} would take {}", fits.empty() ? "" : ", ", text,
                          bytes_text(static_cast<double>(bytes)));
    return bytes <= *available;
  };
  for (const auto& [recompute, text] :
       {std::pair{Recompute::selective, "selective"}, std::pair{Recompute::full, "full"}}) {
    ModelOptions model = options;
    model.recompute = recompute;
    if (recompute > options.recompute &&
        try_one(model, layout, batch, fmt::format("train.recompute: {}", text)))
      break;
  }
  for (std::int64_t micro = batch.micro_batch / 2; micro > 0; micro /= 2) {
    BatchShape smaller = batch;
    smaller.micro_batch = micro;
    if (try_one(options, layout, smaller, fmt::format("train.micro_batch: {}", micro))) break;
  }
  for (int zero = layout.zero + 1; zero <= 3 && layout.mesh.dp * layout.mesh.cp > 1; ++zero) {
    ParallelLayout more = layout;
    more.zero = zero;
    if (try_one(options, more, batch, fmt::format("parallel.zero: {}", zero))) break;
  }
  fail_usage(
      "the run would take {} a rank, and {} {} has room for {}: {}", bytes_text(static_cast<double>(needed)),
      name(device.kind()), device.ordinal(), bytes_text(static_cast<double>(*available)),
      fits.empty() ? "share the model among more ranks (parallel.tp, pp), or shorten data.seq_len" : fits);
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
