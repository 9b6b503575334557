#include "parallel/apply.h"

#include "core/base/mutant.h"
#include "core/ops/linear_cross_entropy.h"
#include "parallel/experts.h"
#include "parallel/redistribute.h"

namespace tessera {
namespace {

Module::Reshard moved(Placement from, Placement to, ProcessGroup& group) {
  return [from, to, &group](const Tensor& x) { return redistribute(x, from, to, group); };
}

// Between blocks a rank holds its share of the tokens; a block that is cut by heads or channels sees all of
// them, and gives back partial sums.
void apply_tensor_parallel(Model& model, ProcessGroup& group) {
  const auto gathered = moved(Placement::shard, Placement::replicate, group);
  const auto summed = moved(Placement::partial, Placement::shard, group);
  for (Module* module : model.modules()) {
    if (dynamic_cast<Attention*>(module) != nullptr || dynamic_cast<Ffn*>(module) != nullptr)
      module->reshard(gathered, summed);
    else if (dynamic_cast<Embedding*>(module) != nullptr)
      module->reshard({}, summed);
    else if (dynamic_cast<Head*>(module) != nullptr)
      module->reshard(gathered, {});
  }
}

void apply_vocabulary_parallel(Head& head, ProcessGroup& group) {
  head.set_loss(
      [&group](const Tensor& x, Parameter& weight, const Tensor& targets, const Tensor& inverse_count) {
        const auto gather = [&group](const Tensor& lse) {
          Tensor all = Tensor::empty({group.size(), lse.numel()}, DType::f32, lse.device());
          group.all_gather(all, lse);
          for (std::int64_t r = 0; mutant("vocabulary_sums_not_shared") && r < group.size(); ++r)
            all.narrow(0, r, 1).view({lse.numel()}).copy_from(lse);
          return all;
        };
        const Segment& rows = weight.segments()[0];
        const std::int64_t first =
            mutant("vocabulary_cut_evenly") ? rows.global[0] / group.size() * group.rank() : rows.first_row;
        return sharded_linear_cross_entropy(x, weight, targets, inverse_count, {first, group.rank(), gather});
      });
}

void apply_context_parallel(Model& model, ContextMethod method, ProcessGroup& group) {
  for (Module* module : model.modules())
    if (auto* attention = dynamic_cast<Attention*>(module))
      attention->set_mixer(context_mixer(method, group));
}

void apply_expert_parallel(Model& model, const Mesh& mesh, ExpertBuffer buffer) {
  for (Module* module : model.modules()) {
    auto* moe = dynamic_cast<Moe*>(module);
    if (moe == nullptr) continue;
    if (mesh.size(Axis::ep) > 1 || mesh.size(Axis::etp) > 1)
      moe->set_dispatcher(expert_dispatcher(mesh.group(Axis::ep), mesh.group(Axis::etp), buffer));
    moe->on_sequence_counts([&mesh](const Tensor& counts) {
      for (const Axis axis : {Axis::tp, Axis::cp})
        if (mesh.size(axis) > 1 && !mutant("counts_not_summed") &&
            !(mutant("sequence_counts_miss_cp") && axis == Axis::cp))
          mesh.group(axis).all_reduce(counts);
    });
  }
}

}  // namespace

ModelPlace model_place(const Mesh& mesh) {
  const auto place = [&](Axis axis) { return ShardPlace{mesh.index(axis), mesh.size(axis)}; };
  return {place(Axis::tp), place(Axis::ep), place(Axis::etp)};
}

void apply_mesh(Model& model, const Mesh& mesh, const ParallelLayout& layout) {
  if (mesh.size(Axis::tp) > 1) {
    apply_tensor_parallel(model, mesh.group(Axis::tp));
    if (model.head() != nullptr) apply_vocabulary_parallel(*model.head(), mesh.group(Axis::tp));
  }
  if (mesh.size(Axis::cp) > 1) apply_context_parallel(model, layout.context, mesh.group(Axis::cp));
  apply_expert_parallel(model, mesh, {layout.expert_buffer});
}

}  // namespace tessera
