#include "launch/verify/compare.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "core/base/error.h"

namespace tessera::verify {
namespace {

// fp32 sums in another order: norms of differences of some 1e-6 of a tensor's are met; ten times that is not
// rounding. bf16 rounds to 2^-9 of a value: some 20 times a layer on a gradient's way forward and back, which
// add up as independent errors do, and eight times that where a tensor's gradient is a sum that cancels.
double allowed_difference(const Subject& subject) {
  if (subject.model.compute != DType::bf16) return 1e-5;
  return 8 * std::sqrt(20 * static_cast<double>(subject.spec.layers.size())) * std::ldexp(1, -9);
}

// A loss is a mean over all tokens: of roundings that are independent little is left. A token's loss has an
// error of some sqrt(20 layers) 2^-9, 1e-2 of a logit of about one, next to a loss of about five; over a
// hundred tokens and more that is 2e-4 of the mean. Five times that is no rounding.
double allowed_loss(const Subject& subject) {
  return subject.model.compute == DType::bf16 ? 1e-3 : 1e-5;
}

// A norm changes by what errors have in common with the gradient: of some 2e-2 of it in bf16, which tensors
// share, about the root of thirty tensors less, 4e-3; met as 2e-3.
double allowed_norm(const Subject& subject) {
  return subject.model.compute == DType::bf16 ? 5e-3 : 1e-5;
}

// Scores of two experts closer than this may change places by rounding.
double allowed_gap(const Subject& subject) {
  return subject.model.compute == DType::bf16 ? std::ldexp(1, -7) : 1e-5;
}

double dot(const std::vector<float>& a, const std::vector<float>& b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += static_cast<double>(a[i]) * static_cast<double>(b[i]);
  return sum;
}

double distance(const std::vector<float>& a, const std::vector<float>& b, double factor, std::size_t shift) {
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const double d = factor * static_cast<double>(a[i]) - static_cast<double>(b[(i + shift) % b.size()]);
    sum += d * d;
  }
  return std::sqrt(sum);
}

// "layers.3.attention.q.weight" belongs to "attention.q.weight"; experts to one group.
std::string group_of(const std::string& name) {
  std::string group;
  std::size_t at = 0;
  while (at < name.size()) {
    const std::size_t end = std::min(name.find('.', at), name.size());
    const std::string part = name.substr(at, end - at);
    const bool number = part.find_first_not_of("0123456789") == std::string::npos;
    if (!number && part != "layers") group += (group.empty() ? "" : ".") + part;
    at = end + 1;
  }
  return group;
}

double relative(double one, double many) {
  return one == many ? 0 : std::fabs(one - many) / std::max(std::fabs(one), 1e-30);
}

// What two runs are compared by, in turn; the first fault found is the one that is told.
class Comparer {
 public:
  Comparer(const Subject& subject, const ParallelLayout& layout, const Record& one, const Record& many)
      : subject_(subject), layout_(layout), one_(one), many_(many) {
    result_.bits = promises_bits(layout, subject.reduce_groups);
    result_.allowed = result_.bits ? 0 : allowed_difference(subject);
    result_.allowed_loss = result_.bits ? 0 : allowed_loss(subject);
    result_.allowed_norm = result_.bits ? 0 : allowed_norm(subject);
  }

  Comparison run() {
    first_weights();
    coverage();
    if (!many_.overflows.empty()) {
      fault("experts", many_.overflows.front());
      return result_;
    }
    batches(0);
    used(0, many_.first_weights);
    activations();
    losses(1);
    gradients();
    norms(1);
    updates(one_.updated, many_.updated, 1);
    batches(1);
    if (subject_.steps > 1) used(1, many_.updated);
    losses(subject_.steps);
    norms(subject_.steps);
    updates(one_.weights, many_.weights, subject_.steps);
    choices();
    for (const auto& [group, row] : rows_) result_.rows.push_back(row);
    return result_;
  }

 private:
  void fault(const std::string& tensor, std::string what) {
    if (!result_.fault) result_.fault = Fault{tensor, std::move(what)};
  }

  void first_weights() {
    for (const std::string& name : one_.order) {
      const auto one = one_.first_weights.find(name);
      if (one == one_.first_weights.end()) continue;
      const auto many = many_.first_weights.find(name);
      if (many == many_.first_weights.end())
        fault(name, "no rank holds it");
      else if (std::count(many_.disagreed.begin(), many_.disagreed.end(), name) > 0)
        fault(name, "ranks hold different copies of it before the first step");
      else if (std::any_of(many->second.values.begin(), many->second.values.end(),
                           [](float value) { return std::isnan(value); }))
        fault(name, "some of its elements are held by no rank");
      else if (many->second.values != one->second.values)
        fault(name, "its first values are not those of one rank" +
                        guess_text(difference(one->second, many->second, layout_.mesh)));
    }
  }

