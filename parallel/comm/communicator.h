// A group of ranks that exchange tensors: one interface for threads of a process, MPI processes and GPUs.
//
// Every member but send, recv and abort is collective: all ranks call it, in one order, with tensors of equal
// dtype and size; `local` always checks that, others when TESSERA_CHECK_COLLECTIVES is set. Tensors are
// contiguous, on this rank's device. An object belongs to its rank's thread. A rank that fails wakes the
// others, whose calls throw PeerFailed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/base/error.h"
#include "core/tensor/tensor.h"

namespace tessera {

// Seconds of patience that TESSERA_TIMEOUT asks for; nothing if it is not set.
std::optional<double> forced_patience();
inline constexpr double first_patience = 1800;

// Thrown on a rank whose peer failed first: the peer tells the cause, this one stays silent.
class PeerFailed : public Error {
 public:
  using Error::Error;
};

class ProcessGroup {
 public:
  ProcessGroup(int rank, int size) : rank_(rank), size_(size) {}
  virtual ~ProcessGroup() = default;
  ProcessGroup(const ProcessGroup&) = delete;
  ProcessGroup& operator=(const ProcessGroup&) = delete;

  int rank() const { return rank_; }
  int size() const { return size_; }
  virtual const char* kind() const = 0;  // "threads", "mpi", "nccl"
  virtual int ranks_on_node() const = 0;
  virtual int rank_on_node() const = 0;  // among those

  // x becomes the sum over ranks, F32 or BF16 (in fp32, rounded once), added in the balanced tree of
  // parallel/tree_sum.h over ranks: the same bits on every rank, and for any number of ranks whose parts are
  // subtrees of one tree. What is small goes to all ranks in one round; more as reduce_scatter and
  // all_gather.
  void all_reduce(const Tensor& x);
  // out = the sum over ranks of part rank() of `in`, which holds size() parts of out's size. Ordered as
  // above.
  void reduce_scatter(const Tensor& out, const Tensor& in);
  // out = every rank's `in`, in order of rank.
  void all_gather(const Tensor& out, const Tensor& in);
  // Part r of `in` goes to rank r; part r of `out` comes from rank r.
  void all_to_all(const Tensor& out, const Tensor& in);

  // The same with parts of any sizes, one a rank, each known to its two ranks; empty ones move nothing.
  // `out` of a reduce_scatter has the size of in[rank()]; `in` of an all_gather may be out[rank()] itself.
  void reduce_scatter(const Tensor& out, std::span<const Tensor> in);
  void all_gather(std::span<const Tensor> out, const Tensor& in);
  void all_to_all(std::span<const Tensor> out, std::span<const Tensor> in);

  void broadcast(const Tensor& x, int root);
  void barrier();
  // A send does not wait for its recv, and x may be changed once it returns. Messages between two ranks are
  // told apart by their tag (not negative); those of one tag arrive in order.
  // Tensors on a GPU go between neighbours (rank ± 1; the first follows the last), once connect() was called.
  void send(const Tensor& x, int to, int tag = 0);
  void recv(const Tensor& x, int from, int tag = 0);
  // Collective; makes what messages on a GPU need, where they do.
  virtual void connect() {}

  // Collectives that `calls` asks of this group, on tensors, may run beside later work: their results are for
  // use after join(), which calls `then`, and tensors given are left alone until then. Only what needs no
  // result of another may be in one `calls`. The group keeps the tensors. Collective, and so is join(). A
  // group that runs everything at once does so here. Returns a number for join().
  std::uint64_t defer(const std::function<void()>& calls, std::function<void()> then = {});
  // Ends what was deferred, oldest first, up to this number: later work on the device comes after it.
  void join(std::uint64_t until = ~std::uint64_t{0});

  // The group of the ranks that give the same `color`, in order of (`key`, rank here). Collective over this
  // group; the new one may outlive it and sends its own bytes.
  std::unique_ptr<ProcessGroup> split(int color, int key);

