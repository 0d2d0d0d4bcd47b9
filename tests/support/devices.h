// tests/support/devices.h - test cases that run once on every kind of device, and are skipped where there is none.
// TEMPLATE_TEST_CASE("...", "[...]", WEFT_DEVICES) { WEFT_NEED_DEVICE(TestType::kKind); ... }
#pragma once

#include "core/device.h"
#include "tests/support/skip.h"

namespace weft::test {

template <DeviceKind kind>
struct On {
  static constexpr DeviceKind kKind = kind;
};
using on_cpu = On<DeviceKind::kCpu>;
using on_cuda = On<DeviceKind::kCuda>;
#define WEFT_DEVICES weft::test::on_cpu, weft::test::on_cuda

/// Leaves the test case, with the reason, where this build or machine has no such device.
#define WEFT_NEED_DEVICE(kind) \
  if (!weft::is_available(kind)) WEFT_SKIP(weft::why_unavailable(kind))

}  // namespace weft::test
