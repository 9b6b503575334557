#include "parallel/comm/mpi.h"

#include <mpi.h>

#include <array>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <list>
#include <thread>

#include "core/base/activity.h"
#include "parallel/comm/mpi_watch.h"

namespace tessera {
namespace {

using Clock = std::chrono::steady_clock;

void check(int code, const char* what) {
  if (code == MPI_SUCCESS) return;
  std::array<char, MPI_MAX_ERROR_STRING> text{};
  int length = 0;
  MPI_Error_string(code, text.data(), &length);
  fail("MPI {} failed: {}", what, std::string_view(text.data(), static_cast<std::size_t>(length)));
}

// A datatype of `bytes` bytes, so that counts beyond 2^31 fit: units of 64 bytes where they divide.
class Bytes {
 public:
  explicit Bytes(std::size_t bytes) {
    const bool units = bytes % 64 == 0;
    MPI_Datatype unit = MPI_BYTE;
    if (units) MPI_Type_contiguous(64, MPI_BYTE, &unit);
    check(MPI_Type_contiguous(static_cast<int>(units ? bytes / 64 : bytes), unit, &type_), "Type_contiguous");
    check(MPI_Type_commit(&type_), "Type_commit");
    if (units) MPI_Type_free(&unit);
  }
  ~Bytes() { MPI_Type_free(&type_); }
  Bytes(const Bytes&) = delete;
  Bytes& operator=(const Bytes&) = delete;
  MPI_Datatype type() const { return type_; }

 private:
  MPI_Datatype type_ = MPI_DATATYPE_NULL;
};

class MpiGroup : public ProcessGroup {
 public:
  MpiGroup(MPI_Comm comm, int rank, int size, std::shared_ptr<MpiWatch> watch)
      : ProcessGroup(rank, size),
        comm_(comm),
        watch_(std::move(watch)),
        checked_(std::getenv("TESSERA_CHECK_COLLECTIVES") != nullptr) {
    MPI_Comm node = MPI_COMM_NULL;
    check(MPI_Comm_split_type(comm, MPI_COMM_TYPE_SHARED, rank, MPI_INFO_NULL, &node), "Comm_split_type");
    MPI_Comm_size(node, &on_node_);
    MPI_Comm_rank(node, &rank_on_node_);
    MPI_Comm_free(&node);
  }
  ~MpiGroup() override {
    if (comm_ != MPI_COMM_WORLD) MPI_Comm_free(&comm_);
  }
  const char* kind() const override { return "mpi"; }
  int ranks_on_node() const override { return on_node_; }
  int rank_on_node() const override { return rank_on_node_; }
  void set_position(const std::string& text) override { tessera::set_position(text); }
  void set_patience(double seconds) override { tessera::set_patience(seconds); }
  // A rank that fails ends all processes: there is none to hear of.
  void still_waiting(const std::string& call, double) override { tell_waiting(call); }

 protected:
  void do_all_gather(const Call& call, void* out, const void* in, std::size_t bytes) override {
    cross_check(call);
    const Bytes unit(bytes);
    MPI_Request request = MPI_REQUEST_NULL;
    check(MPI_Iallgather(in_place(out, in, bytes), 1, unit.type(), out, 1, unit.type(), comm_, &request),
          call.collective);
    wait(request, call);
  }
  void do_all_to_all(const Call& call, std::span<const Incoming> out, std::span<const Outgoing> in) override {
    cross_check(call);
    std::vector<MPI_Request> requests;
    for (int step = 1; step < size(); ++step) {
      const int from = (rank() + size() - step) % size();
      const Incoming& place = out[static_cast<std::size_t>(from)];
      if (place.bytes == 0) continue;
      check(MPI_Irecv(place.data, 1, Bytes(place.bytes).type(), from, parts_tag, comm_,
                      &requests.emplace_back()),
            call.collective);
    }
    for (int step = 1; step < size(); ++step) {
      const int to = (rank() + step) % size();
      const Outgoing& part = in[static_cast<std::size_t>(to)];
      if (part.bytes == 0) continue;
      check(MPI_Isend(part.data, 1, Bytes(part.bytes).type(), to, parts_tag, comm_, &requests.emplace_back()),
            call.collective);
    }
    const auto self = static_cast<std::size_t>(rank());
    if (out[self].bytes > 0 && out[self].data != in[self].data)
      std::memcpy(out[self].data, in[self].data, out[self].bytes);
    for (MPI_Request& request : requests) wait(request, call);
  }
  void do_broadcast(const Call& call, void* data, std::size_t bytes, int root) override {
    cross_check(call);
    const Bytes unit(bytes);
    MPI_Request request = MPI_REQUEST_NULL;
    check(MPI_Ibcast(data, 1, unit.type(), root, comm_, &request), call.collective);
    wait(request, call);
  }
  void do_barrier() override {
    MPI_Request request = MPI_REQUEST_NULL;
    check(MPI_Ibarrier(comm_, &request), "barrier");
    wait(request, {"barrier", DType::u8, 0});
  }
  void do_send(const Call& call, const void* data, std::size_t bytes, int to, int tag) override {
    drop_sent();
    const auto* first = static_cast<const std::byte*>(data);
    Letter& letter = letters_.emplace_back();
    letter.bytes.assign(first, first + bytes);
    const Bytes unit(bytes);
    check(MPI_Isend(letter.bytes.data(), 1, unit.type(), to, tag + first_tag, comm_, &letter.request),
          call.collective);
  }
  void do_recv(const Call& call, void* data, std::size_t bytes, int from, int tag) override {
    const Bytes unit(bytes);
    MPI_Request request = MPI_REQUEST_NULL;
    check(MPI_Irecv(data, 1, unit.type(), from, tag + first_tag, comm_, &request), call.collective);
    wait(request, call);
    drop_sent();
  }
  std::unique_ptr<ProcessGroup> do_split(int color, const std::vector<int>& members, int rank) override {
    const DoingScope scope(Doing::waits, "split");
    MPI_Comm part = MPI_COMM_NULL;
    check(MPI_Comm_split(comm_, color, rank, &part), "Comm_split");
    return std::make_unique<MpiGroup>(part, rank, static_cast<int>(members.size()), watch_);
  }

