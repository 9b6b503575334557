#include "tests/emulation/hazards.h"

#include <algorithm>

#include "core/base/error.h"

namespace tessera::emulation {

int Hazards::add_stream() {
  clocks_.emplace_back();
  for (Clock& clock : clocks_) clock.resize(clocks_.size());
  return static_cast<int>(clocks_.size()) - 1;
}

void Hazards::join(Clock& into, const Clock& other) {
  if (into.size() < other.size()) into.resize(other.size());
  for (std::size_t i = 0; i < other.size(); ++i) into[i] = std::max(into[i], other[i]);
}

void Hazards::begin(int stream) {
  const auto s = static_cast<std::size_t>(stream);
  join(clocks_[s], host_);
  ++clocks_[s][s];
}

bool Hazards::before(const AccessHistory::Access& access, int stream) const {
  return access.operation <=
         clocks_[static_cast<std::size_t>(stream)][static_cast<std::size_t>(access.stream)];
}

std::string Hazards::access(int stream, AccessHistory& history, Range range, bool write) const {
  const auto contains = [&](const AccessHistory::Access& old) {
    return range.begin <= old.range.begin && old.range.end <= range.end;
  };
  for (const AccessHistory::Access& old : history.accesses) {
    const bool overlap = old.range.begin < range.end && range.begin < old.range.end;
    if (!overlap || (!old.write && !write) || before(old, stream)) continue;
    return fmt::format("stream {} {} bytes {} to {}, which stream {} {}, and no event orders them", stream,
                       write ? "writes" : "reads", std::max(range.begin, old.range.begin),
                       std::min(range.end, old.range.end), old.stream, old.write ? "writes" : "reads");
  }
  // Ordered after a later access is ordered after those before it.
  std::erase_if(history.accesses, [&](const AccessHistory::Access& old) {
    return contains(old) && (write || (!old.write && old.stream == stream));
  });
  const auto s = static_cast<std::size_t>(stream);
  history.accesses.push_back({range, stream, clocks_[s][s], write});
  return {};
}

std::string Hazards::release(int stream, const AccessHistory& history) const {
  Clock known = host_;
  join(known, clocks_[static_cast<std::size_t>(stream)]);
  for (const AccessHistory::Access& old : history.accesses)
    if (old.operation > known[static_cast<std::size_t>(old.stream)])
      return fmt::format("stream {} {} bytes {} to {} of memory that is released, and no event orders them",
                         old.stream, old.write ? "writes" : "reads", old.range.begin, old.range.end);
  return {};
}

std::uint64_t Hazards::record(int stream) {
  if (events_.size() == events_kept) {
    join(host_, events_.front());
    events_.pop_front();
    ++dropped_;
  }
  events_.push_back(clocks_[static_cast<std::size_t>(stream)]);
  return dropped_ + events_.size() - 1;
}

void Hazards::wait(int stream, std::uint64_t event) {
  if (event < dropped_) return;
  if (event - dropped_ >= events_.size()) fail("emulated device: waits for event {}, never recorded", event);
  join(clocks_[static_cast<std::size_t>(stream)], events_[static_cast<std::size_t>(event - dropped_)]);
}

void Hazards::note_reached(std::uint64_t event) {
  if (event >= dropped_) join(host_, events_.at(static_cast<std::size_t>(event - dropped_)));
}

void Hazards::synchronize(int stream) {
  join(host_, clocks_[static_cast<std::size_t>(stream)]);
}

}  // namespace tessera::emulation
