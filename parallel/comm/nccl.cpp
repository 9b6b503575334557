#include "parallel/comm/nccl.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <deque>

#include "parallel/comm/nccl_ways.h"

namespace tessera {
namespace {

void check_gpus(ProcessGroup& host, const Device& device) {
  const std::vector<std::string> models = host.all_gather_text(device.model());
  const std::vector<std::string> gpus = host.all_gather_text(device.identity());
  for (std::size_t r = 1; r < gpus.size(); ++r) {
    if (models[r] != models[0])
      fail_usage(
          "ranks have different GPUs: rank 0 {}, rank {} {}; start them on GPUs of one kind "
          "(CUDA_VISIBLE_DEVICES, or Slurm's --constraint)",
          models[0], r, models[r]);
    const auto same = std::find(gpus.begin(), gpus.begin() + static_cast<std::ptrdiff_t>(r), gpus[r]);
    if (same != gpus.begin() + static_cast<std::ptrdiff_t>(r))
      fail_usage("ranks {} and {} have one GPU, {}: NCCL needs one for each; start no more ranks than GPUs",
                 same - gpus.begin(), r, gpus[r]);
  }
}

// Written to the receiver for each message.
struct Note {
  std::int64_t tag;
  std::uint64_t bytes;
};

}  // namespace

class NcclGroup : public ProcessGroup {
 public:
  NcclGroup(ProcessGroup& host, std::unique_ptr<ProcessGroup> owned, std::shared_ptr<NcclJob> job,
            SumOrder order)
      : ProcessGroup(host.rank(), host.size()),
        owned_(std::move(owned)),
        host_(host),
        job_(std::move(job)),
        order_(order),
        checked_(std::getenv("TESSERA_CHECK_COLLECTIVES") != nullptr),
        ways_(*job_, host.rank(), host.size()) {}

  const char* kind() const override { return "nccl"; }
  int ranks_on_node() const override { return host_.ranks_on_node(); }
  int rank_on_node() const override { return host_.rank_on_node(); }
  void set_position(const std::string& text) override { host_.set_position(text); }
  void set_patience(double seconds) override { host_.set_patience(seconds); }
  void still_waiting(const std::string& call, double seconds) override { host_.still_waiting(call, seconds); }

  void connect() override {
    if (size() == 1 || notes_ != nullptr) return;
    host_.connect();
    notes_ = host_.split(0, rank());
    notes_->connect();
    ways_.connect([this](NcclWays::Ids* all, const NcclWays::Ids* mine) {
      host_.do_all_gather({"all_gather of NCCL ids", DType::u8, sizeof *mine}, all, mine, sizeof *mine);
    });
  }

 protected:
  void do_all_gather(const Call& call, void* out, const void* in, std::size_t bytes) override {
    if (!on_gpu(call)) return host_.do_all_gather(call, out, in, bytes);
    if (size() == 1) return device().copy(out, in, out == in ? 0 : bytes);
    run(call, [&](ncclComm_t comm, cudaStream_t stream) {
      return ncclAllGather(in, out, elements(call, bytes), nccl_type(call.dtype), comm, stream);
    });
  }

  void do_all_to_all(const Call& call, std::span<const Incoming> out, std::span<const Outgoing> in) override {
    if (!on_gpu(call)) return host_.do_all_to_all(call, out, in);
    const auto self = static_cast<std::size_t>(rank());
    if (out[self].data != in[self].data) device().copy(out[self].data, in[self].data, out[self].bytes);
    if (size() == 1) return;
    run(call, [&](ncclComm_t comm, cudaStream_t stream) {
      const ncclDataType_t type = nccl_type(call.dtype);
      ncclResult_t result = ncclGroupStart();
      for (int step = 1; step < size(); ++step) {
        const int to = (rank() + step) % size();
        const int from = (rank() + size() - step) % size();
        const auto& [data, bytes] = in[static_cast<std::size_t>(to)];
        if (bytes > 0) result = worse(result, ncclSend(data, elements(call, bytes), type, to, comm, stream));
        const auto& [place, room] = out[static_cast<std::size_t>(from)];
        if (room > 0) result = worse(result, ncclRecv(place, elements(call, room), type, from, comm, stream));
      }
      return worse(result, ncclGroupEnd());
    });
  }

  void do_broadcast(const Call& call, void* data, std::size_t bytes, int root) override {
    if (!on_gpu(call)) return host_.do_broadcast(call, data, bytes, root);
    if (size() == 1) return;
    run(call, [&](ncclComm_t comm, cudaStream_t stream) {
      return ncclBroadcast(data, data, elements(call, bytes), nccl_type(call.dtype), root, comm, stream);
    });
  }

  void do_barrier() override { host_.do_barrier(); }

  void do_send(const Call& call, const void* data, std::size_t bytes, int to, int tag) override {
    if (!on_gpu(call)) return host_.do_send(call, data, bytes, to, tag);
    ways_.send(to, call.text(), data, bytes);
    const Note note{tag, bytes};
    notes_->do_send(note_call, &note, sizeof note, to, 0);
  }

