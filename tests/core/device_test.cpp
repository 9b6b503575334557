// Kinds of device that a build does not have.

#include <gtest/gtest.h>

#include "core/base/error.h"
#include "core/tensor/device.h"

namespace tessera {
namespace {

TEST(Devices, AMissingKindSaysHowToGetIt) {
  for (const auto& ask : {std::function<void()>([] { make_device(DeviceKind::cuda); }),
                          std::function<void()>([] { device_count(DeviceKind::cuda); })}) {
    try {
      ask();
      FAIL();
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ExitCode::usage);
      EXPECT_NE(std::string(e.what()).find("-DTESSERA_CUDA=ON"), std::string::npos) << e.what();
    }
  }
  EXPECT_EQ(device_count(DeviceKind::meta), 1);
}

}  // namespace
}  // namespace tessera
