// The store: what any ranks save any ranks read.

#include "checkpoint/store.h"

#include <gtest/gtest.h>
#include <hdf5.h>

#include <random>

#include "checkpoint/retention.h"
#include "core/base/error.h"
#include "launch/run_state.h"
#include "parallel/comm/local.h"
#include "tests/checkpoint/saved.h"

namespace tessera {
namespace {

namespace fs = std::filesystem;
using Dims = std::vector<std::int64_t>;

// Cuts a box into `parts` boxes at random places along random dimensions.
std::vector<Slab> cut(const Dims& shape, int parts, std::mt19937& random) {
  std::vector<Slab> slabs{whole(shape)};
  for (int i = 1; i < parts; ++i) {
    const std::size_t which = random() % slabs.size();
    Slab first = slabs[which];
    const std::size_t d = random() % shape.size();
    if (first.extent[d] < 2) continue;
    const auto at = static_cast<std::int64_t>(1 + random() % static_cast<std::size_t>(first.extent[d] - 1));
    Slab second = first;
    first.extent[d] = at;
    second.offset[d] += at;
    second.extent[d] -= at;
    slabs[which] = first;
    slabs.push_back(second);
  }
  return slabs;
}

// The element's place in the whole tensor, which is its value.
void for_each_element(const Slab& slab, const Dims& shape,
                      const std::function<void(std::size_t, float)>& visit) {
  const std::int64_t count = elements(slab.extent);
  for (std::int64_t i = 0; i < count; ++i) {
    std::int64_t rest = i;
    std::int64_t place = 0;
    std::int64_t stride = 1;
    for (std::size_t d = shape.size(); d-- > 0;) {
      place += (slab.offset[d] + rest % slab.extent[d]) * stride;
      rest /= slab.extent[d];
      stride *= shape[d];
    }
    visit(static_cast<std::size_t>(i), static_cast<float>(place));
  }
}

TEST(Store, AnyRanksReadWhatAnyRanksSaved) {
  const unsigned seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937 random(seed);
  const TemporaryFolder folder;
  for (int round = 0; round < 12; ++round) {
    Dims shape;
    for (std::size_t d = 0; d < 1 + random() % 3; ++d)
      shape.push_back(static_cast<std::int64_t>(1 + random() % 40));
    const int writers = 1 + static_cast<int>(random() % 4);
    const auto slabs = cut(shape, 7, random);
    run_local_ranks(writers, [&](ProcessGroup& ranks) {
      RankCoordination coordination(ranks);
      std::vector<std::vector<float>> values;
      std::vector<StateSlice> slices;
      for (std::size_t i = static_cast<std::size_t>(ranks.rank()); i < slabs.size();
           i += static_cast<std::size_t>(writers)) {
        values.emplace_back(static_cast<std::size_t>(elements(slabs[i].extent)));
        for_each_element(slabs[i], shape, [&](std::size_t at, float value) { values.back()[at] = value; });
        slices.push_back({"t", "weight", DType::f32, shape, slabs[i], nullptr});
      }
      for (std::size_t i = 0; i < slices.size(); ++i) slices[i].data = values[i].data();
      save_checkpoint(folder.path(), round, slices, Json::object(), {}, coordination);
    });
    const LoadedCheckpoint checkpoint = open_checkpoint(checkpoint_path(folder.path(), round), true);
    EXPECT_LE(checkpoint.shards(), writers);
    for (const Slab& wanted : cut(shape, 9, random)) {
      std::vector<float> got(static_cast<std::size_t>(elements(wanted.extent)), -1);
      checkpoint.read("t", "weight", wanted, got.data());
      for_each_element(wanted, shape, [&](std::size_t at, float value) { ASSERT_EQ(got[at], value); });
    }
  }
}

TEST(Store, ShardsOpenInHdf5) {
  const TemporaryFolder folder;
  const fs::path path = save_small(folder.path(), 4);
  const hid_t file = H5Fopen((path / "shard-00000-of-00001.h5").c_str(), H5F_ACC_RDONLY, H5P_DEFAULT);
  ASSERT_GE(file, 0);
  const hid_t dataset = H5Dopen2(file, "b.weight adam_m at [0, 0]", H5P_DEFAULT);
  ASSERT_GE(dataset, 0);
  std::vector<float> values(77);
  ASSERT_GE(H5Dread(dataset, H5T_NATIVE_FLOAT, H5S_ALL, H5S_ALL, H5P_DEFAULT, values.data()), 0);
  EXPECT_EQ(values[5], 5 + 4000 + 2);
  H5Dclose(dataset);
  H5Fclose(file);
}

TEST(Store, GapsAndOverlapsAreNotSaved) {
  const TemporaryFolder folder;
  const std::vector<float> data(60);
  const auto slice = [&](std::int64_t row, std::int64_t rows) {
    return StateSlice{"t", "weight", DType::f32, {6, 10}, {{row, 0}, {rows, 10}}, data.data()};
  };
  for (const auto& slices : {std::vector{slice(0, 3), slice(4, 2)}, std::vector{slice(0, 4), slice(3, 3)}}) {
    EXPECT_THROW(save_checkpoint(folder.path(), 1, slices, Json::object(), {}), Error);
    EXPECT_TRUE(fs::is_empty(folder.path()));
  }
}

TEST(Store, ASecondSaveOfAStepReplacesTheFirst) {
  const TemporaryFolder folder;
  const fs::path path = save_small(folder.path(), 4);
  const std::vector<float> one{1};
  save_checkpoint(folder.path(), 4, {{"x", "weight", DType::f32, {1}, whole({1}), one.data()}},
                  Json::object(), {});
  EXPECT_EQ(open_checkpoint(path, true).tensors().size(), 1U);
  EXPECT_EQ(std::distance(fs::directory_iterator(folder.path()), {}), 1);
}

// A crash at any point of a replacement leaves the old or the new one, and the next save tidies up.
TEST(Store, AReplacementThatWasCutOffLeavesOneOfTheTwo) {
  const TemporaryFolder folder;
  save_small(folder.path(), 2);
  const fs::path path = save_small(folder.path(), 4);
  const std::string four = content(open_checkpoint(path));
  fs::rename(path, path.string() + ".replaced");
  EXPECT_EQ(content(*open_newest(folder.path(), {})), four);
  fs::create_directory(path.string() + ".partial");
  clear_leftovers(folder.path());
  EXPECT_EQ(content(open_checkpoint(path, true)), four);
  EXPECT_EQ(std::distance(fs::directory_iterator(folder.path()), {}), 2);
  fs::copy(path, path.string() + ".replaced");  // both stand: the new one counts
  clear_leftovers(folder.path());
  EXPECT_EQ(list_checkpoints(folder.path()).size(), 2U);
  EXPECT_EQ(std::distance(fs::directory_iterator(folder.path()), {}), 2);
}

}  // namespace
}  // namespace tessera
