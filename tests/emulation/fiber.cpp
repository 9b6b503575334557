#include "tests/emulation/fiber.h"

#include <boost/context/protected_fixedsize_stack.hpp>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace tessera::emulation {
namespace {

#ifdef __SANITIZE_ADDRESS__
constexpr std::size_t stack_bytes = std::size_t{512} * 1024;  // its frames are larger
void start_switch(void** fakes, const void* bottom, std::size_t size) {
  __sanitizer_start_switch_fiber(fakes, bottom, size);
}
void finish_switch(void* fakes, const void** bottom, std::size_t* size) {
  __sanitizer_finish_switch_fiber(fakes, bottom, size);
}
void forget_stack(const void* bottom, std::size_t size) {
  __asan_unpoison_memory_region(bottom, size);
}
#else
constexpr std::size_t stack_bytes = std::size_t{64} * 1024;
void start_switch(void**, const void*, std::size_t) {}
void finish_switch(void*, const void**, std::size_t*) {}
void forget_stack(const void*, std::size_t) {}
#endif

}  // namespace

Fiber::Fiber(std::function<void()> task) : task_(std::move(task)) {
  boost::context::protected_fixedsize_stack stacks(stack_bytes);
  const boost::context::stack_context stack = stacks.allocate();
  bottom_ = static_cast<std::byte*>(stack.sp) - stack.size;
  size_ = stack.size;
  fiber_ =
      boost::context::fiber(std::allocator_arg, boost::context::preallocated(stack.sp, stack.size, stack),
                            stacks, [this](boost::context::fiber&& host) { return loop(std::move(host)); });
}

Fiber::~Fiber() {
  quit_ = true;
  resume();
  forget_stack(bottom_, size_);
}

boost::context::fiber Fiber::loop(boost::context::fiber&& host) {
  host_ = std::move(host);
  finish_switch(nullptr, &host_bottom_, &host_size_);
  while (!quit_) {
    task_();
    suspend();
  }
  start_switch(nullptr, host_bottom_, host_size_);
  return std::move(host_);
}

void Fiber::resume() {
  void* fakes = nullptr;
  start_switch(&fakes, bottom_, size_);
  fiber_ = std::move(fiber_).resume();
  finish_switch(fakes, nullptr, nullptr);
}

void Fiber::suspend() {
  start_switch(&own_fakes_, host_bottom_, host_size_);
  host_ = std::move(host_).resume();
  finish_switch(own_fakes_, &host_bottom_, &host_size_);
}

}  // namespace tessera::emulation
