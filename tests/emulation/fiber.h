// A stack of its own on which a task runs until it suspends itself. Used by one host thread only.
#pragma once

#include <boost/context/fiber.hpp>
#include <cstddef>
#include <functional>

namespace tessera::emulation {

class Fiber {
 public:
  // `task` must not throw; it may run many times, so that the stack serves again.
  explicit Fiber(std::function<void()> task);
  ~Fiber();  // the task must not be suspended
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  // Starts the task, or goes on with it, until it returns or suspends.
  void resume();
  // From within the task: returns when resumed.
  void suspend();

 private:
  boost::context::fiber loop(boost::context::fiber&& host);

  std::function<void()> task_;
  bool quit_ = false;
  boost::context::fiber fiber_, host_;
  // What AddressSanitizer is told at each switch.
  const void* bottom_ = nullptr;
  std::size_t size_ = 0;
  const void* host_bottom_ = nullptr;
  std::size_t host_size_ = 0;
  void* own_fakes_ = nullptr;
};

}  // namespace tessera::emulation
