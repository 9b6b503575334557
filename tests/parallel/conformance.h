// What every communicator must do; run by thread ranks and by MPI ranks alike.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "core/base/philox.h"
#include "core/tensor/device.h"
#include "parallel/comm/communicator.h"
#include "parallel/tree_sum.h"

namespace tessera {

inline std::vector<float> random_values(int rank, std::int64_t n) {
  ThreadPool alone(1);
  std::vector<float> values(static_cast<std::size_t>(n));
  fill_normal(values, Key(17, "rank" + std::to_string(rank)), 1.0F, alone);
  return values;
}

// Sums of random floats must have the tree's bits; sizes are odd on purpose.
inline void check_sums(ProcessGroup& ranks, Device& device) {
  for (const std::int64_t n : {1, 7, 64, 1001, 16387}) {  // the last goes in two rounds
    std::vector<std::vector<float>> all;
    std::vector<Tensor> parts;
    for (int r = 0; r < ranks.size(); ++r) all.push_back(random_values(r, n));
    for (const auto& part : all) parts.push_back(Tensor::from_host(part.data(), {n}, DType::f32, device));
    const Tensor expected = Tensor::empty({n}, DType::f32, device);
    tree_sum(parts, expected);
    const Tensor x =
        Tensor::from_host(all[static_cast<std::size_t>(ranks.rank())].data(), {n}, DType::f32, device);
    ranks.all_reduce(x);
    for (std::int64_t i = 0; i < n; ++i) EXPECT_EQ(x.data<float>()[i], expected.data<float>()[i]);
  }
  EXPECT_EQ(ranks.sum(ranks.rank() + 1), ranks.size() * (ranks.size() + 1) / 2);
  EXPECT_EQ(ranks.maximum(-ranks.rank()), 0);
}

inline void check_moves(ProcessGroup& ranks, Device& device) {
  const int n = ranks.size();
  const auto tagged = [&](std::int64_t count, int tag) {
    Tensor x = Tensor::empty({count}, DType::i32, device);
    for (std::int64_t i = 0; i < count; ++i)
      x.data<std::int32_t>()[i] = tag * 1000 + static_cast<std::int32_t>(i);
    return x;
  };
  const Tensor gathered = Tensor::empty({std::int64_t{5} * n}, DType::i32, device);
  ranks.all_gather(gathered, tagged(5, ranks.rank()));
  for (int i = 0; i < 5 * n; ++i) EXPECT_EQ(gathered.data<std::int32_t>()[i], i / 5 * 1000 + i % 5);

  const Tensor exchanged = Tensor::empty({std::int64_t{3} * n}, DType::i32, device);
  ranks.all_to_all(exchanged, tagged(std::int64_t{3} * n, ranks.rank()));
  for (int i = 0; i < 3 * n; ++i)
    EXPECT_EQ(exchanged.data<std::int32_t>()[i], i / 3 * 1000 + ranks.rank() * 3 + i % 3);

  const Tensor told = tagged(4, ranks.rank());
  ranks.broadcast(told, n - 1);
  for (int i = 0; i < 4; ++i) EXPECT_EQ(told.data<std::int32_t>()[i], (n - 1) * 1000 + i);

  if (n > 1) {  // around a ring, all sending first; tags may be received in another order
    const int next = (ranks.rank() + 1) % n;
    const int last = (ranks.rank() + n - 1) % n;
    const Tensor mine = tagged(6, ranks.rank());
    ranks.send(mine, next, 3);
    mine.data<std::int32_t>()[5] = -1;  // a send has taken its copy
    ranks.send(tagged(2, ranks.rank()), next, 0);
    ranks.send(tagged(4, ranks.rank()), next, 0);
    const auto receive = [&](std::int64_t count, int tag) {
      const Tensor theirs = Tensor::empty({count}, DType::i32, device);
      ranks.recv(theirs, last, tag);
      EXPECT_EQ(theirs.data<std::int32_t>()[count - 1], std::int64_t{last} * 1000 + count - 1);
    };
    receive(2, 0);
    receive(6, 3);
    receive(4, 0);
  }
  const auto texts = ranks.all_gather_text(std::string(static_cast<std::size_t>(ranks.rank()), 'x'));
  for (std::size_t r = 0; r < texts.size(); ++r) EXPECT_EQ(texts[r].size(), r);
  const auto numbers = ranks.all_gather(0.5 * ranks.rank());
  EXPECT_EQ(numbers.back(), 0.5 * (n - 1));
  ranks.barrier();
}

// Parts of sizes that differ, some of them empty: rank a sends a · b elements to rank b.
inline void check_uneven_parts(ProcessGroup& ranks, Device& device) {
  const std::int64_t me = ranks.rank();
  std::vector<Tensor> in;
  std::vector<Tensor> out;
  for (std::int64_t r = 0; r < ranks.size(); ++r) {
    in.push_back(Tensor::empty({me * r}, DType::i32, device));
    out.push_back(Tensor::empty({me * r}, DType::i32, device));
    for (std::int64_t i = 0; i < me * r; ++i)
      in.back().data<std::int32_t>()[i] = static_cast<std::int32_t>(me * 1000 + r);
  }
  ranks.all_to_all(out, in);
  for (std::int64_t r = 0; r < ranks.size(); ++r)
    for (std::int64_t i = 0; i < me * r; ++i)
      EXPECT_EQ(out[static_cast<std::size_t>(r)].data<std::int32_t>()[i], r * 1000 + me);

  std::vector<Tensor> shares;  // rank r's share of a sum has r elements
  std::vector<Tensor> whole;
  for (std::int64_t r = 0; r < ranks.size(); ++r) {
    shares.push_back(Tensor::empty({r}, DType::f32, device));
    whole.push_back(Tensor::empty({r}, DType::f32, device));
    std::fill_n(shares.back().data<float>(), r, static_cast<float>(me + r));
  }
  ranks.reduce_scatter(whole[static_cast<std::size_t>(me)], shares);
  ranks.all_gather(whole, whole[static_cast<std::size_t>(me)]);
  const int n = ranks.size();
  for (int r = 0; r < n; ++r) {
    const int sum = n * (n - 1) / 2 + n * r;
    for (int i = 0; i < r; ++i)
      EXPECT_EQ(whole[static_cast<std::size_t>(r)].data<float>()[i], static_cast<float>(sum));
  }
}

// What each rank hands over, in closed form.
inline void check_bytes(ProcessGroup& ranks, Device& device) {
  const auto before = ranks.bytes_sent();
  const auto sent = [&](const char* kind) {
    const auto now = ranks.bytes_sent().find(kind);
    const auto then = before.find(kind);
    return (now == ranks.bytes_sent().end() ? 0 : now->second) - (then == before.end() ? 0 : then->second);
  };
  const auto n = static_cast<std::uint64_t>(ranks.size());
  ranks.all_reduce(Tensor::zeros({32}, DType::f32, device));
  EXPECT_EQ(sent("reduce_scatter"), 0);
  EXPECT_EQ(sent("all_gather"), 128 * (n - 1));
  const std::uint64_t part =
      std::uint64_t{64} * 1024;  // bytes: in all too much for one round, but on one rank
  ranks.all_reduce(Tensor::zeros({static_cast<std::int64_t>(n * part / 4)}, DType::f32, device));
  EXPECT_EQ(sent("reduce_scatter"), n == 1 ? 0 : part * (n - 1));
  EXPECT_EQ(sent("all_gather"), n == 1 ? 0 : (128 + part) * (n - 1));
}

// Parts of a group are groups: by parity, turned round, and of one rank each.
inline void check_splits(ProcessGroup& ranks, Device& device) {
  const int n = ranks.size();
  const auto parity = ranks.split(ranks.rank() % 2, ranks.rank());
  EXPECT_EQ(parity->rank(), ranks.rank() / 2);
  EXPECT_EQ(parity->size(), (n + (ranks.rank() % 2 == 0 ? 1 : 0)) / 2);
  EXPECT_EQ(parity->sum(ranks.rank()),
            ranks.rank() % 2 == 0 ? (n - 1) / 2 * ((n - 1) / 2 + 1) : n / 2 * (n / 2));
  parity->connect();
  check_sums(*parity, device);
  check_moves(*parity, device);
  const auto turned = ranks.split(0, -ranks.rank());
  EXPECT_EQ(turned->rank(), n - 1 - ranks.rank());
  const auto numbers = turned->all_gather(static_cast<double>(ranks.rank()));
  for (int r = 0; r < n; ++r) EXPECT_EQ(numbers[static_cast<std::size_t>(r)], n - 1 - r);
  const auto alone = parity->split(ranks.rank(), 0);  // a part of a part
  EXPECT_EQ(alone->size(), 1);
  EXPECT_EQ(alone->sum(5), 5);
}

// Sums and gathers asked for together have the bits of those asked for one by one.
inline void check_deferred(ProcessGroup& ranks, Device& device) {
  const std::int64_t each = 35;
  const std::int64_t n = each * ranks.size();
  const std::vector<float> values = random_values(ranks.rank(), n);
  const Tensor in = Tensor::from_host(values.data(), {n}, DType::f32, device);
  std::vector<Tensor> results;
  std::vector<int> ended;
  std::vector<std::uint64_t> numbers;
  for (int i = 0; i < 4; ++i) {  // one by one, then together
    const Tensor sum = Tensor::empty({each}, DType::f32, device);
    const Tensor all = Tensor::empty({n * ranks.size()}, DType::f32, device);
    const auto ask = [&] {
      ranks.reduce_scatter(sum, in);
      ranks.all_gather(all, in);
    };
    if (i == 0)
      ask();
    else
      numbers.push_back(ranks.defer(ask, [&ended, i] { ended.push_back(i); }));
    results.insert(results.end(), {sum, all});
  }
  ranks.join(numbers[1]);
  ASSERT_GE(ended.size(), 2U);
  ranks.join();
  ranks.join();  // nothing is left
  EXPECT_EQ(ended, (std::vector<int>{1, 2, 3}));
  for (std::size_t i = 2; i < results.size(); ++i) {
    const Tensor& first = results[i % 2];
    std::vector<float> expected(static_cast<std::size_t>(first.numel()));
    std::vector<float> found(expected.size());
    first.to_host(expected.data());
    results[i].to_host(found.data());
    EXPECT_EQ(found, expected);
  }
}

// On a device whose memory the host can read.
inline void check_communicator(ProcessGroup& ranks, Device& device) {
  ranks.connect();
  check_sums(ranks, device);
  check_moves(ranks, device);
  check_uneven_parts(ranks, device);
  check_deferred(ranks, device);
  check_bytes(ranks, device);
  check_splits(ranks, device);
}

inline void check_communicator_on_cpu(ProcessGroup& ranks) {
  const auto device = make_device(DeviceKind::cpu);
  check_communicator(ranks, *device);
}

}  // namespace tessera