 private:
  static constexpr int parts_tag = 0;
  static constexpr int first_tag = 1;

  // A copy of what is on its way.
  struct Letter {
    std::vector<std::byte> bytes;
    MPI_Request request = MPI_REQUEST_NULL;
  };
  void drop_sent() {
    std::erase_if(letters_, [](Letter& letter) {
      int done = 0;
      MPI_Test(&letter.request, &done, MPI_STATUS_IGNORE);
      return done != 0;
    });
  }

  // MPI forbids overlapping buffers; a rank's part already in its place is said so.
  const void* in_place(void* out, const void* in, std::size_t bytes) const {
    return static_cast<std::byte*>(out) + static_cast<std::size_t>(rank()) * bytes == in ? MPI_IN_PLACE : in;
  }

  // Spins briefly, then sleeps between looks: ranks may outnumber cores.
  void wait(MPI_Request& request, const Call& call) const {
    int done = 0;
    const auto start = Clock::now();
    do {  // a test may give the core away, for long where many want it
      check(MPI_Test(&request, &done, MPI_STATUS_IGNORE), call.collective);
    } while (done == 0 && Clock::now() - start < std::chrono::milliseconds(1));
    note_progress();
    if (done != 0) return;
    const DoingScope scope(Doing::waits, call.text());
    while (done == 0) {
      std::this_thread::sleep_for(std::chrono::microseconds(50));
      check(MPI_Test(&request, &done, MPI_STATUS_IGNORE), call.collective);
      watch_->exchange(std::chrono::duration<double>(Clock::now() - start).count());
    }
  }

  void cross_check(const Call& call) {
    if (!checked_ || size() == 1) return;
    std::array<char, 96> mine{};
    const std::string text = call.text();
    text.copy(mine.data(), mine.size() - 1);
    std::string all(mine.size() * static_cast<std::size_t>(size()), '\0');
    const DoingScope scope(Doing::waits, text);
    check(MPI_Allgather(mine.data(), mine.size(), MPI_CHAR, all.data(), mine.size(), MPI_CHAR, comm_),
          "Allgather");
    for (int r = 0; r < size(); ++r) {
      const char* theirs = all.data() + static_cast<std::size_t>(r) * mine.size();
      if (std::string_view(theirs) != all.c_str())
        fail("ranks disagree: rank 0 calls {}, rank {} calls {}", all.c_str(), r, theirs);
    }
  }

  MPI_Comm comm_;
  std::list<Letter> letters_;
  std::shared_ptr<MpiWatch> watch_;
  bool checked_;
  int on_node_ = 1;
  int rank_on_node_ = 0;
};

}  // namespace

bool started_by_mpi() {
  for (const char* name : {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PMIX_RANK"})
    if (std::getenv(name) != nullptr) return true;
  return false;
}

// A communicator of its own, for empty messages that say "I failed".
struct MpiSession::FailureNotes {
  FailureNotes() { MPI_Comm_dup(MPI_COMM_WORLD, &comm); }
  ~FailureNotes() { MPI_Comm_free(&comm); }
  FailureNotes(const FailureNotes&) = delete;
  FailureNotes& operator=(const FailureNotes&) = delete;
  MPI_Comm comm = MPI_COMM_NULL;
};

bool MpiSession::speaks_for_failed_ranks() {
  for (int peer = world_->rank() + 1; peer < world_->size(); ++peer) {
    MPI_Request request = MPI_REQUEST_NULL;  // never waited for: the job ends
    MPI_Isend(nullptr, 0, MPI_BYTE, peer, 0, failures_->comm, &request);
  }
  const auto start = Clock::now();
  int lower_failed = 0;
  while (lower_failed == 0 && Clock::now() - start < std::chrono::milliseconds(300)) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    MPI_Iprobe(MPI_ANY_SOURCE, 0, failures_->comm, &lower_failed, MPI_STATUS_IGNORE);
  }
  return lower_failed == 0;
}

MpiSession::MpiSession() {
  int provided = 0;
  check(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &provided), "Init_thread");
  MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
  int rank = 0;
  int size = 1;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  watch_ = std::make_shared<MpiWatch>();
  world_ = std::make_unique<MpiGroup>(MPI_COMM_WORLD, rank, size, watch_);
  failures_ = std::make_unique<FailureNotes>();
}

MpiSession::~MpiSession() {
  failures_.reset();
  world_.reset();
  watch_.reset();
  MPI_Finalize();
}

void MpiSession::abort(int code) {
  MPI_Abort(MPI_COMM_WORLD, code);
  std::_Exit(code);
}

}  // namespace tessera
