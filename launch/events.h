// TensorBoard event files. Values; one writer belongs to one thread.
//
// Source of the format: TensorFlow's tsl/lib/io/record_writer and tensorboard/compat/proto/event.proto.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "core/base/io.h"

namespace tessera {

// CRC-32C (Castagnoli).
std::uint32_t crc32c(std::span<const std::byte> bytes);

// One record: length, masked CRC of the length, payload, masked CRC of the payload.
std::string event_record(std::string_view payload);

class EventWriter {
 public:
  // Creates events.out.tfevents.<unix time>.<host>.<pid>.<n> in `directory`. Throws Error.
  explicit EventWriter(const io::fs::path& directory);
  // Writes one event of scalars. Throws Error.
  void scalars(std::int64_t step, const std::vector<std::pair<std::string, double>>& values);
  const io::fs::path& path() const { return file_.path(); }

 private:
  io::File file_;
};

}  // namespace tessera
