#include "kernels/activation.h"

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

TEMPLATE_TEST_CASE("activations and their gradients equal their definitions", "[activation]", WEFT_ROW_DEVICES) {
  WEFT_KERNEL_CASE(T, device);
  for (std::uint64_t seed = 0; seed < 40; ++seed) {
    Random random(seed);
    const std::int64_t rows = random.pick({0, 1, 3, 20}), cols = random.pick({0, 1, 5, 16, 31, 100});
    INFO("seed " << seed << ": [" << rows << ", " << cols << "]");
    auto gate_up = Grid<T>::normal(random, rows, 2 * cols, random.below(3));
    for (std::int64_t i = 0; i < rows; ++i)
      for (std::int64_t j = 0; j < cols; ++j)
        gate_up(i, j) = static_cast<T>(gate_up(i, j) * static_cast<Wide<T>>(random.pick({1, 1, 10, 60})));
    const auto dh = Grid<T>::normal(random, rows, cols, random.below(3));
    const reference::Dense rgate_up(gate_up.view()), rdh(dh.view());
    Grid<T> h(rows, cols, 1), d_gate_up(rows, 2 * cols, 1);
    swiglu_forward<T>(device, h.view(), gate_up.view());
    swiglu_backward<T>(device, d_gate_up.view(), dh.view(), gate_up.view());
    const auto want_d = reference::swiglu_backward(rdh, rgate_up);
    CHECK(difference(h, reference::swiglu(rgate_up), 1) == "");
    CHECK(difference(d_gate_up, want_d, 1) == "");
    swiglu_backward<T>(device, gate_up.view(), dh.view(), gate_up.view());  // in place
    CHECK(difference(gate_up, want_d, 1) == "");

    auto x = Grid<T>::normal(random, rows, cols, random.below(3));
    const reference::Dense rx(x.view());
    Grid<T> dx(rows, cols, 1);
    gelu_forward<T>(device, h.view(), x.view());
    gelu_backward<T>(device, dx.view(), dh.view(), x.view());
    const auto want_dx = reference::gelu_backward(rdh, rx);
    CHECK(difference(h, reference::gelu(rx), 1) == "");
    CHECK(difference(dx, want_dx, 1) == "");
    auto dh_in_place = dh;
    gelu_backward<T>(device, dh_in_place.view(), dh_in_place.view(), x.view());
    CHECK(difference(dh_in_place, want_dx, 1) == "");
    gelu_backward<T>(device, x.view(), dh.view(), x.view());
    CHECK(difference(x, want_dx, 1) == "");
  }
}

TEST_CASE("gradients of activations pass the gradient check", "[activation][gradcheck]") {
  Random random(21);
  auto gate_up = Grid<double>::normal(random, 3, 14), x = Grid<double>::normal(random, 3, 7);
  const auto dh = Grid<double>::normal(random, 3, 7);
  Grid<double> h(3, 7), d_gate_up(3, 14), dx(3, 7);
  swiglu_backward<double>(inline_stream(), d_gate_up.view(), dh.view(), gate_up.view());
  CHECK(test::gradient_difference({gate_up.view().data, 42}, {d_gate_up.view().data, 42}, [&] {
          swiglu_forward<double>(inline_stream(), h.view(), gate_up.view());
          return test::dot({h.view().data, 21}, {dh.view().data, 21});
        }) == "");
  gelu_backward<double>(inline_stream(), dx.view(), dh.view(), x.view());
  CHECK(test::gradient_difference({x.view().data, 21}, {dx.view().data, 21}, [&] {
          gelu_forward<double>(inline_stream(), h.view(), x.view());
          return test::dot({h.view().data, 21}, {dh.view().data, 21});
        }) == "");
}

TEMPLATE_TEST_CASE("activations of huge numbers are their limits, of NaN are NaN", "[activation]", WEFT_ROW_DEVICES) {
  WEFT_KERNEL_CASE(T, device);
  const T huge = T(1e30), nan = std::numeric_limits<T>::quiet_NaN();
  Grid<T> x(1, 3), gate_up(1, 6), h(1, 3);
  for (std::int64_t j = 0; j < 3; ++j) gate_up(0, j) = x(0, j) = j == 0 ? huge : j == 1 ? T(-huge) : nan;
  for (std::int64_t j = 3; j < 6; ++j) gate_up(0, j) = T(1);
  gelu_forward<T>(device, h.view(), x.view());
  CHECK(h(0, 0) == huge);
  CHECK(h(0, 1) == T(0));
  CHECK(std::isnan(h(0, 2)));
  swiglu_forward<T>(device, h.view(), gate_up.view());
  CHECK(h(0, 0) == huge);
  CHECK(h(0, 1) == T(0));
  CHECK(std::isnan(h(0, 2)));
}

TEST_CASE("activations refuse what does not fit", "[activation]") {
  Stream& s = inline_stream();
  Grid<float> a34(3, 4), a38(3, 8), a24(2, 4), a37(3, 7);
  CHECK_THAT(error_of([&] { swiglu_forward<float>(s, a24.view(), a38.view()); }), says("swiglu_forward", "h is"));
  CHECK_THAT(error_of([&] { swiglu_forward<float>(s, a34.view(), a37.view()); }), says("swiglu_forward", "gate_up is"));
  CHECK_THAT(error_of([&] { swiglu_backward<float>(s, a38.view(), a24.view(), a38.view()); }),
             says("swiglu_backward", "dh is"));
  CHECK_THAT(error_of([&] { swiglu_backward<float>(s, a38.view(), a34.view(), a37.view()); }),
             says("swiglu_backward", "gate_up is"));
  CHECK_THAT(error_of([&] { swiglu_backward<float>(s, a37.view(), a34.view(), a38.view()); }),
             says("swiglu_backward", "d_gate_up is"));
  CHECK_THAT(error_of([&] { gelu_forward<float>(s, a24.view(), a34.view()); }), says("gelu_forward", "h is"));
  CHECK_THAT(error_of([&] { gelu_forward<float>(s, a34.view(), {nullptr, 3, 4}); }), says("gelu_forward", "x is null"));
  CHECK_THAT(error_of([&] { gelu_backward<float>(s, a24.view(), a34.view(), a34.view()); }),
             says("gelu_backward", "dx is"));
  CHECK_THAT(error_of([&] { gelu_backward<float>(s, a34.view(), a24.view(), a34.view()); }),
             says("gelu_backward", "dh is"));
  CHECK_THAT(error_of([&] {
               gelu_backward<float>(s, a34.view(), a34.view(), {nullptr, 3, 4});
             }),
             says("gelu_backward", "x is null"));
}
