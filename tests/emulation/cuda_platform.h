// The vocabulary of kernels/cuda/kernel.h as a host compiler sees it. Included by that header only.
#pragma once

#include <cstring>
#include <memory>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "tests/emulation/launch.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)

namespace tessera::cuda {

__device__ inline std::int64_t block_index() {
  return emulation::current.block;
}
__device__ inline std::int64_t block_count() {
  return emulation::current.blocks;
}
__device__ inline int thread_index() {
  return emulation::current.thread;
}
__device__ inline int thread_count() {
  return emulation::current.threads;
}
inline void sync_threads(const std::source_location& where = std::source_location::current()) {
  emulation::current.in->sync_threads(where);
}
inline void sync_warp(const std::source_location& where = std::source_location::current()) {
  emulation::current.in->meet_warp(emulation::WarpOperation::sync_warp, nullptr, 0, where);
}

// x of the lane that `lane` names; of the thread itself where there is no such lane.
template <class T>
T exchange(emulation::WarpOperation operation, T x, int lane, const std::source_location& where) {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= emulation::Block::most_lane_bytes);
  const auto* lanes = emulation::current.in->meet_warp(operation, &x, sizeof(T), where);
  if (lane >= 0 && lane < warp_size) std::memcpy(static_cast<void*>(&x), lanes[lane].data(), sizeof(T));
  return x;
}
template <class T>
T shuffle_xor(T x, int mask, const std::source_location& where = std::source_location::current()) {
  return exchange(emulation::WarpOperation::shuffle_xor, x, (thread_index() % warp_size) ^ mask, where);
}
template <class T>
T shuffle_down(T x, int lanes, const std::source_location& where = std::source_location::current()) {
  return exchange(emulation::WarpOperation::shuffle_down, x, thread_index() % warp_size + lanes, where);
}
template <class T>
T shuffle(T x, int lane, const std::source_location& where = std::source_location::current()) {
  return exchange(emulation::WarpOperation::shuffle, x, lane & (warp_size - 1), where);
}

// An element of shared memory: every read and write is checked.
template <class T>
class SharedElement {
 public:
  SharedElement(emulation::SharedArray& array, std::int64_t i) : array_(array), i_(i) {}
  SharedElement(const SharedElement&) = default;

  operator T() const {
    emulation::current.in->shared().read(array_, i_, emulation::current.now);
    T value;
    std::memcpy(static_cast<void*>(&value), address(), sizeof(T));
    return value;
  }
  const SharedElement& operator=(const T& value) const {
    emulation::current.in->shared().write(array_, i_, emulation::current.now);
    std::memcpy(address(), &value, sizeof(T));
    return *this;
  }
  SharedElement& operator=(const SharedElement& other) {
    *this = static_cast<T>(other);
    return *this;
  }
  const SharedElement& operator+=(const T& x) const { return *this = static_cast<T>(T(*this) + x); }
  const SharedElement& operator-=(const T& x) const { return *this = static_cast<T>(T(*this) - x); }
  const SharedElement& operator*=(const T& x) const { return *this = static_cast<T>(T(*this) * x); }
  const SharedElement& operator/=(const T& x) const { return *this = static_cast<T>(T(*this) / x); }
  const SharedElement& operator|=(const T& x) const { return *this = static_cast<T>(T(*this) | x); }
  const SharedElement& operator&=(const T& x) const { return *this = static_cast<T>(T(*this) & x); }
  const SharedElement& operator++() const { return *this += T(1); }
  const SharedElement& operator--() const { return *this -= T(1); }
  T operator++(int) const {
    const T before = *this;
    *this = static_cast<T>(before + 1);
    return before;
  }

 private:
  std::byte* address() const { return array_.data + static_cast<std::size_t>(i_) * sizeof(T); }
  emulation::SharedArray& array_;
  std::int64_t i_;
};

template <class T>
class Shared {
 public:
  static_assert(std::is_trivially_copyable_v<T>);
  explicit Shared(emulation::SharedArray& array, std::int64_t first = 0) : array_(&array), first_(first) {}
  SharedElement<T> operator[](std::int64_t i) const { return {*array_, first_ + i}; }
  Shared operator+(std::int64_t n) const { return Shared(*array_, first_ + n); }

 private:
  emulation::SharedArray* array_;
  std::int64_t first_;
};

// One a thread. A copy would hand out the same memory again, so there are none.
class SharedArena {
 public:
  SharedArena() { emulation::current.in->note_arena(); }
  SharedArena(const SharedArena&) = delete;
  SharedArena& operator=(const SharedArena&) = delete;
  template <class T>
  Shared<T> array(std::int64_t n) {
    return Shared<T>(emulation::current.in->shared().array(asked_++, n, sizeof(T)));
  }

 private:
  int asked_ = 0;
};

template <class T>
void note_pointers(std::vector<emulation::PointerParameter>&, const T&) {}
template <class T>
void note_pointers(std::vector<emulation::PointerParameter>& list, T* const& pointer) {
  list.push_back({pointer, !std::is_const_v<T>});
}
template <class T, int n>
void note_pointers(std::vector<emulation::PointerParameter>& list, const Pointers<T, n>& pointers) {
  for (T* pointer : pointers.at) note_pointers(list, pointer);
}

template <class... P, class... A>
void launch(Stream& stream, void (*kernel)(P...), const Grid& grid, A... args) {
  if (grid.blocks == 0) return;
  struct Call {
    void (*kernel)(P...);
    std::tuple<P...> parameters;
  };
  const auto call = std::make_shared<const Call>(Call{kernel, {static_cast<P>(args)...}});
  std::vector<emulation::PointerParameter> pointers;
  std::apply([&](const auto&... p) { (note_pointers(pointers, p), ...); }, call->parameters);
  const auto body = [](const void* arguments) {
    const auto& of = *static_cast<const Call*>(arguments);
    std::apply(of.kernel, of.parameters);
  };
  emulation::launch(stream, {grid.blocks, grid.threads, grid.shared_bytes}, std::move(pointers), body, call);
}

}  // namespace tessera::cuda
