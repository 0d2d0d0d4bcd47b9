#include "kernels/rope.h"

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

TEMPLATE_TEST_CASE("rope equals its definition, and turns back", "[rope]", WEFT_ROW_DEVICES) {
  WEFT_KERNEL_CASE(T, device);
  for (std::uint64_t seed = 0; seed < 40; ++seed) {
    Random random(seed);
    const std::int64_t rows = random.pick({0, 1, 3, 40}), heads = random.pick({1, 2, 3}),
                       dim = random.pick({2, 6, 16, 34, 64, 128});
    const double theta = random.below(2) != 0 ? 10000.0 : 1e6;
    INFO("seed " << seed << ": T " << rows << " heads " << heads << " d " << dim << " theta " << theta);
    auto x = Grid<T>::normal(random, rows, heads * dim, random.below(3));
    const auto before = x;
    const auto position = random.integers(rows, 0, random.pick({1, 100, 100'000}));
    const reference::Dense rx(x.view());
    rope<T>(device, x.view(), position.data(), dim, theta, RopeDirection::kForward);
    CHECK(difference(x, reference::rope(rx, position, dim, theta, +1.0), 2) == "");
    rope<T>(device, x.view(), position.data(), dim, theta, RopeDirection::kBackward);
    CHECK(difference(x, rx, 4) == "");
    x = before;
    rope<T>(device, x.view(), position.data(), dim, theta, RopeDirection::kBackward);
    CHECK(difference(x, reference::rope(rx, position, dim, theta, -1.0), 2) == "");
  }
}

TEST_CASE("rope's gradient passes the gradient check", "[rope][gradcheck]") {
  Random random(6);
  auto x = Grid<double>::normal(random, 3, 12);
  const auto dy = Grid<double>::normal(random, 3, 12);
  const std::vector<std::int32_t> position = {0, 5, 2};
  auto dx = dy;
  rope<double>(inline_stream(), dx.view(), position.data(), 6, 10000.0, RopeDirection::kBackward);
  CHECK(test::gradient_difference({x.view().data, 36}, {dx.view().data, 36}, [&] {
          auto y = x;
          rope<double>(inline_stream(), y.view(), position.data(), 6, 10000.0, RopeDirection::kForward);
          return test::dot({y.view().data, 36}, {dy.view().data, 36});
        }) == "");
}

TEMPLATE_TEST_CASE("rope on a column range leaves the rest alone", "[rope]", WEFT_F64_DEVICES) {
  WEFT_KERNEL_CASE(T, device);
  Random random(3);
  auto qkv = Grid<double>::normal(random, 4, 24);
  const auto before = qkv;
  const std::vector<std::int32_t> position = {1, 2, 3, 4};
  rope<double>(device, qkv.view().col_range(8, 8), position.data(), 4, 100.0, RopeDirection::kForward);
  for (std::int64_t i = 0; i < 4; ++i)
    for (std::int64_t j = 0; j < 24; ++j) CHECK((qkv(i, j) != before(i, j)) == (j >= 8 && j < 16));
}

TEST_CASE("rope refuses what does not fit", "[rope]") {
  Grid<float> x(2, 12);
  const std::vector<std::int32_t> position = {0, 1};
  const auto call = [&](Matrix<float> m, const std::int32_t* p, std::int64_t dim, double theta) {
    return error_of([&] { rope<float>(inline_stream(), m, p, dim, theta, RopeDirection::kForward); });
  };
  CHECK_THAT(call(x.view(), position.data(), 3, 1e4), says("rope", "head_dim must be even"));
  CHECK_THAT(call(x.view(), position.data(), 0, 1e4), says("rope", "head_dim must be even"));
  CHECK_THAT(call(x.view(), position.data(), 8, 1e4), says("rope", "whole number of heads"));
  CHECK_THAT(call(x.view(), nullptr, 4, 1e4), says("rope", "position is null"));
  CHECK_THAT(call({nullptr, 2, 12}, position.data(), 4, 1e4), says("rope", "x is null"));
  CHECK_THAT(call(x.view(), position.data(), 4, 0.0), says("rope", "theta must be positive"));
}
