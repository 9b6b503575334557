#include "parallel/comm/nccl_world.h"

#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>

#include "core/base/activity.h"
#include "parallel/comm/nccl_ways.h"

namespace tessera {
namespace {

// For buffers of host values, so that the device does not take what it takes for training.
constexpr std::size_t reserved_bytes = std::size_t{32} << 20;

std::string bytes_of_id(const ncclUniqueId& id) {
  return {id.internal, sizeof id.internal};
}

// What the groups of a rank share.
struct World {
  World(Meeting& meeting_, std::unique_ptr<Device> device_)
      : meeting(meeting_),
        device(std::move(device_)),
        job(meeting.rank(), *device,
            [this](const std::string& call, double seconds) { still_waiting(call, seconds); }) {
    device->reserve(reserved_bytes);
  }
  void still_waiting(const std::string& call, double seconds) {
    meeting.look();
    tell_waiting(call);
    if (seconds <= patience) return;
    meeting.say_position(fmt::format("waits in {} ({})", call, position));
    std::string text = fmt::format("no progress for {:.0f} s", patience);
    const std::vector<std::string> positions = meeting.positions();
    for (std::size_t r = 0; r < positions.size(); ++r) text += fmt::format("; rank {}: {}", r, positions[r]);
    throw Error(text, ExitCode::watchdog);
  }

  Meeting& meeting;
  double patience = forced_patience().value_or(first_patience);
  std::string position;
  std::unique_ptr<Device> device;
  NcclJob job;
};

// Written before each message.
struct Note {
  std::int64_t tag;
  std::uint64_t bytes;
};

class NcclWorldGroup : public ProcessGroup {
 public:
  NcclWorldGroup(std::shared_ptr<World> world, const ncclUniqueId& id, int rank, int size)
      : ProcessGroup(rank, size),
        world_(std::move(world)),
        checked_(std::getenv("TESSERA_CHECK_COLLECTIVES") != nullptr),
        stream_(device().make_stream(true)),
        ways_(world_->job, rank, size) {
    if (size == 1) return;
    comm_ = std::make_unique<NcclComm>(world_->job, id, size, rank);
    comm_->settle();
  }

  const char* kind() const override { return "nccl"; }
  int ranks_on_node() const override { return size(); }
  int rank_on_node() const override { return rank(); }
  void set_position(const std::string& text) override {
    world_->position = text;
    world_->meeting.say_position(text);
  }
  void set_patience(double seconds) override { world_->patience = forced_patience().value_or(seconds); }
  void still_waiting(const std::string& call, double seconds) override {
    world_->still_waiting(call, seconds);
  }

  void connect() override {
    if (size() == 1 || std::exchange(connected_, true)) return;
    ways_.connect([this](NcclWays::Ids* all, const NcclWays::Ids* mine) {
      do_all_gather({"all_gather of NCCL ids", DType::u8, sizeof *mine}, all, mine, sizeof *mine);
    });
  }

 protected:
  void do_all_gather(const Call& call, void* out, const void* in, std::size_t bytes) override {
    cross_check(call);
    gather(call.text(), out, in, bytes);
  }

  void do_all_to_all(const Call& call, std::span<const Incoming> out, std::span<const Outgoing> in) override {
    cross_check(call);
    const auto self = static_cast<std::size_t>(rank());
    if (out[self].bytes > 0 && out[self].data != in[self].data)
      std::memmove(out[self].data, in[self].data, out[self].bytes);
    std::vector<Tensor> received(out.size());
    std::vector<Tensor> sent(in.size());
    bool any = false;
    for (std::size_t r = 0; r < in.size(); ++r) {
      if (r == self) continue;
      if (in[r].bytes > 0) sent[r] = to_device(in[r].data, in[r].bytes);
      if (out[r].bytes > 0) received[r] = buffer(out[r].bytes);
      any = any || in[r].bytes + out[r].bytes > 0;
    }
    if (!any) return;
    run(call.text(), [&] {
      ncclResult_t result = ncclGroupStart();
      for (int step = 1; step < size(); ++step) {
        const int to = (rank() + step) % size();
        const int from = (rank() + size() - step) % size();
        if (const Tensor& x = sent[static_cast<std::size_t>(to)]; x.defined())
          result = worse(result, ncclSend(x.raw(), x.bytes(), ncclUint8, to, comm_->get(), native(*stream_)));
        if (const Tensor& x = received[static_cast<std::size_t>(from)]; x.defined())
          result =
              worse(result, ncclRecv(x.raw(), x.bytes(), ncclUint8, from, comm_->get(), native(*stream_)));
      }
      return worse(result, ncclGroupEnd());
    });
    for (std::size_t r = 0; r < out.size(); ++r)
      if (received[r].defined()) to_host(out[r].data, received[r]);
  }

  void do_broadcast(const Call& call, void* data, std::size_t bytes, int root) override {
    cross_check(call);
    if (size() == 1 || bytes == 0) return;
    const Tensor x = rank() == root ? to_device(data, bytes) : buffer(bytes);
    run(call.text(), [&] {
      return ncclBroadcast(x.raw(), x.raw(), bytes, ncclUint8, root, comm_->get(), native(*stream_));
    });
    if (rank() != root) to_host(data, x);
  }

