#include "launch/run_memory.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <map>
#include <sstream>

#include "core/base/error.h"
#include "core/base/progress.h"
#include "core/tensor/device.h"
#include "launch/host_memory.h"
#include "parallel/comm/communicator.h"

namespace tessera {
namespace {

std::string host_name() {
  std::array<char, 256> name{};
  return gethostname(name.data(), name.size() - 1) == 0 ? name.data() : "unknown";
}

// What shares one room: the ranks of a node, or of a process.
struct Sharers {
  std::string name;
  int ranks = 0;
  double needed = 0;
  MemoryRoom room;
};

void add(Sharers& sharers, const std::string& name, double needed, const MemoryRoom& room) {
  if (sharers.ranks == 0 || room.bytes < sharers.room.bytes) sharers.room = room;
  sharers.name = name;
  ++sharers.ranks;
  sharers.needed += needed;
}

// Of every node and process, by name; all ranks get the same.
std::map<std::string, Sharers> gather(ProcessGroup& ranks, double needed) {
  const MemoryRoom node = node_memory();
  const MemoryRoom process = process_memory();
  const auto texts =
      ranks.all_gather_text(fmt::format("{}\n{}\n{}\n{}\n{}\n{}\n{}\n", host_name(), getpid(), needed,
                                        node.bytes, node.bound, process.bytes, process.bound));
  std::map<std::string, Sharers> all;
  for (const std::string& text : texts) {
    std::istringstream lines(text);
    std::array<std::string, 7> part;
    for (std::string& line : part) std::getline(lines, line);
    const double bytes = std::stod(part[2]);
    add(all[part[0]], "node " + part[0], bytes, {std::stoull(part[3]), part[4]});
    add(all[part[0] + " " + part[1]], fmt::format("process {} on {}", part[1], part[0]), bytes,
        {std::stoull(part[5]), part[6]});
  }
  return all;
}

}  // namespace

void require_run_memory(ProcessGroup& ranks, Device& device, const RunShape& run,
                        const std::string& assumed) {
  const bool on_host = device.kind() == DeviceKind::cpu;
  const auto stages = on_host ? estimate_stages(run, &device)
                              : std::vector<std::size_t>(static_cast<std::size_t>(run.layout.mesh.pp), 0);
  const auto stage = static_cast<std::size_t>(place_of(run.layout.mesh, ranks.rank())[0]);
  const double samples = samples_bytes(run);
  const auto everyone = gather(ranks, static_cast<double>(stages[stage]) + samples);
  const auto worst = std::max_element(everyone.begin(), everyone.end(), [](const auto& a, const auto& b) {
    return a.second.needed / static_cast<double>(a.second.room.bytes + 1) <
           b.second.needed / static_cast<double>(b.second.room.bytes + 1);
  });
  const Sharers& sharers = worst->second;
  const auto room = static_cast<double>(sharers.room.bytes);
  if (sharers.needed <= room) return;
  const double each = static_cast<double>(*std::max_element(stages.begin(), stages.end())) + samples;
  std::string fits =
      fmt::format("a smaller train.global_batch, whose samples take {} a rank", bytes_text(samples));
  if (on_host && samples < room / sharers.ranks / 2)
    fits = what_would_fit(run, [&](const RunShape& other) -> std::optional<double> {
      const auto changed = estimate_stages(other, &device);
      const double bytes = static_cast<double>(*std::max_element(changed.begin(), changed.end())) + samples;
      if (bytes * sharers.ranks > room) return std::nullopt;
      return bytes;
    });
  fail_usage("the run would take {} of memory a rank, {} for the {} of {}, which has room for {} ({}): {}{}",
             bytes_text(each), bytes_text(sharers.needed),
             sharers.ranks == 1 ? "one rank" : fmt::format("{} ranks", sharers.ranks), sharers.name,
             bytes_text(room), sharers.room.bound, fits, assumed);
}

}  // namespace tessera
