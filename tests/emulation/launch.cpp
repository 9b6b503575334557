#include "tests/emulation/launch.h"

#include <numeric>
#include <utility>

namespace tessera::emulation {
namespace {

constexpr std::size_t most_shared_bytes = std::size_t{227} * 1024;  // of a block on sm_90
constexpr std::int64_t too_many_blocks = std::int64_t{1} << 31;

OnlyBlocks::Choice& choice_of_blocks() {
  static thread_local OnlyBlocks::Choice choice;
  return choice;
}

void check_grid(const BlockShape& shape) {
  if (shape.blocks < 0 || shape.blocks >= too_many_blocks)
    fail("emulated kernel: a grid of {} blocks; a GPU takes up to 2^31 - 1", shape.blocks);
  if (shape.threads <= 0 || shape.threads > 1024 || shape.threads % 32 != 0)
    fail("emulated kernel: blocks of {} threads; kernels here take a multiple of 32 up to 1024",
         shape.threads);
  if (shape.shared_bytes > most_shared_bytes)
    fail("emulated kernel: {} bytes of shared memory; a GPU has {}", shape.shared_bytes, most_shared_bytes);
}

std::vector<std::int64_t> blocks_to_run(std::int64_t blocks) {
  if (choice_of_blocks()) return choice_of_blocks()(blocks);
  std::vector<std::int64_t> all(static_cast<std::size_t>(blocks));
  std::iota(all.begin(), all.end(), 0);
  return all;
}

}  // namespace

OnlyBlocks::OnlyBlocks(Choice choice) {
  choice_of_blocks() = std::move(choice);
}
OnlyBlocks::~OnlyBlocks() {
  choice_of_blocks() = nullptr;
}

std::vector<std::int64_t> first_middle_last(std::int64_t blocks) {
  std::vector<std::int64_t> chosen{0};
  for (const std::int64_t block : {blocks / 2, blocks - 1})
    if (block > chosen.back()) chosen.push_back(block);
  return chosen;
}

void launch(Stream& stream, const BlockShape& shape, std::vector<PointerParameter> pointers, Block::Body body,
            std::shared_ptr<const void> arguments) {
  check_grid(shape);
  auto* on = dynamic_cast<KernelStream*>(&stream);
  if (on == nullptr) fail("emulated kernel: launched on a stream of no emulated device");
  const auto run = [on, shape, pointers = std::move(pointers), body, arguments = std::move(arguments)] {
    on->begin_kernel(pointers);
    Random random{on->next_seed()};
    std::vector<std::int64_t> blocks = blocks_to_run(shape.blocks);
    random.shuffle(blocks);
    for (const std::int64_t block : blocks)
      Block::of_this_thread().run(body, arguments.get(), block, shape, random.next());
    on->end_kernel(pointers);
  };
  if (!on->kept_for_graph(run)) run();
}

}  // namespace tessera::emulation