  // Small host values.
  std::int64_t sum(std::int64_t value);
  std::int64_t maximum(std::int64_t value);
  std::vector<double> all_gather(double value);  // by rank
  // Rank r has counts[r] numbers; all of them, in order of rank.
  std::vector<double> all_gather(std::span<const double> mine, std::span<const std::int64_t> counts);
  std::vector<std::string> all_gather_text(const std::string& text);  // by rank

  // Says what this rank is doing, for messages about ranks that wait. Kept for the whole job, whichever of
  // its groups is told; so is patience. Both go to the rank's activity (core/base/activity.h).
  virtual void set_position(const std::string& text) = 0;
  // How long a rank may go without progress before a Watch ends the job, saying where each stands, with exit
  // code watchdog. 30 minutes unless told, or TESSERA_TIMEOUT seconds, which nothing changes.
  virtual void set_patience(double seconds) = 0;
  // For who waits by other means, in `call`, since so many seconds: throws PeerFailed where a rank is known
  // to have failed, and the Error of one that ends the job where no Watch sees all ranks.
  virtual void still_waiting(const std::string& call, double seconds) = 0;

  // Bytes this rank handed to each kind of collective so far.
  const std::map<std::string, std::uint64_t>& bytes_sent() const { return bytes_sent_; }

 protected:
  // What a call is, for cross-checks and messages.
  struct Call {
    const char* collective;
    DType dtype;
    std::int64_t elements;     // -1: parts of any sizes
    Device* device = nullptr;  // where the data is; null: host memory
    bool operator==(const Call& other) const {
      return std::string_view(collective) == other.collective && dtype == other.dtype &&
             elements == other.elements;
    }
    std::string text() const;
  };
  // What goes to, or comes from, one rank.
  struct Outgoing {
    const void* data;
    std::size_t bytes;
  };
  struct Incoming {
    void* data;
    std::size_t bytes;
  };
  // Data is where call.device says.
  virtual void do_all_gather(const Call& call, void* out, const void* in, std::size_t bytes) = 0;
  virtual void do_all_to_all(const Call& call, std::span<const Incoming> out,
                             std::span<const Outgoing> in) = 0;
  virtual void do_broadcast(const Call& call, void* data, std::size_t bytes, int root) = 0;
  virtual void do_barrier() = 0;
  virtual void do_send(const Call& call, const void* data, std::size_t bytes, int to, int tag) = 0;
  virtual void do_recv(const Call& call, void* data, std::size_t bytes, int from, int tag) = 0;
  // `members`: ranks of this group that give `color`, ordered; this rank is members[rank].
  virtual std::unique_ptr<ProcessGroup> do_split(int color, const std::vector<int>& members, int rank) = 0;
  // Sums in an order of the group's own; false: there is none, and they are taken in the tree.
  virtual bool do_reduce_scatter(const Call&, const Incoming&, std::span<const Outgoing>) { return false; }
  virtual bool do_all_reduce(const Call&, const Incoming&) { return false; }
  // Whether calls may still run when they return; a mark after those so far, which later work waits for.
  virtual bool runs_beside() const { return false; }
  virtual std::uint64_t do_mark() { return 0; }
  virtual void do_wait(std::uint64_t) {}
  bool deferring() const { return deferring_ != nullptr; }

 private:
  friend class NcclGroup;  // hands host values to another group
  void sum_parts(const Call& call, const Tensor& out, std::span<const Tensor> in);
  bool sum_natively(const Call& call, const Tensor& out, std::span<const Tensor> in);
  void keep(std::span<const Tensor> tensors);
  void exchange(const Call& call, std::span<const Tensor> out, std::span<const Tensor> in);
  void count(const char* collective, std::size_t bytes) { bytes_sent_[collective] += bytes; }
  int rank_;
  int size_;
  std::map<std::string, std::uint64_t> bytes_sent_;
  struct Deferred {
    std::uint64_t number;
    std::uint64_t mark = 0;
    std::vector<Tensor> kept = {};                    // what its calls use
    std::vector<std::function<void()>> at_join = {};  // what is left of them, in their order
  };
  std::uint64_t deferred_count_ = 0;
  std::deque<Deferred> deferred_;
  Deferred* deferring_ = nullptr;  // what calls belong to now
};

}  // namespace tessera
