#include "parallel/experts.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "core/autograd/tape.h"
#include "core/base/mutant.h"
#include "core/ops/dispatch.h"
#include "core/ops/row_layout.h"
#include "core/tensor/elementwise.h"

namespace tessera {
namespace {

using Counts = std::vector<std::int64_t>;

std::int64_t total(const Counts& counts) {
  return std::accumulate(counts.begin(), counts.end(), std::int64_t{0});
}

// x cut into, or made of, runs of so many rows.
std::vector<Tensor> runs_of(const Tensor& x, const Counts& counts) {
  std::vector<Tensor> runs;
  std::int64_t at = 0;
  for (const std::int64_t count : counts) {
    runs.push_back(x.narrow(0, at, count));
    at += count;
  }
  return runs;
}

Tensor empty_rows(const Tensor& like, std::int64_t rows) {
  return Tensor::empty({rows, like.size(1)}, like.dtype(), like.device());
}

Tensor exchanged(const Tensor& x, const Counts& sent, const Counts& received, ProcessGroup& group) {
  Tensor y = empty_rows(x, total(received));
  group.all_to_all(runs_of(y, received), runs_of(x, sent));
  return y;
}

// Runs of `sent` rows to each rank; runs of `received` from each. Recorded.
Tensor exchange_rows(const Tensor& x, const Counts& sent, const Counts& received, ProcessGroup& group) {
  if (group.size() == 1) return x;
  return record_move(
      "exchange_rows", x, exchanged(x.detach(), sent, received, group),
      [sent, received, &group](const Tensor& g) { return exchanged(g, received, sent, group); });
}

Tensor all_rows(const Tensor& x, const Counts& rows, ProcessGroup& group) {
  Tensor y = empty_rows(x, total(rows));
  group.all_gather(runs_of(y, rows), x);
  return y;
}

Tensor own_sum(const Tensor& x, const Counts& rows, ProcessGroup& group) {
  Tensor y = empty_rows(x, rows[static_cast<std::size_t>(group.rank())]);
  group.reduce_scatter(y, runs_of(x, rows));
  if (mutant("expert_sum_doubled")) add_into(y, y);
  return y;
}

// Every rank's rows, and the dual: the sum of what the ranks have for this rank's rows. Recorded.
Tensor gather_rows_of_all(const Tensor& x, const Counts& rows, ProcessGroup& group) {
  if (group.size() == 1) return x;
  return record_move("gather_rows_of_all", x, all_rows(x.detach(), rows, group),
                     [rows, &group](const Tensor& g) { return own_sum(g, rows, group); });
}

Tensor sum_own_rows(const Tensor& x, const Counts& rows, ProcessGroup& group) {
  if (group.size() == 1) return x;
  return record_move("sum_own_rows", x, own_sum(x.detach(), rows, group),
                     [rows, &group](const Tensor& g) { return all_rows(g, rows, group); });
}

// How many rows each rank of this expert's ranks has for each expert here: I32 [etp, ep, experts here].
Tensor counts_of_all(const Tensor& counts, ProcessGroup& ep, ProcessGroup& etp) {
  const Tensor arriving = Tensor::empty(counts.shape(), DType::i32, counts.device());
  ep.all_to_all(arriving, counts);
  Tensor all = Tensor::empty({etp.size() * counts.numel()}, DType::i32, counts.device());
  etp.all_gather(all, arriving);
  return all;
}

// Reads counts on the host: as many rows go as there are.
class CountedTrip : public TokenDispatcher::Trip {
 public:
  CountedTrip(const Tensor& counts, ProcessGroup& ep, ProcessGroup& etp) : ep_(ep), etp_(etp) {
    const auto ranks = static_cast<std::size_t>(ep.size());
    const auto experts = static_cast<std::size_t>(counts.numel()) / ranks;
    std::vector<std::int32_t> own(static_cast<std::size_t>(counts.numel()));
    counts.to_host(own.data());
    for (std::size_t r = 0; r < ranks; ++r) {
      const auto first = own.begin() + static_cast<std::ptrdiff_t>(r * experts);
      sent_.push_back(std::accumulate(first, first + static_cast<std::ptrdiff_t>(experts), std::int64_t{0}));
    }
    const Tensor all = counts_of_all(counts, ep, etp);
    std::vector<std::int32_t> arriving(static_cast<std::size_t>(all.numel()));
    all.to_host(arriving.data());
    lay_out(arriving, experts, counts.device());
  }

  const Tensor& offsets() const override { return offsets_; }
  Tensor to_experts(const Tensor& rows) override {
    const Tensor arrived = exchange_rows(rows, sent_, received_, ep_);
    return permute_rows(gather_rows_of_all(arrived, rows_, etp_), order_, inverse_);
  }
  Tensor from_experts(const Tensor& rows) override {
    if (mutant("expert_rows_to_wrong_places"))
      return exchange_rows(sum_own_rows(rows, rows_, etp_), received_, sent_, ep_);
    const Tensor back = sum_own_rows(permute_rows(rows, inverse_, order_), rows_, etp_);
    return exchange_rows(back, received_, sent_, ep_);
  }