  void do_recv(const Call& call, void* data, std::size_t bytes, int from, int tag) override {
    if (!on_gpu(call)) return host_.do_recv(call, data, bytes, from, tag);
    ways_.check_way(from, rank());
    if (std::deque<Tensor>& early = early_[{from, tag}]; !early.empty()) {
      check_size(call, early.front().bytes(), bytes, from);
      device().copy(data, early.front().raw(), bytes);
      early.pop_front();
      return;
    }
    for (;;) {
      Note note{};
      notes_->do_recv(note_call, &note, sizeof note, from, 0);
      if (note.tag == tag) {
        check_size(call, note.bytes, bytes, from);
        ways_.recv(from, call.text(), data, bytes);
        return;
      }
      const Tensor early = Tensor::empty({static_cast<std::int64_t>(note.bytes)}, DType::u8, device());
      ways_.recv(from, call.text(), early.raw(), note.bytes);
      early_[{from, static_cast<int>(note.tag)}].push_back(early);
    }
  }

  std::unique_ptr<ProcessGroup> do_split(int color, const std::vector<int>& members, int rank) override {
    std::unique_ptr<ProcessGroup> part = host_.do_split(color, members, rank);
    ProcessGroup& host = *part;
    return std::make_unique<NcclGroup>(host, std::move(part), job_, order_);
  }

  bool do_reduce_scatter(const Call& call, const Incoming& out, std::span<const Outgoing> in) override {
    if (order_ != SumOrder::native || !on_gpu(call) || size() == 1) return false;
    const ncclDataType_t type = nccl_type(call.dtype);
    run(call, [&](ncclComm_t comm, cudaStream_t stream) {
      if (call.elements >= 0)  // equal parts of one tensor
        return ncclReduceScatter(in[0].data, out.data, elements(call, out.bytes), type, ncclSum, comm,
                                 stream);
      ncclResult_t result = ncclGroupStart();
      for (int r = 0; r < size(); ++r)
        if (const auto& [data, bytes] = in[static_cast<std::size_t>(r)]; bytes > 0)
          result = worse(result, ncclReduce(data, r == rank() ? out.data : nullptr, elements(call, bytes),
                                            type, ncclSum, r, comm, stream));
      return worse(result, ncclGroupEnd());
    });
    return true;
  }

  bool do_all_reduce(const Call& call, const Incoming& x) override {
    if (order_ != SumOrder::native || !on_gpu(call)) return false;
    run(call, [&](ncclComm_t comm, cudaStream_t stream) {
      return ncclAllReduce(x.data, x.data, elements(call, x.bytes), nccl_type(call.dtype), ncclSum, comm,
                           stream);
    });
    return true;
  }

  bool runs_beside() const override { return size() > 1; }
  std::uint64_t do_mark() override { return stream_ == nullptr ? 0 : stream_->record(); }
  void do_wait(std::uint64_t mark) override {
    if (stream_ != nullptr) device().stream().wait(mark);
  }

 private:
  static constexpr Call note_call{"send of a note", DType::i64, 2};

  Device& device() const { return job_->device(); }
  static bool on_gpu(const Call& call) {
    return call.device != nullptr && call.device->kind() == DeviceKind::cuda;
  }
  static std::size_t elements(const Call& call, std::size_t bytes) {
    return nccl_type(call.dtype) == ncclUint8 ? bytes : bytes / bytes_per_element(call.dtype);
  }

  // A collective, on the group's stream between what device.stream() was and will be given.
  template <class Ask>
  void run(const Call& call, Ask ask_nccl) {
    job_->throw_if_failed();
    if (checked_) cross_check(call);
    if (comm_ == nullptr) make_comm();
    stream_->wait(device().stream().record());
    comm_->ask(call.text(), [&] { return ask_nccl(comm_->get(), native(*stream_)); });
    if (!deferring()) device().stream().wait(stream_->record());
  }

  // At the first call, which all ranks make.
  void make_comm() {
    stream_ = device().make_stream(true);
    ncclUniqueId id{};
    if (rank() == 0) job_->take(ncclGetUniqueId(&id), "making a communicator");
    host_.do_broadcast({"broadcast of an NCCL id", DType::u8, sizeof id}, &id, sizeof id, 0);
    comm_ = std::make_unique<NcclComm>(*job_, id, size(), rank());
    comm_->settle();
  }

  void cross_check(const Call& call) {
    const std::vector<std::string> calls = host_.all_gather_text(call.text());
    for (std::size_t r = 1; r < calls.size(); ++r)
      if (calls[r] != calls[0])
        fail("ranks disagree: rank 0 calls {}, rank {} calls {}", calls[0], r, calls[r]);
  }

  void check_size(const Call& call, std::size_t sent, std::size_t expected, int from) const {
    if (sent != expected)
      fail("ranks disagree in {}: rank {} sends {} bytes, rank {} expects {}", call.text(), from, sent,
           rank(), expected);
  }

  // In the order in which they may be destroyed, last to first.
  std::unique_ptr<ProcessGroup> owned_;
  ProcessGroup& host_;
  std::shared_ptr<NcclJob> job_;
  SumOrder order_;
  bool checked_;
  std::unique_ptr<ProcessGroup> notes_;
  std::unique_ptr<Stream> stream_;
  std::unique_ptr<NcclComm> comm_;
  // Come before they were asked for, by sender and tag.
  std::map<std::pair<int, int>, std::deque<Tensor>> early_;
  NcclWays ways_;
};

std::unique_ptr<ProcessGroup> make_nccl_group(ProcessGroup& host, Device& device, SumOrder order) {
  assert(device.kind() == DeviceKind::cuda);
  check_gpus(host, device);
  return std::make_unique<NcclGroup>(
      host, nullptr,
      std::make_shared<NcclJob>(
          host.rank(), device,
          [&host](const std::string& call, double seconds) { host.still_waiting(call, seconds); }),
      order);
}

}  // namespace tessera
