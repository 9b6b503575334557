#include "core/base/activity.h"

#include <fmt/core.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>

namespace tessera {

constinit thread_local Activity* this_activity = nullptr;

// Stores of words release, loads acquire: who sees a new word sees that the version is no longer what it was.
void SharedText::set(std::string_view text) {
  std::array<std::uint64_t, words> copy{};
  const std::size_t size = std::min(text.size(), sizeof copy - 1);
  std::memcpy(copy.data(), text.data(), size);
  const std::uint64_t version = version_.load(std::memory_order_relaxed) & ~std::uint64_t{1};
  version_.store(version + 1, std::memory_order_relaxed);
  for (std::size_t i = 0; i <= size / sizeof copy[0]; ++i)
    words_[i].store(copy[i], std::memory_order_release);
  version_.store(version + 2, std::memory_order_release);
}

std::string SharedText::get() const {
  std::array<std::uint64_t, words + 1> copy{};     // ends in a zero
  for (int tries = 0; tries < 100'000; ++tries) {  // a writer that was killed meanwhile never ends
    const std::uint64_t version = version_.load(std::memory_order_acquire);
    for (std::size_t i = 0; i < words; ++i) copy[i] = words_[i].load(std::memory_order_acquire);
    if (version % 2 == 0 && version_.load(std::memory_order_relaxed) == version) break;
  }
  return reinterpret_cast<const char*>(copy.data());
}

void Activity::set_position(std::string_view text) {
  position_.set(text);
  set_doing(Doing::works, "");
}

void Activity::set_doing(Doing doing, std::string_view what) {
  what_.set(what);
  doing_.store(doing, std::memory_order_relaxed);
  note_progress();
}

void Activity::set_patience(double seconds, double storage_seconds) {
  patience_.store(seconds, std::memory_order_relaxed);
  storage_patience_.store(storage_seconds, std::memory_order_relaxed);
}

double Activity::patience() const {
  return (doing() == Doing::uses_storage ? storage_patience_ : patience_).load(std::memory_order_relaxed);
}

double timeout_of_environment() {
  const char* text = std::getenv("TESSERA_TIMEOUT");
  return text == nullptr ? 0 : std::max(0.0, std::strtod(text, nullptr));
}

void tell_waiting(std::string_view what) {
  if (this_activity == nullptr) return;
  if (this_activity->doing() != Doing::waits || this_activity->what() != what)
    this_activity->set_doing(Doing::waits, what);
}

void set_patience(double seconds, double storage_seconds) {
  if (this_activity == nullptr) return;
  if (const double forced = timeout_of_environment(); forced > 0)
    this_activity->set_patience(forced, storage_factor * forced);
  else
    this_activity->set_patience(seconds, storage_seconds);
}

DoingScope::DoingScope(Doing doing, std::string_view what) {
  if (this_activity != nullptr) begin(doing, what);
}

DoingScope::DoingScope(Doing doing, const char* operation, const std::filesystem::path& path) {
  if (this_activity != nullptr) begin(doing, fmt::format("{} '{}'", operation, path.string()));
}

void DoingScope::begin(Doing doing, std::string_view what) {
  before_ = this_activity->doing();
  what_before_ = this_activity->what();
  this_activity->set_doing(doing, what);
}

DoingScope::~DoingScope() {
  if (this_activity != nullptr) this_activity->set_doing(before_, what_before_);
}

}  // namespace tessera
