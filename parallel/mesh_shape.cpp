#include "parallel/mesh_shape.h"

#include <algorithm>
#include <vector>

#include "core/base/error.h"

namespace tessera {
namespace {

constexpr std::array<const char*, axes> names{"pp", "dp", "cp", "tp", "edp", "ep", "etp"};

void check_divides(Axis axis, std::int64_t size, std::int64_t what, const char* meaning) {
  if (size >= 1 && what % size == 0) return;
  fail_usage("parallel.{} {} does not divide {} {}; it may be {}", name_of(axis), size, what, meaning,
             divisors(what));
}

// KV heads either divide among the ranks, or each is held by a whole number of them.
void check_tensor_parallel(const MeshRequest& request, const MeshLimits& limits) {
  check_divides(Axis::tp, request.tp, limits.heads, "attention heads");
  if (limits.kv_heads % request.tp == 0 || request.tp % limits.kv_heads == 0) return;
  std::string fitting;
  for (std::int64_t tp = 1; tp <= limits.heads; ++tp)
    if (limits.heads % tp == 0 && (limits.kv_heads % tp == 0 || tp % limits.kv_heads == 0))
      fitting += (fitting.empty() ? "" : ", ") + std::to_string(tp);
  fail_usage("parallel.tp {} neither divides {} KV heads nor is a multiple of them; it may be {}", request.tp,
             limits.kv_heads, fitting);
}

void check_experts(const MeshRequest& request, const MeshLimits& limits, std::int64_t stage_ranks) {
  if (request.ep == 1 && request.etp == 1) return;
  if (limits.experts == 0)
    fail_usage("parallel.ep {} and etp {}: the model has no experts", request.ep, request.etp);
  check_divides(Axis::ep, request.ep, limits.experts, "experts");
  check_divides(Axis::etp, request.etp, limits.expert_width, "channels of an expert");
  if (stage_ranks % (std::int64_t{request.ep} * request.etp) != 0)
    fail_usage("parallel.ep {} × etp {} does not divide the {} ranks of dp × cp × tp; ep × etp may be {}",
               request.ep, request.etp, stage_ranks, divisors(stage_ranks));
}

}  // namespace

std::string divisors(std::int64_t n, std::int64_t multiple_of) {
  std::vector<std::int64_t> all;
  for (std::int64_t d = 1; d <= n / d; ++d) {
    if (n % d != 0) continue;
    all.push_back(d);
    if (d != n / d) all.push_back(n / d);
  }
  std::erase_if(all, [&](std::int64_t d) { return d % multiple_of != 0; });
  std::sort(all.begin(), all.end());
  constexpr std::size_t most = 24;  // in a message
  std::string list;
  for (std::size_t i = 0; i < all.size(); ++i) {
    if (i > most && i + 1 < all.size()) continue;
    list += fmt::format("{}{}", i == 0 ? "" : ", ",
                        i == most && all.size() > most + 1 ? "…" : std::to_string(all[i]));
  }
  return list.empty() ? "none" : list;
}

const char* name_of(Axis axis) {
  return names[static_cast<std::size_t>(axis)];
}

int MeshShape::size(Axis axis) const {
  return std::array<int, axes>{pp, dp, cp, tp, edp(), ep, etp}[static_cast<std::size_t>(axis)];
}

std::string text(const MeshShape& shape) {
  std::string list;
  for (const Axis axis : {Axis::pp, Axis::dp, Axis::cp, Axis::tp, Axis::ep, Axis::etp})
    if (shape.size(axis) > 1)
      list += fmt::format("{}{} {}", list.empty() ? "" : ", ", name_of(axis), shape.size(axis));
  return list.empty() ? "1 rank" : list;
}

MeshPlace place_of(const MeshShape& shape, int rank) {
  const int stage_ranks = shape.dp * shape.cp * shape.tp;
  const int inside = rank % stage_ranks;
  return {rank / stage_ranks, inside / (shape.cp * shape.tp),  inside / shape.tp % shape.cp,
          inside % shape.tp,  inside / (shape.ep * shape.etp), inside / shape.etp % shape.ep,
          inside % shape.etp};
}

MeshShape plan_mesh(const MeshRequest& request, const MeshLimits& limits, int ranks) {
  if (request.pp < 1 || request.pp > limits.layers)
    fail_usage("parallel.pp {} does not fit {} layers; it may be 1 to {}", request.pp, limits.layers,
               limits.layers);
  check_tensor_parallel(request, limits);
  // Each rank holds a piece from either end of a sequence, so that causal attention costs all the same.
  if (request.cp < 1 || (request.cp > 1 && limits.seq_len % (2 * std::int64_t{request.cp}) != 0))
    fail_usage("parallel.cp {}: 2 × cp pieces do not divide a sequence of {}; cp may be 1 or a divisor of {}",
               request.cp, limits.seq_len, limits.seq_len / 2);
  const std::int64_t model_ranks = std::int64_t{request.pp} * request.cp * request.tp;
  if (ranks % model_ranks != 0)
    fail_usage("{} ranks are not a multiple of pp {} × cp {} × tp {} = {}", ranks, request.pp, request.cp,
               request.tp, model_ranks);
  const int dp = static_cast<int>(ranks / model_ranks);
  if (request.dp && *request.dp != dp)
    fail_usage("parallel.dp is {}, but {} ranks leave {} beside pp {} × cp {} × tp {}", *request.dp, ranks,
               dp, request.pp, request.cp, request.tp);
  check_experts(request, limits, ranks / request.pp);
  return {request.pp, dp, request.cp, request.tp, request.ep, request.etp};
}

}  // namespace tessera
