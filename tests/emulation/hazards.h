// Order between streams: finds accesses that no event orders, whatever order they ran in.
//
// Each stream counts its operations, and knows up to which operation of every other stream its next one comes
// after (a vector clock). An event is a copy of a stream's clock; waiting for it takes the larger of each
// count; the host has a clock too, taken from streams it synchronises with and given to all later operations.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <string>
#include <vector>

namespace tessera::emulation {

// Bytes [begin, end) of an allocation that an operation touches.
struct Range {
  std::size_t begin = 0, end = 0;
};

// Accesses of one allocation that later ones must be ordered after.
struct AccessHistory {
  struct Access {
    Range range;
    int stream = 0;
    std::uint64_t operation = 0;
    bool write = false;
  };
  std::vector<Access> accesses;
};

class Hazards {
 public:
  int add_stream();
  // Begins an operation of a stream: its accesses are of that operation.
  void begin(int stream);
  // Empty if the access is ordered after all that it conflicts with; else the words for it.
  std::string access(int stream, AccessHistory& history, Range range, bool write) const;

  // Empty if memory with these accesses may be used again by `stream` at once.
  std::string release(int stream, const AccessHistory& history) const;

  std::uint64_t record(int stream);
  void wait(int stream, std::uint64_t event);
  void synchronize(int stream);
  // The host has seen that this mark is reached.
  void note_reached(std::uint64_t event);

 private:
  using Clock = std::vector<std::uint64_t>;
  static void join(Clock& into, const Clock& other);
  bool before(const AccessHistory::Access& access, int stream) const;

  static constexpr std::size_t events_kept = 256;  // as on a GPU: older ones have happened
  std::vector<Clock> clocks_;
  Clock host_;
  std::deque<Clock> events_;
  std::uint64_t dropped_ = 0;
};

}  // namespace tessera::emulation
