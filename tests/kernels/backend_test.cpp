#include "kernels/backend.h"

#include <algorithm>
#include <cstring>

#include "tests/kernels/device_kernels.h"

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

TEMPLATE_TEST_CASE("a backend has every kernel", "[backend]", WEFT_ROW_DEVICES) {
  WEFT_KERNEL_CASE(T, device);
  CHECK(missing_entries(kernels::backend<T>(device.stream())) == 0);
}

TEMPLATE_TEST_CASE("the same sums have the same bits", "[backend]", WEFT_KERNEL_DEVICES) {
  WEFT_KERNEL_CASE(T, device);
  test::Random random(17);
  const auto x = test::Grid<T>::normal(random, 700, 65), dy = test::Grid<T>::normal(random, 700, 33);
  const auto id = random.integers(700, 0, 5);
  const auto sums = [&] {
    double squares = 0.0;
    test::Grid<T> dw(33, 65), dbias(1, 33), table(5, 65);
    sum_squares<T>(device, &squares, x.view().data, 700 * 65);
    linear_backward_weight<T>(device, dw.view(), dbias.view().data, dy.view(), x.view(),
                              kernels::Accumulate::kOverwrite);
    embedding_backward<T>(device, table.view(), id.data(), x.view(), kernels::Accumulate::kOverwrite);
    std::vector<double> all{squares};
    for (const auto* grid : {&dw, &dbias, &table}) {
      const auto values = reference::Dense(grid->view()).data;
      all.insert(all.end(), values.begin(), values.end());
    }
    return all;
  };
  const std::vector<double> first = sums();
  for (int again = 0; again < 3; ++again) CHECK(sums() == first);
}

TEST_CASE("wrong contents reach a GPU's stream as an error, and are left out", "[backend]") {
  WEFT_NEED_DEVICE(DeviceKind::kCuda);
  test::KernelDevice device(DeviceKind::kCuda);
  test::Random random(3);
  auto x = test::Grid<float>::normal(random, 3, 4), out = test::Grid<float>(3, 4);
  const auto wrong = [&](const std::string& message, const auto& call) {
    CHECK_THAT(test::error_of(call), Catch::Contains(message));
    CHECK(test::error_of([&] { fill<float>(device, out.view().data, 12, 1.0F); }) == "");  // the stream goes on
  };
  const reference::Ints high = {0, 3, 1}, low = {0, 1, -2};
  const Matrix<const std::int32_t> table(high.data(), 3, 1);
  wrong("gather_rows: row index 3 at 1", [&] { gather_rows<float>(device, out.view(), x.view(), high.data()); });
  const auto weight = test::Grid<float>::normal(random, 3, 1);
  wrong("unpermute_weighted: row index 3 at 1",
        [&] { unpermute_weighted<float>(device, out.view(), {}, x.view(), table, weight.view()); });
  wrong("permute_backward: row index 3 at 1",
        [&] { permute_backward<float>(device, out.view(), x.view(), table, kernels::Accumulate::kAdd); });
  wrong("token[1] = 3", [&] { embedding_forward<float>(device, out.view(), x.view(), high.data(), {}, nullptr); });
  wrong("position[2] = -2", [&] {
    const reference::Ints fine = {0, 1, 2};
    embedding_forward<float>(device, out.view(), x.view(), fine.data(), x.view(), low.data());
  });
  wrong("id[2] = -2",
        [&] { embedding_backward<float>(device, out.view(), low.data(), x.view(), kernels::Accumulate::kAdd); });
  std::vector<double> loss(3);
  wrong("target[2] = -2", [&] { cross_entropy<float>(device, loss.data(), x.view(), low.data(), nullptr); });
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
