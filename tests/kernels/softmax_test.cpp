#include "kernels/softmax.h"

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

TEMPLATE_TEST_CASE("softmax and its gradient equal their definitions", "[softmax]", WEFT_KERNEL_DEVICES) {
  WEFT_KERNEL_CASE(T, device);
  for (std::uint64_t seed = 0; seed < 60; ++seed) {
    Random random(seed);
    const std::int64_t rows = random.pick({0, 1, 5, 64}), cols = random.pick({1, 2, 7, 8, 16, 33, 256});
    INFO("seed " << seed << ": [" << rows << ", " << cols << "]");
    auto logits = Grid<T>::normal(random, rows, cols, random.below(3));
    for (std::int64_t i = 0; i < rows; ++i) {
      const auto shift = static_cast<T>(random.pick({0, 0, 1000, -1000}));  // exp alone would overflow
      for (std::int64_t j = 0; j < cols; ++j) logits(i, j) += shift;
    }
    const auto dprobs = Grid<T>::normal(random, rows, cols, random.below(3));
    Grid<T> probs(rows, cols, 1), lse(1, rows), dlogits(rows, cols, 2);
    const auto want = reference::softmax(reference::Dense(logits.view()));
    softmax_forward<T>(device, probs.view(), lse.view().data, logits.view());
    CHECK(difference(probs, want.probs, cols) == "");
    CHECK(difference<T>({lse.view().data, want.lse.size()}, want.lse, cols, 1.0) == "");
    softmax_backward<T>(device, dlogits.view(), dprobs.view(), probs.view());
    const auto want_d = reference::softmax_backward(reference::Dense(dprobs.view()), want.probs);
    CHECK(difference(dlogits, want_d, cols, 1.0) == "");
    auto in_place = dprobs;
    softmax_backward<T>(device, in_place.view(), in_place.view(), probs.view());
    CHECK(difference(in_place, want_d, cols, 1.0) == "");
    softmax_forward<T>(device, logits.view(), nullptr, logits.view());
    CHECK(difference(logits, want.probs, cols) == "");
  }
}

TEST_CASE("softmax's gradient passes the gradient check", "[softmax][gradcheck]") {
  Random random(5);
  auto logits = Grid<double>::normal(random, 3, 5);
  const auto dprobs = Grid<double>::normal(random, 3, 5);
  Grid<double> probs(3, 5), dlogits(3, 5);
  const auto loss = [&] {
    softmax_forward<double>(inline_stream(), probs.view(), nullptr, logits.view());
    return test::dot({probs.view().data, 15}, {dprobs.view().data, 15});
  };
  loss();
  softmax_backward<double>(inline_stream(), dlogits.view(), dprobs.view(), probs.view());
  CHECK(test::gradient_difference({logits.view().data, 15}, {dlogits.view().data, 15}, loss) == "");
}

TEMPLATE_TEST_CASE("softmax passes NaN on, and masks by minus infinity", "[softmax]", WEFT_KERNEL_DEVICES) {
  WEFT_KERNEL_CASE(T, device);
  constexpr T kInf = std::numeric_limits<T>::infinity();
  Grid<T> logits(3, 4), probs(3, 4), lse(1, 3);
  for (std::int64_t j = 0; j < 4; ++j) {
    logits(0, j) = j == 2 ? std::numeric_limits<T>::quiet_NaN() : T(1);
    logits(1, j) = j < 2 ? T(3) : -kInf;
    logits(2, j) = j == 0 ? kInf : T(0);
  }
  softmax_forward<T>(device, probs.view(), lse.view().data, logits.view());
  for (std::int64_t j = 0; j < 4; ++j) CHECK(std::isnan(probs(0, j)));
  CHECK(std::isnan(lse(0, 0)));
  CHECK(probs(1, 0) == T(0.5));
  CHECK(probs(1, 3) == T(0));
  CHECK(std::isnan(probs(2, 0)));
}

TEST_CASE("softmax refuses what does not fit", "[softmax]") {
  Stream& s = inline_stream();
  Grid<float> a34(3, 4), a35(3, 5);
  CHECK_THAT(error_of([&] { softmax_forward<float>(s, a35.view(), nullptr, a34.view()); }),
             says("softmax_forward", "probs is"));
  CHECK_THAT(error_of([&] {
               softmax_forward<float>(s, a34.view(), nullptr, {nullptr, 3, 4});
             }),
             says("softmax_forward", "logits is"));
  CHECK_THAT(error_of([&] { softmax_backward<float>(s, a35.view(), a34.view(), a34.view()); }),
             says("softmax_backward", "dlogits is"));
  CHECK_THAT(error_of([&] { softmax_backward<float>(s, a34.view(), a35.view(), a34.view()); }),
             says("softmax_backward", "dprobs is"));
  CHECK_THAT(error_of([&] {
               softmax_backward<float>(s, a34.view(), a34.view(), {nullptr, 3, 4});
             }),
             says("softmax_backward", "probs is null"));
}