  void coverage() {
    for (const std::string& name : one_.order)
      if (const auto found = many_.uncovered.find(name); found != many_.uncovered.end())
        fault(name, found->second);
  }

  // Of a step, or of all from it on.
  void batches(int step) {
    const std::int64_t microbatches = subject_.batch.microbatches();
    for (const auto& [microbatch, what] : many_.batch_faults)
      if (microbatch / microbatches == step || step > 0)
        fault("batch", fmt::format("microbatch {} of step {}, as a rank is given it: {}",
                                   microbatch % microbatches, microbatch / microbatches, what));
  }

  // Forward computes with the weights there are, rounded to its own type.
  void used(int step, const Tensors& weights) {
    const Tensors& all = many_.used[step];
    for (const std::string& name : one_.order) {
      const auto found = all.find(name);
      const auto weight = weights.find(name);
      if (weight == weights.end()) continue;
      const auto& disagreed = many_.disagreed_use[step];
      if (found == all.end())
        fault(name, fmt::format("step {} does not compute with it", step));
      else if (std::count(disagreed.begin(), disagreed.end(), name) > 0)
        fault(name, fmt::format("ranks compute step {} with different values of it{}", step,
                                step > 0 ? ": not all have the update" : ""));
      else if (!same_values(weight->second.values, found->second.values))
        fault(name, fmt::format("step {} computes with other values than {}{}", step,
                                step > 0 ? "the update left" : "it has",
                                guess_text(difference(weight->second, found->second, layout_.mesh))));
    }
  }

  bool same_values(const std::vector<float>& exact, const std::vector<float>& used) const {
    if (exact.size() != used.size()) return false;
    const bool rounds = subject_.model.compute == DType::bf16;
    for (std::size_t i = 0; i < exact.size(); ++i)
      if (used[i] != exact[i] && !(rounds && used[i] == static_cast<float>(bf16(exact[i])))) return false;
    return true;
  }

  static std::string guess_text(const Difference& d) { return d.guess.empty() ? "" : ": " + d.guess; }

  void activations() {
    for (const std::string& name : one_.order) {
      const auto one = one_.activations.find(name);
      if (one == one_.activations.end()) continue;
      const auto many = many_.activations.find(name);
      const std::string module = name.substr(0, name.find(' '));
      if (many == many_.activations.end()) {
        fault(module, "was not computed");
        continue;
      }
      other_choices(module, 0);
      const Difference d = difference(one->second, many->second, layout_.mesh);
      if (!(d.relative <= result_.allowed))
        fault(module, fmt::format("what it makes differs by {:.2e} in microbatch {}{}", d.relative,
                                  name.substr(name.find('#') + 1), guess_text(d)));
    }
  }

  // The worst relative difference of the first `steps`.
  double scalars(const char* what, const std::vector<double>& one, const std::vector<double>& many, int steps,
                 double allowed) {
    double worst = 0;
    for (std::size_t i = 0; i < static_cast<std::size_t>(steps); ++i) {
      const double r = relative(one[i], many[i]);
      worst = std::max(worst, r);
      if (r <= allowed) continue;
      const std::string guess =
          r > 1e-3 && one[i] != 0 ? ": " + factor_text(many[i] / one[i], layout_.mesh) : "";
      fault(what, fmt::format("of step {} is {:.9g}; one rank has {:.9g}{}", i, many[i], one[i], guess));
    }
    return worst;
  }

  void losses(int steps) {
    result_.loss = scalars("loss", one_.losses, many_.losses, steps, result_.allowed_loss);
    // Reported only, and summed as ranks come: rounding is no fault, whatever the layout promises.
    scalars("balance term", one_.balances, many_.balances, steps, allowed_loss(subject_));
  }
  void norms(int steps) {
    result_.norm = scalars("gradient norm", one_.norms, many_.norms, steps, result_.allowed_norm);
  }

  // Backward meets tensors from the end.
  void gradients() {
    for (auto name = one_.order.rbegin(); name != one_.order.rend(); ++name) {
      const auto one = one_.gradients.find(*name);
      if (one == one_.gradients.end()) continue;
      const auto many = many_.gradients.find(*name);
      if (many == many_.gradients.end()) {
        fault(*name, "no rank has its gradient");
        continue;
      }
      const Difference d = difference(one->second, many->second, layout_.mesh);
      GroupRow& row = row_of(*name);
      if (!(d.relative <= row.worst)) {
        row.worst = d.relative;
        row.worst_tensor = *name;
      }
      if (!(d.relative <= result_.allowed))
        fault(*name, fmt::format("its gradient differs by {:.2e}{}", d.relative, guess_text(d)));
    }
  }

