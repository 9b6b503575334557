#include "parallel/comm/communicator.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "core/tensor/device.h"
#include "parallel/tree_sum.h"

namespace tessera {
namespace {

constexpr std::int64_t sum_grain = 1 << 15;

// Whole cache lines per rank, so that buffers divide evenly.
std::int64_t padded_share(std::int64_t elements, int ranks) {
  const std::int64_t share = (elements + ranks - 1) / ranks;
  return (share + 15) / 16 * 16;
}

}  // namespace

std::string ProcessGroup::Call::text() const {
  return fmt::format("{} of {} {}", collective, elements, tessera::name(dtype));
}

void ProcessGroup::reduce_scatter(const Tensor& out, const Tensor& in) {
  assert(in.numel() == out.numel() * size_ && in.dtype() == DType::f32 && out.dtype() == DType::f32);
  const Tensor received = Tensor::empty(in.shape(), DType::f32, in.device());
  const std::size_t bytes = out.bytes();
  count("reduce_scatter", in.bytes() - bytes);
  do_all_to_all({"reduce_scatter", DType::f32, out.numel()}, received.raw(), in.raw(), bytes);
  out.device().threads().parallel_blocks(out.numel(), sum_grain, [&](std::int64_t begin, std::int64_t end) {
    std::vector<const float*> parts;
    for (int r = 0; r < size_; ++r) parts.push_back(received.data<float>() + r * out.numel() + begin);
    tree_sum(parts, out.data<float>() + begin, end - begin);
  });
}

void ProcessGroup::all_reduce(const Tensor& x) {
  if (size_ == 1) return;
  const std::int64_t share = padded_share(x.numel(), size_);
  const Tensor padded = Tensor::zeros({share * size_}, DType::f32, x.device());
  std::memcpy(padded.raw(), x.raw(), x.bytes());
  const Tensor mine = padded.narrow(0, rank_ * share, share);
  reduce_scatter(mine, padded);
  all_gather(padded, mine);
  std::memcpy(x.raw(), padded.raw(), x.bytes());
}

void ProcessGroup::all_gather(const Tensor& out, const Tensor& in) {
  assert(out.numel() == in.numel() * size_ && out.dtype() == in.dtype());
  count("all_gather", in.bytes() * static_cast<std::size_t>(size_ - 1));
  do_all_gather({"all_gather", in.dtype(), in.numel()}, out.raw(), in.raw(), in.bytes());
}

void ProcessGroup::all_to_all(const Tensor& out, const Tensor& in) {
  assert(out.numel() == in.numel() && in.numel() % size_ == 0);
  const std::size_t each = in.bytes() / static_cast<std::size_t>(size_);
  count("all_to_all", in.bytes() - each);
  do_all_to_all({"all_to_all", in.dtype(), in.numel()}, out.raw(), in.raw(), each);
}

void ProcessGroup::broadcast(const Tensor& x, int root) {
  if (rank_ == root) count("broadcast", x.bytes() * static_cast<std::size_t>(size_ - 1));
  do_broadcast({"broadcast", x.dtype(), x.numel()}, x.raw(), x.bytes(), root);
}

void ProcessGroup::barrier() {
  do_barrier();
}

void ProcessGroup::send(const Tensor& x, int to) {
  count("send", x.bytes());
  do_send({"send", x.dtype(), x.numel()}, x.raw(), x.bytes(), to);
}

void ProcessGroup::recv(const Tensor& x, int from) {
  do_recv({"send", x.dtype(), x.numel()}, x.raw(), x.bytes(), from);
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
