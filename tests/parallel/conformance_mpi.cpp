// Run under mpirun: the suite of conformance.h on MPI ranks.

#include <cstdio>

#include "parallel/comm/mpi.h"
#include "tests/parallel/conformance.h"

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  bool failed = false;
  {
    tessera::MpiSession session;
    tessera::check_communicator_on_cpu(session.world());
    try {
      const auto device = tessera::make_device(tessera::DeviceKind::cpu);
      session.world().broadcast(
          tessera::Tensor::zeros({session.world().rank() + 3}, tessera::DType::f32, *device), 0);
      failed = session.world().size() > 1;  // a mismatch must not pass
    } catch (const tessera::Error& e) {
      failed = std::string_view(e.what()).find("broadcast of 4 F32") == std::string_view::npos;
    }
    failed = failed || testing::UnitTest::GetInstance()->ad_hoc_test_result().Failed();
    if (session.world().rank() == 0)
      std::printf("%s on %d MPI ranks\n", failed ? "FAILED" : "passed", session.world().size());
  }
  return failed ? 1 : 0;
}
