// tests/kernels/kernel_cases_test.cpp - the cases of `weft bench kernels` run on every device, and cover all kernels on
// rows.
#include "tools/bench/kernel_cases.h"

#include <algorithm>
#include <set>
#include <string>

#include "core/bf16.h"
#include "kernels/backend.h"
#include "tests/support/catch.h"
#include "tests/support/devices.h"

namespace weft::test {
namespace {

template <class T>
std::set<std::string> names_that_run(Device device) {
  tools::BenchKernelsOptions o;
  o.tokens = 48;
  o.model_dim = 32;
  o.expert_hidden_dim = 48;
  o.experts = 4;
  o.head_dim = 16;
  o.sequence_length = 20;  // the last one is cut off
  o.vocab_size = 50;
  const auto stream = make_stream(device, "cases");
  std::set<std::string> names;
  for (const tools::KernelCase& c : tools::kernel_cases<T>(device, o)) {
    INFO(c.name);
    CHECK(c.bytes > 0.0);
    for (int i = 0; i < 2; ++i) stream->enqueue([&] { c.run(*stream); });
    CHECK_NOTHROW(stream->synchronize());
    CHECK(names.insert(c.name).second);
  }
  return names;
}

TEMPLATE_TEST_CASE("the kernels of the benchmark run", "[bench]", WEFT_DEVICES) {
  WEFT_NEED_DEVICE(TestType::kKind);
  const Device device{TestType::kKind, 0};
  const auto names = names_that_run<float>(device);
  CHECK(names == names_that_run<double>(device));
  const auto in_bf16 = names_that_run<BF16>(device);
  CHECK(std::includes(in_bf16.begin(), in_bf16.end(), names.begin(), names.end()));
  CHECK(in_bf16.count("narrow") == 1);
  CHECK(in_bf16.count("linear_forward_wide") == 1);
  constexpr std::size_t kNumRowKernels = sizeof(kernels::RowKernels<float>) / sizeof(void*);
  constexpr std::size_t kNumOthers = 9;                    // of routers and gradients
  CHECK(names.size() == kNumRowKernels - 1 + kNumOthers);  // gemm is what they are compared with
}

}  // namespace
}  // namespace weft::test
