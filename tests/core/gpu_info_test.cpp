#include "core/gpu_info.h"

#include <set>

#include "core/error.h"
#include "tests/support/catch.h"
#include "tests/support/errors.h"
#include "tests/support/skip.h"

namespace weft {
namespace {

TEST_CASE("every GPU says what it is", "[device]") {
  if (!is_available(DeviceKind::kCuda)) WEFT_SKIP(why_unavailable(DeviceKind::kCuda));
  std::set<std::string> ids;
  for (int i = 0; i < num_devices(DeviceKind::kCuda); ++i) {
    const GpuInfo gpu = gpu_info({DeviceKind::kCuda, i});
    CHECK_FALSE(gpu.name.empty());
    CHECK_FALSE(gpu.pci_address.empty());
    CHECK(gpu.total_bytes > 0);
    CHECK((gpu.free_bytes > 0 && gpu.free_bytes <= gpu.total_bytes));
    CHECK(gpu.compute_capability >= 50);
    CHECK(gpu.num_multiprocessors > 0);
    CHECK(gpu.id.size() == 4 + 32);
    CHECK(gpu.id == device_id({DeviceKind::kCuda, i}));
    ids.insert(gpu.id);
  }
  CHECK(static_cast<int>(ids.size()) == num_devices(DeviceKind::kCuda));
  CHECK_FALSE(cuda_versions().driver.empty());
}

TEST_CASE("a device that is not there has nothing to say", "[device]") {
  test::check_error(ErrorCode::kUnavailable, "", [] { static_cast<void>(gpu_info({DeviceKind::kCuda, 999})); });
  test::check_error(ErrorCode::kUnavailable, "", [] { static_cast<void>(device_id({DeviceKind::kCuda, 999})); });
  CHECK(device_id({}).empty());
}

}  // namespace
}  // namespace weft
