#include "kernels/backend.h"

#include <algorithm>
#include <cstring>

#include "tests/kernels/kernel_test.h"

using namespace weft;
using weft::test::inline_stream;

namespace {

/// Claims to be on a GPU, as nothing in a build without CUDA can.
class CudaLikeStream final : public Stream {
 public:
  Device device() const noexcept override { return {DeviceKind::kCuda, 0}; }
  void enqueue(std::function<void()> work) override { work(); }
  Event record() override { return {}; }
  void wait(const Event&) override {}
  void keep_alive(std::shared_ptr<const void>) override {}
  void synchronize() override {}
  void* native() const noexcept override { return nullptr; }
};

template <class T>
std::size_t missing_entries(const kernels::Backend<T>& table) {
  std::vector<void (*)()> entries(sizeof table / sizeof(void (*)()));
  std::memcpy(entries.data(), &table, sizeof table);
  return static_cast<std::size_t>(std::count(entries.begin(), entries.end(), nullptr));
}

}  // namespace

TEST_CASE("the CPU backend has every kernel in both types", "[backend]") {
  CHECK(missing_entries(kernels::backend<float>(inline_stream())) == 0);
  CHECK(missing_entries(kernels::backend<double>(inline_stream())) == 0);
}

TEST_CASE("without CUDA a CUDA stream's kernels are unavailable", "[backend]") {
  if (is_available(DeviceKind::kCuda)) return;
  CudaLikeStream stream;
  std::vector<float> x(4);
  try {
    kernels::fill<float>(stream, x.data(), 4, 1.0F);
    FAIL("no error");
  } catch (const Error& error) {
    CHECK(error.code() == ErrorCode::kUnavailable);
    CHECK(!error.hint().empty());
  }
}