  GroupRow& row_of(const std::string& name) {
    GroupRow& row = rows_[group_of(name)];
    if (row.group.empty()) row.group = group_of(name);
    if (seen_.insert(name).second) ++row.tensors;
    return row;
  }

  void updates(const Tensors& all_one, const Tensors& all_many, int steps) {
    for (const std::string& name : one_.order)
      if (const auto one = all_one.find(name); one != all_one.end())
        update(name, one->second, all_many, one_.gradients.find(name), steps);
  }

  // AdamW moves an element by about lr times the sign of its gradient, so an error of the gradient shows as
  // itself over the gradient. Elements whose gradient is less than 100 times the tensor's error (16 times in
  // bf16) are left out; the others may differ by steps × 1e-2 × lr, and by four roundings of the weight. In
  // bf16 a later, smaller gradient may turn an element round: there the root mean square is held to steps ×
  // lr / 2.
  void update(const std::string& name, const Whole& one, const Tensors& all_many,
              Tensors::const_iterator gradient, int steps) {
    const auto found = all_many.find(name);
    if (found == all_many.end()) return fault(name, "no rank updates it");
    const Whole& many = found->second;
    const bool trained = gradient != one_.gradients.end();
    const double error = trained ? gradient_error(name, gradient->second) : 0;
    GroupRow& row = row_of(name);
    double worst = 0;
    double squares = 0;
    const bool bf16 = subject_.model.compute == DType::bf16;
    for (std::size_t i = 0; i < one.values.size(); ++i) {
      const double w = one.values[i];
      const double d = std::fabs(w - static_cast<double>(many.values[i]));
      if (steps > 1) ++row.elements;
      const bool below =
          trained && std::fabs(static_cast<double>(gradient->second.values[i])) <= clear_margin() * error;
      if (below && !result_.bits) {
        if (steps > 1) ++row.left_out;
        continue;
      }
      squares += d * d;
      if (bf16 && !result_.bits) continue;
      const double allowed = result_.bits ? 0 : steps * step_allowance() + std::ldexp(std::fabs(w), -21);
      if (!(d <= allowed) && !(d <= worst)) {
        worst = d;
        if (!result_.fault)
          fault(name, fmt::format("element {} is off by {:.2e} after step {}, {:.2g} x lr; {:.2e} would be "
                                  "rounding",
                                  i, d, steps - 1, d / subject_.lr, allowed));
      }
      if (steps > 1) row.worst_update = std::max(row.worst_update, d / subject_.lr);
    }
    const double mean = std::sqrt(squares / static_cast<double>(one.values.size()));
    if (bf16 && !result_.bits && !(mean <= steps * step_allowance()))
      fault(name,
            fmt::format("its elements are off by {:.2g} x lr after step {}", mean / subject_.lr, steps - 1));
  }

  double clear_margin() const { return subject_.model.compute == DType::bf16 ? 16 : 100; }
  double step_allowance() const { return (subject_.model.compute == DType::bf16 ? 0.5 : 1e-2) * subject_.lr; }

  // Root mean square of the difference of a gradient's elements.
  double gradient_error(const std::string& name, const Whole& one) const {
    const auto many = many_.gradients.find(name);
    if (many == many_.gradients.end()) return 0;
    return distance(one.values, many->second.values, 1, 0) /
           std::sqrt(static_cast<double>(one.values.size()));
  }

  // Tokens of a step that go elsewhere, by more than rounding; `layer` empty: of all.
  void other_choices(const std::string& layer, int step) {
    const std::int64_t microbatches = subject_.batch.microbatches();
    for (const OtherChoice& other : many_.other_choices)
      if (other.gap > allowed_gap(subject_) && other.microbatch / microbatches == step &&
          (layer.empty() || layer == other.layer))
        fault(other.layer, fmt::format("token {} of microbatch {} chooses another expert, by {:.2e}: more "
                                       "than rounding",
                                       other.token, other.microbatch, other.gap));
  }

  void choices() {
    std::map<std::string, std::pair<int, double>> by_layer;
    for (const OtherChoice& other : many_.other_choices) {
      auto& [count, gap] = by_layer[other.layer];
      ++count;
      gap = std::max(gap, other.gap);
    }
    for (int step = 0; step < subject_.steps; ++step) other_choices("", step);
    for (const auto& [layer, found] : by_layer)
      result_.remarks.push_back(
          fmt::format("{}: {} tokens would have chosen other experts, by {:.1e} at most", layer, found.first,
                      found.second));
    for (const auto& [group, row] : rows_) {
      result_.left_out += row.left_out;
      result_.elements += row.elements;
    }
  }

