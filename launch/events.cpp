#include "launch/events.h"

#include <fmt/core.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <chrono>
#include <cstring>

#include "core/base/hash.h"

namespace tessera {
namespace {

constexpr std::array<std::uint32_t, 256> crc_table() {
  std::array<std::uint32_t, 256> table{};
  for (std::uint32_t i = 0; i < 256; ++i) {
    std::uint32_t c = i;
    for (int bit = 0; bit < 8; ++bit) c = (c & 1) != 0 ? (c >> 1) ^ 0x82F63B78u : c >> 1;
    table[i] = c;
  }
  return table;
}

std::uint32_t masked_crc(std::string_view bytes) {
  const std::uint32_t c = crc32c(bytes_of(bytes));
  return ((c >> 15) | (c << 17)) + 0xa282ead8u;
}

// Little-endian bytes of a plain value.
template <class T>
std::string raw(T value) {
  std::string out(sizeof value, '\0');
  std::memcpy(out.data(), &value, sizeof value);
  return out;
}

// Protocol buffers: a varint, and a field of length-delimited bytes.
std::string varint(std::uint64_t value) {
  std::string out;
  for (; value >= 0x80; value >>= 7) out += static_cast<char>((value & 0x7F) | 0x80);
  return out + static_cast<char>(value);
}

std::string delimited(char field, const std::string& bytes) {
  return static_cast<char>(field << 3 | 2) + varint(bytes.size()) + bytes;
}

// Fields 1 (wall time, double) and 2 (step, int64) of an Event.
std::string event_start(std::int64_t step) {
  const std::chrono::duration<double> now = std::chrono::system_clock::now().time_since_epoch();
  return '\x09' + raw(now.count()) + '\x10' + varint(static_cast<std::uint64_t>(step));
}

io::fs::path new_path(const io::fs::path& directory) {
  static std::atomic<int> count{0};
  char host[256] = "localhost";
  gethostname(host, sizeof host - 1);
  const auto seconds =
      std::chrono::duration_cast<std::chrono::seconds>(std::chrono::system_clock::now().time_since_epoch());
  return directory / fmt::format("events.out.tfevents.{}.{}.{}.{}", seconds.count(), host, getpid(), count++);
}

}  // namespace

std::uint32_t crc32c(std::span<const std::byte> bytes) {
  static constexpr auto table = crc_table();
  std::uint32_t c = 0xFFFFFFFFu;
  for (const std::byte b : bytes) c = table[(c ^ static_cast<std::uint32_t>(b)) & 0xFF] ^ (c >> 8);
  return ~c;
}

std::string event_record(std::string_view payload) {
  const std::string length = raw(static_cast<std::uint64_t>(payload.size()));
  return length + raw(masked_crc(length)) + std::string(payload) + raw(masked_crc(payload));
}

EventWriter::EventWriter(const io::fs::path& directory) : file_(io::File::create(new_path(directory))) {
  file_.write(event_record(event_start(0) + delimited(3, "brain.Event:2")));
}

void EventWriter::scalars(std::int64_t step, const std::vector<std::pair<std::string, double>>& values) {
  std::string summary;
  for (const auto& [tag, value] : values) {
    summary += delimited(1, delimited(1, tag) + '\x15' + raw(static_cast<float>(value)));
  }
  file_.write(event_record(event_start(step) + delimited(5, summary)));
}

}  // namespace tessera