 private:
  // Rows arrive by (etp rank, ep rank, expert), and are wanted by (expert, etp rank, ep rank).
  void lay_out(const std::vector<std::int32_t>& counts, std::size_t experts, Device& device) {
    const auto sources = static_cast<std::size_t>(ep_.size());
    const auto slices = static_cast<std::size_t>(etp_.size());
    const auto at = [&](std::size_t slice, std::size_t source, std::size_t expert) {
      return (slice * sources + source) * experts + expert;
    };
    std::vector<std::int64_t> begins(counts.size() + 1);
    for (std::size_t i = 0; i < counts.size(); ++i) begins[i + 1] = begins[i] + counts[i];
    const auto mine = static_cast<std::size_t>(etp_.rank());
    for (std::size_t s = 0; s < sources; ++s)
      received_.push_back(begins[at(mine, s, experts)] - begins[at(mine, s, 0)]);
    for (std::size_t e = 0; e < slices; ++e)
      rows_.push_back(begins[(e + 1) * sources * experts] - begins[e * sources * experts]);
    std::vector<std::int32_t> order;
    std::vector<std::int32_t> offsets{0};
    for (std::size_t x = 0; x < experts; ++x) {
      for (std::size_t e = 0; e < slices; ++e)
        for (std::size_t s = 0; s < sources; ++s)
          for (std::int64_t row = begins[at(e, s, x)]; row < begins[at(e, s, x) + 1]; ++row)
            order.push_back(static_cast<std::int32_t>(row));
      offsets.push_back(static_cast<std::int32_t>(order.size()));
    }
    std::vector<std::int32_t> inverse(order.size());
    for (std::size_t i = 0; i < order.size(); ++i)
      inverse[static_cast<std::size_t>(order[i])] = static_cast<std::int32_t>(i);
    const auto on_device = [&](const std::vector<std::int32_t>& values) {
      return Tensor::from_host(values.data(), {static_cast<std::int64_t>(values.size())}, DType::i32, device);
    };
    order_ = on_device(order);
    inverse_ = on_device(inverse);
    offsets_ = on_device(offsets);
  }

  ProcessGroup& ep_;
  ProcessGroup& etp_;
  Counts sent_, received_;  // rows, by ep rank
  Counts rows_;             // at this expert's ranks, by etp rank
  Tensor order_, inverse_, offsets_;
};

// Counts stay on the device: a rank sends each other one B rows, those without a token zero.
class BoundedTrip : public TokenDispatcher::Trip {
 public:
  BoundedTrip(const Tensor& counts, std::int64_t rows, const Tensor& over, ProcessGroup& ep,
              ProcessGroup& etp, ExpertBuffer buffer)
      : ep_(ep), etp_(etp) {
    const int ranks = ep.size();
    const int slices = etp.size();
    const std::int64_t experts = counts.numel() / ranks;
    const std::int64_t most = buffer_rows(buffer, rows, ranks);
    each_.assign(static_cast<std::size_t>(ranks), most);
    rows_.assign(static_cast<std::size_t>(slices), ranks * most);
    const Tensor told = mutant("overflow_not_told") ? contiguous_copy(over) : over;
    sent_ = lay_out_rows(counts.view({ranks, 1, experts}), most, told);
    sent_.to_slot = sent_.to_slot.narrow(0, 0, rows);
    const Tensor arriving = counts_of_all(counts, ep, etp);
    arrived_ = lay_out_rows(arriving.view({slices * ranks, experts, 1}), most, told);
  }

  const Tensor& offsets() const override { return arrived_.offsets; }
  Tensor to_experts(const Tensor& rows) override {
    const Tensor padded = permute_rows(rows, sent_.from_slot, sent_.to_slot);  // [ep B, H]
    for (std::int64_t r = 1; mutant("full_buffer_loses_a_row") && r <= ep_.size(); ++r)
      Tensor(padded.narrow(0, r * each_[0] - 1, 1)).zero();
    const Tensor here = gather_rows_of_all(exchange_rows(padded, each_, each_, ep_), rows_, etp_);
    return permute_rows(here, arrived_.to_slot, arrived_.from_slot);  // [etp ep B, H]
  }
  Tensor from_experts(const Tensor& rows) override {
    // The fault: compact rows go back as if they were in the slots in which they came.
    const bool lost = mutant("bounded_rows_to_wrong_places");
    const Tensor here = permute_rows(rows, lost ? arrived_.to_slot : arrived_.from_slot, arrived_.to_slot);
    const Tensor back = exchange_rows(sum_own_rows(here, rows_, etp_), each_, each_, ep_);
    return permute_rows(back, sent_.to_slot, sent_.from_slot);
  }

 private:
  ProcessGroup& ep_;
  ProcessGroup& etp_;
  Counts each_;  // rows to, and from, each ep rank
  Counts rows_;  // at this expert's ranks, by etp rank
  // By the rank that rows go to; and, of those that have come, by (etp rank, ep rank), wanted by expert.
  RowLayout sent_, arrived_;
};

class ExpertDispatcher : public TokenDispatcher {
 public:
  ExpertDispatcher(ProcessGroup& ep, ProcessGroup& etp, ExpertBuffer buffer)
      : ep_(ep), etp_(etp), buffer_(buffer) {}
  std::unique_ptr<Trip> plan(const Tensor& counts, std::int64_t rows, const Tensor& over) override {
    if (buffer_.bounded() && !waits_)
      return std::make_unique<BoundedTrip>(counts, rows, over, ep_, etp_, buffer_);
    return std::make_unique<CountedTrip>(counts, ep_, etp_);
  }
  void let_host_wait(bool may) override { waits_ = may; }

 private:
  ProcessGroup& ep_;
  ProcessGroup& etp_;
  ExpertBuffer buffer_;
  bool waits_ = false;
};

}  // namespace

std::int64_t buffer_rows(ExpertBuffer buffer, std::int64_t rows, int ranks) {
  const double bound = std::ceil(buffer.factor * static_cast<double>(rows) / ranks);
  return bound < static_cast<double>(rows) ? static_cast<std::int64_t>(bound) : rows;
}

std::unique_ptr<TokenDispatcher> expert_dispatcher(ProcessGroup& ep, ProcessGroup& etp, ExpertBuffer buffer) {
  return std::make_unique<ExpertDispatcher>(ep, etp, buffer);
}

}  // namespace tessera