  const Subject& subject_;
  const ParallelLayout& layout_;
  const Record& one_;
  const Record& many_;
  Comparison result_;
  std::map<std::string, GroupRow> rows_;
  std::set<std::string> seen_;
};

// Rows, or shares of rows, that lie where others should.
std::string shift_text(const Whole& one, const Whole& many, const MeshShape& mesh, double norm) {
  const std::size_t width = one.shape.rank() == 2 ? static_cast<std::size_t>(one.shape[1]) : 1;
  const std::size_t rows = one.values.size() / width;
  std::set<std::size_t> shifts{1, rows - 1};
  for (const Axis axis : {Axis::tp, Axis::cp, Axis::dp, Axis::ep})
    for (std::size_t i = 1; i < static_cast<std::size_t>(mesh.size(axis)); ++i)
      shifts.insert(rows * i / static_cast<std::size_t>(mesh.size(axis)));
  for (const std::size_t shift : shifts)
    if (shift > 0 && shift < rows && distance(one.values, many.values, 1, shift * width) < 1e-3 * norm)
      return fmt::format("shifted by {} of {} rows", shift, rows);
  return "";
}

// Equal but for some rows that are zero, or twice as large.
std::string part_text(const Whole& one, const Whole& many) {
  const std::size_t width = one.shape.rank() == 2 ? static_cast<std::size_t>(one.shape[1]) : 1;
  std::size_t zero = 0;
  std::size_t good = 0;
  const std::size_t rows = one.values.size() / width;
  for (std::size_t row = 0; row < rows; ++row) {
    double error = 0;
    double size = 0;
    double norm = 0;
    for (std::size_t i = row * width; i < (row + 1) * width; ++i) {
      error += std::fabs(static_cast<double>(one.values[i]) - static_cast<double>(many.values[i]));
      size += std::fabs(static_cast<double>(many.values[i]));
      norm += std::fabs(static_cast<double>(one.values[i]));
    }
    good += error <= 1e-4 * norm ? 1 : 0;
    zero += size == 0 && norm > 0 ? 1 : 0;
  }
  if (zero > 0 && zero + good == rows) return fmt::format("{} of {} rows are missing", zero, rows);
  if (good > 0 && good < rows) return fmt::format("{} of {} rows are wrong", rows - good, rows);
  return "";
}

}  // namespace

std::string factor_text(double factor, const MeshShape& mesh) {
  for (const Axis axis : {Axis::tp, Axis::dp, Axis::cp, Axis::pp, Axis::ep, Axis::etp, Axis::edp}) {
    const int size = mesh.size(axis);
    if (size > 1 && std::fabs(factor / size - 1) < 1e-3)
      return fmt::format("{} x too large, as if summed over {} once too often", size, name_of(axis));
    if (size > 1 && std::fabs(factor * size - 1) < 1e-3)
      return fmt::format("{} x too small, as if averaged over {}", size, name_of(axis));
  }
  return fmt::format("a factor of {:.4g}", factor);
}

Difference difference(const Whole& one, const Whole& many, const MeshShape& mesh) {
  Difference result;
  if (one.values.size() != many.values.size()) {
    result.relative = 1;
    result.guess = fmt::format("it has shape {} instead of {}", many.shape.text(), one.shape.text());
    return result;
  }
  const double norm = std::sqrt(dot(one.values, one.values));
  const double error = distance(one.values, many.values, 1, 0);
  result.relative = error == 0 ? 0 : error / std::max(norm, 1e-30);
  if (result.relative <= 1e-5) return result;
  const double size = std::sqrt(dot(many.values, many.values));
  if (std::isnan(size)) {
    result.guess = "not numbers";
  } else if (size == 0) {
    result.guess = "missing: it is zero";
  } else {
    const double factor = dot(one.values, many.values) / (norm * norm);
    if (distance(one.values, many.values, factor, 0) < 1e-3 * size)
      result.guess = factor_text(factor, mesh);
    else if (result.guess = shift_text(one, many, mesh, norm); result.guess.empty())
      result.guess = part_text(one, many);
    if (result.guess.empty() && size < 0.9 * norm) result.guess = "too small: a sum may be missing";
  }
  return result;
}

Comparison compare(const Subject& subject, const ParallelLayout& layout, const Record& one,
                   const Record& many) {
  return Comparer(subject, layout, one, many).run();
}

std::string summary(const Comparison& comparison) {
  if (comparison.bits) return "the same bits as one rank";
  double worst = comparison.loss;
  for (const GroupRow& row : comparison.rows) worst = std::max(worst, row.worst);
  return fmt::format("within rounding of one rank ({:.1e})", worst);
}

}  // namespace tessera::verify