  void do_barrier() override {
    const std::byte here{};
    std::vector<std::byte> all(static_cast<std::size_t>(size()));
    gather("barrier", all.data(), &here, 1);
  }

  void do_send(const Call& call, const void* data, std::size_t bytes, int to, int tag) override {
    const Note note{tag, bytes};
    ways_.send(to, "send of a note", &note, sizeof note);
    ways_.send(to, call.text(), data, bytes);
  }

  void do_recv(const Call& call, void* data, std::size_t bytes, int from, int tag) override {
    ways_.check_way(from, rank());
    std::deque<std::vector<std::byte>>& early = early_[{from, tag}];
    while (early.empty()) {
      Note note{};
      const Tensor written = buffer(sizeof note);
      ways_.recv(from, "recv of a note", written.raw(), sizeof note);
      to_host(&note, written);
      std::vector<std::byte>& message = early_[{from, static_cast<int>(note.tag)}].emplace_back(note.bytes);
      if (note.bytes == 0) continue;
      const Tensor received = buffer(note.bytes);
      ways_.recv(from, call.text(), received.raw(), note.bytes);
      to_host(message.data(), received);
    }
    const std::vector<std::byte> message = std::move(early.front());
    early.pop_front();
    if (message.size() != bytes)
      fail("ranks disagree in {}: rank {} sends {} bytes, rank {} expects {}", call.text(), from,
           message.size(), rank(), bytes);
    if (bytes > 0) std::memcpy(data, message.data(), bytes);
  }

  std::unique_ptr<ProcessGroup> do_split(int, const std::vector<int>& members, int rank) override {
    ncclUniqueId mine{};
    if (rank == 0 && members.size() > 1) world_->job.take(ncclGetUniqueId(&mine), "splitting a group");
    std::vector<ncclUniqueId> ids(static_cast<std::size_t>(size()));
    gather("all_gather of NCCL ids", ids.data(), &mine, sizeof mine);
    return std::make_unique<NcclWorldGroup>(world_, ids[static_cast<std::size_t>(members[0])], rank,
                                            static_cast<int>(members.size()));
  }

 private:
  Device& device() const { return *world_->device; }
  Tensor buffer(std::size_t bytes) const {
    return Tensor::empty({static_cast<std::int64_t>(bytes)}, DType::u8, device());
  }
  Tensor to_device(const void* data, std::size_t bytes) const {
    Tensor x = buffer(bytes);
    device().copy(x.raw(), data, bytes);
    return x;
  }
  // Waits for it; what fails meanwhile is thrown here.
  void to_host(void* data, const Tensor& x) const { device().copy(data, x.raw(), x.bytes()); }

  void gather(const std::string& call, void* out, const void* in, std::size_t bytes) {
    if (bytes == 0) return;
    if (size() == 1) {
      if (out != in) std::memmove(out, in, bytes);
      return;
    }
    const Tensor mine = to_device(in, bytes);
    const Tensor all = buffer(bytes * static_cast<std::size_t>(size()));
    run(call, [&] {
      return ncclAllGather(mine.raw(), all.raw(), bytes, ncclUint8, comm_->get(), native(*stream_));
    });
    to_host(out, all);
  }

  // On the group's stream, between what device.stream() was and will be given.
  template <class Ask>
  void run(const std::string& call, Ask ask_nccl) {
    stream_->wait(device().stream().record());
    comm_->ask(call, ask_nccl);
    device().stream().wait(stream_->record());
  }

  void cross_check(const Call& call) {
    if (!checked_ || size() == 1) return;
    std::array<char, 96> mine{};
    const std::string text = call.text();
    text.copy(mine.data(), mine.size() - 1);
    std::vector<std::array<char, 96>> all(static_cast<std::size_t>(size()));
    gather("a cross-check", all.data(), mine.data(), sizeof mine);
    for (std::size_t r = 1; r < all.size(); ++r)
      if (std::string_view(all[r].data()) != all[0].data())
        fail("ranks disagree: rank 0 calls {}, rank {} calls {}", all[0].data(), r, all[r].data());
  }

  // In the order in which they may be destroyed, last to first.
  std::shared_ptr<World> world_;
  bool checked_;
  bool connected_ = false;
  std::map<std::pair<int, int>, std::deque<std::vector<std::byte>>> early_;  // messages by sender and tag
  std::unique_ptr<Stream> stream_;
  std::unique_ptr<NcclComm> comm_;
  NcclWays ways_;
};

}  // namespace

std::unique_ptr<ProcessGroup> make_nccl_world(Meeting& meeting, std::unique_ptr<Device> device) {
  const std::string token = meeting.meet(device->identity(), [] {
    ncclUniqueId id{};
    if (const ncclResult_t result = ncclGetUniqueId(&id); result != ncclSuccess)
      fail("NCCL does not start: {}; run again with NCCL_DEBUG=INFO", ncclGetErrorString(result));
    return bytes_of_id(id);
  });
  ncclUniqueId id{};
  if (token.size() != sizeof id.internal) fail("the ranks met with {} bytes for an NCCL id", token.size());
  std::memcpy(id.internal, token.data(), token.size());
  return std::make_unique<NcclWorldGroup>(std::make_shared<World>(meeting, std::move(device)), id,
                                          meeting.rank(), meeting.ranks());
}

}  // namespace tessera
