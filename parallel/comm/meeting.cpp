#include "parallel/comm/meeting.h"

#include <chrono>
#include <thread>

#include "core/base/error.h"
#include "parallel/comm/communicator.h"

namespace tessera {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// "rank 2", "ranks 1, 3"
std::string text_of(const std::vector<int>& ranks) {
  std::string text;
  for (const int rank : ranks) text += fmt::format("{}{}", text.empty() ? "" : ", ", rank);
  return (ranks.size() == 1 ? "rank " : "ranks ") + text;
}

}  // namespace

Meeting::Meeting(MeetingPlace place) : place_(std::move(place)) {
  if (place_.ranks < 1 || place_.rank < 0 || place_.rank >= place_.ranks)
    fail_usage("rank {} of {} is none: ranks are counted from 0", place_.rank, place_.ranks);
  place_.patience = forced_patience().value_or(place_.patience);
}

Meeting::~Meeting() {
  if (!met_ || failed_) return;
  try {
    table_->say_presence(rank(),
                         std::uncaught_exceptions() > exceptions_ ? Presence::failed : Presence::done);
  } catch (const Error&) {  // the others find it gone
  }
}

std::string Meeting::meet(const std::string& device, const std::function<std::string()>& make_token) {
  std::string token = rank() == 0 ? wait_for_all(device, make_token) : come(device);
  met_ = true;
  return token;
}

std::string Meeting::wait_for_all(const std::string& device, const std::function<std::string()>& make_token) {
  const std::string file = place_.file.string();
  if (const auto old = MeetingTable::open(place_.file); old && old->is_held(0))
    fail_usage("another process is rank 0 at '{}': give each its own --rank, and each run its own --meet",
               file);
  std::string token = make_token();
  table_ = std::make_unique<MeetingTable>(place_.file, ranks(), place_.program, token);
  try {
    table_->come(0, device);
    const auto start = Clock::now();
    for (std::vector<int> missing; !(missing = absent()).empty(); wait_a_little()) {
      fail_if_refused();
      if (!table_->has_name())
        refuse(
            fmt::format("'{}' was removed or replaced while rank 0 waited at it: start one rank 0, and "
                        "leave the file alone",
                        file));
      if (seconds_since(start) > place_.patience)
        refuse(
            fmt::format("{} of {} did not come to '{}' within {:.0f} s: start all with the same --ranks and "
                        "--meet, on one node, or look at why they ended",
                        text_of(missing), ranks(), file, place_.patience));
    }
    fail_if_refused();
    check_devices();
    table_->say_all_came();
  } catch (...) {
    table_->remove_name();
    throw;
  }
  table_->remove_name();
  return token;
}

// Those who are not here now, all at once.
std::vector<int> Meeting::absent() const {
  std::vector<int> missing;
  for (int r = 1; r < ranks(); ++r)
    if (!table_->is_held(r) || table_->presence(r) != Presence::here) missing.push_back(r);
  return missing;
}

void Meeting::check_devices() const {
  for (int r = 1; r < ranks(); ++r)
    for (int before = 0; before < r; ++before)
      if (const std::string gpu = table_->device(r); gpu == table_->device(before)) {
        const std::string cause = fmt::format(
            "ranks {} and {} have one GPU, {}: each needs its own; let every process see all GPUs, "
            "or its own alone (CUDA_VISIBLE_DEVICES)",
            before, r, gpu);
        table_->say_refusal(cause);
        throw Error(cause, ExitCode::usage);
      }
}

std::string Meeting::come(const std::string& device) {
  const std::string file = place_.file.string();
  const auto start = Clock::now();
  for (bool left_over = false;; wait_a_little()) {
    auto found = MeetingTable::open(place_.file);
    left_over = found.has_value();
    if (found && found->is_held(0)) {
      table_ = std::make_unique<MeetingTable>(std::move(*found));
      break;
    }
    if (seconds_since(start) > place_.patience)
      fail(
          "rank 0 did not come to '{}' within {:.0f} s{}: start it with --rank 0 and the same --meet, on one "
          "node, or look at why it ended",
          file, place_.patience, left_over ? ", and what is there is of a run that is gone" : "");
  }
  table_->check_version();
  if (table_->program() != place_.program)
    refuse(
        fmt::format("rank 0 runs tessera {}, rank {} runs tessera {}; start the same program for all ranks",
                    table_->program(), rank(), place_.program));
  if (table_->ranks() != ranks())
    refuse(
        fmt::format("at '{}' rank 0 is one of {} ranks, rank {} one of {}: start all with the same --ranks",
                    file, table_->ranks(), rank(), ranks()));
  if (!table_->hold(rank()))
    refuse(fmt::format("two processes are rank {} at '{}': give each its own --rank", rank(), file));
  table_->come(rank(), device);
  for (const auto came = Clock::now(); !table_->all_came(); wait_a_little()) {
    fail_if_refused();
    if (!table_->is_held(0)) {
      fail_if_refused();
      if (!table_->all_came())
        fail("rank 0 is gone before all ranks had come to '{}': look at why it ended", file);
    }
    if (seconds_since(came) > 2 * place_.patience + 5)
      fail("rank 0 does not answer at '{}': look at what it does", file);
  }
  return table_->token();
}

void Meeting::fail_if_refused() const {
  if (const std::string cause = table_->refusal(); !cause.empty()) throw Error(cause, ExitCode::usage);
}

void Meeting::wait_a_little() const {
  std::this_thread::sleep_for(std::chrono::milliseconds(10));
  if (place_.is_given_up && place_.is_given_up())
    throw Error(
        fmt::format("asked to stop before all ranks had come to '{}': nothing to save", place_.file.string()),
        ExitCode::requeue);
}

void Meeting::refuse(const std::string& cause) {
  table_->say_refusal(cause);
  throw Error(cause, ExitCode::usage);
}

void Meeting::look() const {
  for (int r = 0; r < ranks(); ++r) {
    if (r == rank()) continue;
    // In this order: a rank says how it ends, then goes.
    const bool gone = !table_->is_held(r);
    const Presence presence = table_->presence(r);
    if (presence == Presence::failed) throw PeerFailed(fmt::format("rank {} failed", r));
    if (gone && presence != Presence::done)
      fail("rank {} is gone without a word ({}): look at its output, and at dmesg for the reason", r,
           table_->position(r));
  }
}

void Meeting::say_position(const std::string& text) {
  if (met_) table_->say_position(rank(), text);
}

std::vector<std::string> Meeting::positions() const {
  std::vector<std::string> all;
  for (int r = 0; r < ranks(); ++r) all.push_back(table_->position(r));
  return all;
}

bool Meeting::speaks_for_failed_ranks() {
  if (!met_) return true;
  failed_ = true;
  table_->say_presence(rank(), Presence::failed);
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  for (int r = 0; r < rank(); ++r)
    if (table_->presence(r) == Presence::failed) return false;
  return true;
}

}  // namespace tessera
