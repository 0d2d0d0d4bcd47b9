#include "kernels/reduce.h"

#include "tests/kernels/device_kernels.h"

using namespace weft;
using namespace weft::kernels;
using weft::test::difference;
using weft::test::error_of;
using weft::test::Grid;
using weft::test::inline_stream;
using weft::test::Random;
using weft::test::says;
namespace reference = weft::reference;

TEMPLATE_TEST_CASE("sums of squares are added in f64", "[reduce]", WEFT_KERNEL_DEVICES) {
  WEFT_KERNEL_CASE(T, device);
  for (const std::int64_t n : {0, 1, 31, 32, 33, 64, 1000, 100'003}) {
    Random random(static_cast<std::uint64_t>(n));
    INFO("n " << n);
    const auto x = random.normals<T>(n);
    long double want = 0.0L;
    for (const T value : x) want += static_cast<long double>(value) * static_cast<long double>(value);
    double got = -1.0;
    sum_squares<T>(device, &got, x.data(), n);
    CHECK(difference<double>({&got, 1}, std::vector<double>{static_cast<double>(want)}, n) == "");
  }
}

TEMPLATE_TEST_CASE("a NaN or infinity anywhere shows in the sum of squares", "[reduce]", WEFT_F32_DEVICES) {
  WEFT_KERNEL_CASE(T, device);
  for (const std::size_t where : {0, 31, 32, 63, 64, 70}) {
    std::vector<float> x(71, 1.0F);
    double sum = 0.0;
    x[where] = std::numeric_limits<float>::quiet_NaN();
    sum_squares<float>(device, &sum, x.data(), 71);
    CHECK(std::isnan(sum));
    x[where] = -std::numeric_limits<float>::infinity();
    sum_squares<float>(device, &sum, x.data(), 71);
    CHECK(std::isinf(sum));
    x[where] = 3e38F;  // its square is no float
    sum_squares<float>(device, &sum, x.data(), 71);
    CHECK(std::isfinite(sum));
  }
}

TEMPLATE_TEST_CASE("fill, axpy and copy do what they say", "[reduce]", WEFT_ROW_DEVICES) {
  WEFT_KERNEL_CASE(T, device);
  for (const std::int64_t n : {0, 1, 15, 16, 17, 1003}) {
    Random random(static_cast<std::uint64_t>(n) + 1);
    const auto x = random.normals<T>(n);
    auto y = random.normals<T>(n), z = y;
    auto want = test::reals(y);
    const auto alpha = static_cast<Wide<T>>(T(0.3F));
    for (std::size_t i = 0; i < want.size(); ++i) want[i] += static_cast<double>(alpha) * static_cast<double>(x[i]);
    axpy<T>(device, y.data(), x.data(), n, alpha);
    CHECK(difference(y, want, 1) == "");
    copy<T>(device, z.data(), x.data(), n);
    CHECK(z == x);
    fill<T>(device, z.data(), n, alpha);
    CHECK(z == std::vector<T>(static_cast<std::size_t>(n), T(alpha)));
  }
}

TEMPLATE_TEST_CASE("rows are copied or added between matrices of any strides", "[reduce]", WEFT_ROW_DEVICES) {
  WEFT_KERNEL_CASE(T, device);
  for (const std::int64_t cols : {0, 1, 7, 32}) {
    Random random(static_cast<std::uint64_t>(cols) + 3);
    const auto x = test::Grid<T>::normal(random, 5, cols, 2);
    auto y = test::Grid<T>::normal(random, 5, cols, 1), sum = y;
    copy_rows<T>(device, sum.view(), x.view(), Accumulate::kAdd);
    for (std::int64_t i = 0; i < 5; ++i)
      for (std::int64_t j = 0; j < cols; ++j) CHECK(sum(i, j) == T(y(i, j) + x(i, j)));
    copy_rows<T>(device, y.view(), x.view());
    for (std::int64_t i = 0; i < 5; ++i)
      for (std::int64_t j = 0; j < cols; ++j) CHECK(y(i, j) == x(i, j));
    CHECK((y.guards_intact() && sum.guards_intact()));
  }
}

TEMPLATE_TEST_CASE("BF16 and F32 convert into each other, rounded to nearest, ties to even", "[reduce]",
                   WEFT_BF16_DEVICES) {
  WEFT_KERNEL_CASE(T, device);
  Random random(11);
  const auto x = test::Grid<BF16>::normal(random, 9, 37, 2);
  test::Grid<float> wide(9, 37, 1);
  widen<BF16>(device, wide.view(), x.view());
  for (std::int64_t i = 0; i < 9; ++i)
    for (std::int64_t j = 0; j < 37; ++j) CHECK(wide(i, j) == x(i, j));
  widen<BF16>(device, wide.view(), x.view(), Accumulate::kAdd);
  test::Grid<BF16> narrowed(9, 37, 2);
  narrow<BF16>(device, narrowed.view(), wide.view());
  for (std::int64_t i = 0; i < 9; ++i)
    for (std::int64_t j = 0; j < 37; ++j) CHECK(narrowed(i, j) == BF16(2.0F * x(i, j)));
  narrow<BF16>(device, narrowed.view(), wide.view(), Accumulate::kAdd);
  for (std::int64_t i = 0; i < 9; ++i)
    for (std::int64_t j = 0; j < 37; ++j) CHECK(narrowed(i, j) == BF16(4.0F * x(i, j)));
  CHECK(narrowed.guards_intact());

  constexpr float kNaN = std::numeric_limits<float>::quiet_NaN(), kInfinity = std::numeric_limits<float>::infinity();
  const std::vector<float> in = {0x1.01p0F, 0x1.03p0F, 0x1.010002p0F, -0x1.01p0F, 3.4e38F, -kInfinity, kNaN};
  const std::vector<float> want = {1.0F, 0x1.04p0F, 0x1.02p0F, -1.0F, kInfinity, -kInfinity, kNaN};
  std::vector<BF16> out(in.size());
  const auto n = static_cast<std::int64_t>(in.size());
  narrow<BF16>(device, Matrix<BF16>(out.data(), 1, n), Matrix<const float>(in.data(), 1, n));
  for (std::size_t i = 0; i < in.size(); ++i)
    CHECK((std::isnan(want[i]) ? std::isnan(float(out[i])) : out[i] == want[i]));
}

TEST_CASE("passes over arrays refuse null and negative counts", "[reduce]") {
  Stream& s = inline_stream();
  std::vector<float> x(4);
  float* p = x.data();
  double sum = 0.0;
  CHECK_THAT(error_of([&] { sum_squares<float>(s, nullptr, p, 4); }), says("sum_squares", "out is null"));
  CHECK_THAT(error_of([&] { sum_squares<float>(s, &sum, nullptr, 4); }), says("sum_squares", "x is null"));
  CHECK_THAT(error_of([&] { sum_squares<float>(s, &sum, p, -4); }), says("sum_squares", "-4 elements"));
  CHECK_THAT(error_of([&] { fill<float>(s, nullptr, 4, 0.0F); }), says("fill", "x is null"));
  CHECK_THAT(error_of([&] { axpy<float>(s, nullptr, p, 4, 0.0F); }), says("axpy", "y is null"));
  CHECK_THAT(error_of([&] { axpy<float>(s, p, nullptr, 4, 0.0F); }), says("axpy", "x is null"));
  CHECK_THAT(error_of([&] { copy<float>(s, nullptr, p, 4); }), says("copy", "y is null"));
  CHECK_THAT(error_of([&] { copy<float>(s, p, nullptr, 4); }), says("copy", "x is null"));
  const auto rows = [&](Matrix<float> to, Matrix<const float> from) {
    return error_of([&] { copy_rows<float>(s, to, from); });
  };
  CHECK_THAT(rows({p, 2, 2}, {p, 2, 1}), says("copy_rows", "x is"));
  CHECK_THAT(rows({nullptr, 2, 2}, {p, 2, 2}), says("copy_rows", "y is null"));
}
