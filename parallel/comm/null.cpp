#include "parallel/comm/null.h"

#include <cassert>

#include "core/tensor/device.h"

namespace tessera {
namespace {

class NullGroup : public ProcessGroup {
 public:
  explicit NullGroup(int ranks) : ProcessGroup(0, ranks) {}
  const char* kind() const override { return "none"; }
  int ranks_on_node() const override { return size(); }
  int rank_on_node() const override { return rank(); }
  void set_position(const std::string&) override {}
  void set_patience(double) override {}
  void still_waiting(const std::string&, double) override {}

 protected:
  void do_all_gather(const Call& call, void*, const void*, std::size_t) override { check(call); }
  void do_all_to_all(const Call& call, std::span<const Incoming>, std::span<const Outgoing>) override {
    check(call);
  }
  void do_broadcast(const Call& call, void*, std::size_t, int) override { check(call); }
  void do_barrier() override {}
  void do_send(const Call& call, const void*, std::size_t, int, int) override { check(call); }
  void do_recv(const Call& call, void*, std::size_t, int, int) override { check(call); }
  std::unique_ptr<ProcessGroup> do_split(int, const std::vector<int>& members, int) override {
    return std::make_unique<NullGroup>(static_cast<int>(members.size()));
  }

 private:
  // Values of the host, or of a device with memory, would be left as they are and taken for results.
  static void check([[maybe_unused]] const Call& call) {
    assert(call.device != nullptr && call.device->kind() == DeviceKind::meta);
  }
};

}  // namespace

std::unique_ptr<ProcessGroup> make_null_group(int ranks) {
  return std::make_unique<NullGroup>(ranks);
}

}  // namespace tessera
