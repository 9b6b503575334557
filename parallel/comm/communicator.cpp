#include "parallel/comm/communicator.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "core/base/activity.h"
#include "core/tensor/device.h"
#include "core/tensor/reductions.h"

namespace tessera {
namespace {

// `x` flat, in `parts` equal parts.
std::vector<Tensor> equal_parts(const Tensor& x, int parts) {
  const Tensor flat = x.detach().view({x.numel()});
  const std::int64_t each = x.numel() / parts;
  std::vector<Tensor> result;
  for (int r = 0; r < parts; ++r) result.push_back(flat.narrow(0, r * each, each));
  return result;
}

// As even as whole cache lines allow.
std::vector<Tensor> line_parts(const Tensor& x, int parts) {
  const Tensor flat = x.detach().view({x.numel()});
  const std::int64_t lines = (x.numel() + 15) / 16;
  std::vector<Tensor> result;
  for (int r = 0; r < parts; ++r) {
    const std::int64_t begin = std::min(x.numel(), lines * r / parts * 16);
    const std::int64_t end = std::min(x.numel(), lines * (r + 1) / parts * 16);
    result.push_back(flat.narrow(0, begin, end - begin));
  }
  return result;
}

}  // namespace

std::optional<double> forced_patience() {
  const double value = timeout_of_environment();
  return value > 0 ? std::optional(value) : std::nullopt;
}

std::string ProcessGroup::Call::text() const {
  if (elements < 0) return fmt::format("{} of {} parts", collective, tessera::name(dtype));
  return fmt::format("{} of {} {}", collective, elements, tessera::name(dtype));
}

void ProcessGroup::keep(std::span<const Tensor> tensors) {
  if (deferring()) deferring_->kept.insert(deferring_->kept.end(), tensors.begin(), tensors.end());
}

std::uint64_t ProcessGroup::defer(const std::function<void()>& calls, std::function<void()> then) {
  const std::uint64_t number = ++deferred_count_;
  if (!runs_beside()) {
    calls();
    if (then) then();
    return number;
  }
  assert(!deferring());
  Deferred mine{number};
  deferring_ = &mine;
  try {
    calls();
  } catch (...) {  // the job ends, but tensors are still in use
    deferring_ = nullptr;
    deferred_.push_back(std::move(mine));
    throw;
  }
  deferring_ = nullptr;
  mine.mark = do_mark();
  if (then) mine.at_join.push_back(std::move(then));
  deferred_.push_back(std::move(mine));
  return number;
}

void ProcessGroup::join(std::uint64_t until) {
  while (!deferred_.empty() && deferred_.front().number <= until) {
    const Deferred oldest = std::move(deferred_.front());
    deferred_.pop_front();
    do_wait(oldest.mark);
    for (const auto& rest : oldest.at_join) rest();
  }
}

void ProcessGroup::exchange(const Call& call, std::span<const Tensor> out, std::span<const Tensor> in) {
  assert(out.size() == static_cast<std::size_t>(size_) && in.size() == out.size());
  std::vector<Incoming> incoming;
  std::vector<Outgoing> outgoing;
  for (std::size_t r = 0; r < in.size(); ++r) {
    assert(out[r].is_contiguous() && in[r].is_contiguous());
    incoming.push_back({out[r].raw(), out[r].bytes()});
    outgoing.push_back({in[r].raw(), in[r].bytes()});
    if (r != static_cast<std::size_t>(rank_)) count(call.collective, in[r].bytes());
  }
  keep(out);
  keep(in);
  do_all_to_all(call, incoming, outgoing);
}

void ProcessGroup::reduce_scatter(const Tensor& out, const Tensor& in) {
  assert(in.numel() == out.numel() * size_);
  sum_parts({"reduce_scatter", in.dtype(), in.numel(), &in.device()}, out, equal_parts(in, size_));
}

void ProcessGroup::reduce_scatter(const Tensor& out, std::span<const Tensor> in) {
  assert(in[static_cast<std::size_t>(rank_)].numel() == out.numel());
  sum_parts({"reduce_scatter", out.dtype(), -1, &out.device()}, out, in);
}

void ProcessGroup::sum_parts(const Call& call, const Tensor& out, std::span<const Tensor> in) {
  if (sum_natively(call, out, in)) return;
  const Tensor received = Tensor::empty({size_ * out.numel()}, out.dtype(), out.device());
  exchange(call, equal_parts(received, size_), in);
  const auto sum = [out, parts = equal_parts(received, size_)] { tree_sum(parts, out); };
  if (deferring())
    deferring_->at_join.emplace_back(sum);
  else
    sum();
}

bool ProcessGroup::sum_natively(const Call& call, const Tensor& out, std::span<const Tensor> in) {
  std::vector<Outgoing> parts;
  for (const Tensor& part : in) parts.push_back({part.raw(), part.bytes()});
  if (!do_reduce_scatter(call, {out.raw(), out.bytes()}, parts)) return false;
  keep({&out, 1});
  keep(in);
  for (std::size_t r = 0; r < in.size(); ++r)
    if (r != static_cast<std::size_t>(rank_)) count(call.collective, in[r].bytes());
  return true;
}

void ProcessGroup::all_reduce(const Tensor& x) {
  if (size_ == 1) return;
  if (do_all_reduce({"all_reduce", x.dtype(), x.numel(), &x.device()}, {x.raw(), x.bytes()})) {
    keep({&x, 1});
    count("all_reduce", x.bytes());
    return;
  }
  assert(!deferring());  // its second half needs the first
  constexpr std::size_t small =
      std::size_t{64} * 1024;  // bytes: a second round would cost more than sending more
  if (x.bytes() <= small) {
    const Tensor all = Tensor::empty({size_ * x.numel()}, x.dtype(), x.device());
    all_gather(all, x.detach());
    tree_sum(equal_parts(all, size_), x.detach().view({x.numel()}));
    return;
  }
  const std::vector<Tensor> parts = line_parts(x, size_);
  const Tensor& mine = parts[static_cast<std::size_t>(rank_)];
  reduce_scatter(mine, parts);
  all_gather(parts, mine);
}

void ProcessGroup::all_gather(const Tensor& out, const Tensor& in) {
  assert(out.numel() == in.numel() * size_ && out.dtype() == in.dtype());
  count("all_gather", in.bytes() * static_cast<std::size_t>(size_ - 1));
  keep({&out, 1});
  keep({&in, 1});
  do_all_gather({"all_gather", in.dtype(), in.numel(), &in.device()}, out.raw(), in.raw(), in.bytes());
}

void ProcessGroup::all_gather(std::span<const Tensor> out, const Tensor& in) {
  exchange({"all_gather", in.dtype(), -1, &in.device()}, out, std::vector<Tensor>(out.size(), in));
}

void ProcessGroup::all_to_all(const Tensor& out, const Tensor& in) {
  assert(out.numel() == in.numel() && in.numel() % size_ == 0);
  exchange({"all_to_all", in.dtype(), in.numel(), &in.device()}, equal_parts(out, size_),
           equal_parts(in, size_));
}

void ProcessGroup::all_to_all(std::span<const Tensor> out, std::span<const Tensor> in) {
  exchange({"all_to_all", in[0].dtype(), -1, &in[0].device()}, out, in);
}

void ProcessGroup::broadcast(const Tensor& x, int root) {
  if (rank_ == root) count("broadcast", x.bytes() * static_cast<std::size_t>(size_ - 1));
  keep({&x, 1});
  do_broadcast({"broadcast", x.dtype(), x.numel(), &x.device()}, x.raw(), x.bytes(), root);
}

void ProcessGroup::barrier() {
  do_barrier();
}

void ProcessGroup::send(const Tensor& x, int to, int tag) {
  count("send", x.bytes());
  do_send({"send", x.dtype(), x.numel(), &x.device()}, x.raw(), x.bytes(), to, tag);
}

void ProcessGroup::recv(const Tensor& x, int from, int tag) {
  do_recv({"send", x.dtype(), x.numel(), &x.device()}, x.raw(), x.bytes(), from, tag);
}

std::unique_ptr<ProcessGroup> ProcessGroup::split(int color, int key) {
  const std::array<std::int32_t, 2> mine{color, key};
  std::vector<std::array<std::int32_t, 2>> all(static_cast<std::size_t>(size_));
  do_all_gather({"split", DType::i32, 2}, all.data(), mine.data(), sizeof mine);
  std::vector<int> members;
  for (int r = 0; r < size_; ++r)
    if (all[static_cast<std::size_t>(r)][0] == color) members.push_back(r);
  std::stable_sort(members.begin(), members.end(), [&](int a, int b) {
    return all[static_cast<std::size_t>(a)][1] < all[static_cast<std::size_t>(b)][1];
  });
  const auto place = std::find(members.begin(), members.end(), rank_);
  return do_split(color, members, static_cast<int>(place - members.begin()));
}

std::int64_t ProcessGroup::sum(std::int64_t value) {
  std::vector<std::int64_t> all(static_cast<std::size_t>(size_));
  do_all_gather({"sum", DType::i64, 1}, all.data(), &value, sizeof value);
  std::int64_t total = 0;
  for (const std::int64_t v : all) total += v;
  return total;
}

std::int64_t ProcessGroup::maximum(std::int64_t value) {
  std::vector<std::int64_t> all(static_cast<std::size_t>(size_));
  do_all_gather({"maximum", DType::i64, 1}, all.data(), &value, sizeof value);
  return *std::max_element(all.begin(), all.end());
}

std::vector<double> ProcessGroup::all_gather(double value) {
  std::vector<double> all(static_cast<std::size_t>(size_));
  do_all_gather({"all_gather of a number", DType::f64, 1}, all.data(), &value, sizeof value);
  return all;
}

std::vector<double> ProcessGroup::all_gather(std::span<const double> mine,
                                             std::span<const std::int64_t> counts) {
  std::int64_t total = 0;
  for (const std::int64_t count : counts) total += count;
  std::vector<double> all(static_cast<std::size_t>(total));
  std::vector<Incoming> incoming;
  const std::vector<Outgoing> outgoing(counts.size(), {mine.data(), mine.size_bytes()});
  double* at = all.data();
  for (const std::int64_t count : counts) {
    incoming.push_back({at, static_cast<std::size_t>(count) * sizeof(double)});
    at += count;
  }
  do_all_to_all({"all_gather of numbers", DType::f64, -1}, incoming, outgoing);
  return all;
}

std::vector<std::string> ProcessGroup::all_gather_text(const std::string& text) {
  const auto longest = static_cast<std::size_t>(maximum(static_cast<std::int64_t>(text.size())));
  std::vector<std::int64_t> lengths(static_cast<std::size_t>(size_));
  const auto length = static_cast<std::int64_t>(text.size());
  do_all_gather({"all_gather of lengths", DType::i64, 1}, lengths.data(), &length, sizeof length);
  std::string mine = text;
  mine.resize(longest);
  std::string all(longest * static_cast<std::size_t>(size_), '\0');
  if (longest > 0)
    do_all_gather({"all_gather of text", DType::u8, static_cast<std::int64_t>(longest)}, all.data(),
                  mine.data(), longest);
  std::vector<std::string> texts;
  for (std::size_t r = 0; r < lengths.size(); ++r)
    texts.push_back(all.substr(r * longest, static_cast<std::size_t>(lengths[r])));
  return texts;
}

}  // namespace tessera
