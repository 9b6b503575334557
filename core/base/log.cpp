#include "core/base/log.h"

#include <spdlog/sinks/ansicolor_sink.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <memory>

namespace tessera::log {
namespace {

thread_local int this_rank = 0;
thread_local int rank_count = 1;

spdlog::logger& logger() {
  static const auto instance = [] {
    auto sink = std::make_shared<spdlog::sinks::ansicolor_stderr_sink_mt>(
        std::getenv("NO_COLOR") != nullptr ? spdlog::color_mode::never : spdlog::color_mode::automatic);
    auto made = std::make_shared<spdlog::logger>("tessera", std::move(sink));
    made->set_pattern("%^%l%$: %v");
    return made;
  }();
  return *instance;
}

std::string host_name() {
  std::array<char, 256> name{};
  gethostname(name.data(), name.size() - 1);
  return name.data();
}

std::string labelled(const std::string& message) {
  if (rank_count == 1) return message;
  return fmt::format("rank {} on {}: {}", this_rank, host_name(), message);
}

}  // namespace

void write_info(const std::string& message) {
  if (this_rank == 0) logger().info(message);
}
void write_warning(const std::string& message) {
  logger().warn(labelled(message));
}
void write_error(const std::string& message) {
  logger().error(labelled(message));
}

RankScope::RankScope(int rank, int size) {
  this_rank = rank;
  rank_count = size;
}
RankScope::~RankScope() {
  this_rank = 0;
  rank_count = 1;
}

}  // namespace tessera::log
