#include "kernels/cross_entropy.h"

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

TEMPLATE_TEST_CASE("cross-entropy and its gradient equal their definitions", "[cross_entropy]", WEFT_ROW_DEVICES) {
  WEFT_KERNEL_CASE(T, device);
  for (std::uint64_t seed = 0; seed < 60; ++seed) {
    Random random(seed);
    const std::int64_t rows = random.pick({0, 1, 5, 40}), vocab = random.pick({1, 2, 17, 256, 1009});
    INFO("seed " << seed << ": [" << rows << ", " << vocab << "]");
    auto logits = Grid<T>::normal(random, rows, vocab, random.below(3));
    for (std::int64_t i = 0; i < rows; ++i) {
      const auto shift = static_cast<Wide<T>>(random.pick({0, 0, 500, -500}));
      for (std::int64_t j = 0; j < vocab; ++j) logits(i, j) = static_cast<T>(logits(i, j) + shift);
    }
    const auto target = random.integers(rows, -1, vocab);  // -1: ignored
    const double grad_scale = static_cast<Wide<T>>(random.normal());
    const reference::Dense before(logits.view());
    const auto want = reference::cross_entropy(before, target, grad_scale);
    const double magnitude =
        std::any_of(before.data.begin(), before.data.end(), [](double v) { return std::fabs(v) > 100; }) ? 500.0 : 1.0;
    std::vector<double> loss(static_cast<std::size_t>(rows), -1.0);
    cross_entropy<T>(device, loss.data(), logits.view(), target.data(), nullptr);
    CHECK(reference::Dense(logits.view()).data == before.data);
    std::vector<Wide<T>> rounded(loss.begin(), loss.end());
    CHECK(difference(rounded, want.loss, vocab, magnitude) == "");
    std::vector<double> loss_again(loss.size(), -1.0);
    cross_entropy<T>(device, loss_again.data(), logits.view(), target.data(), &grad_scale);
    CHECK(loss_again == loss);
    CHECK(difference(logits, want.dlogits, vocab) == "");
  }
}

TEST_CASE("cross-entropy passes the gradient check", "[cross_entropy][gradcheck]") {
  Random random(31);
  auto logits = Grid<double>::normal(random, 4, 6);
  const reference::Ints target = {5, 0, kIgnoreTarget, 2};
  auto gradient = logits;
  std::vector<double> loss(4);
  const double grad_scale = 0.25;
  cross_entropy<double>(inline_stream(), loss.data(), gradient.view(), target.data(), &grad_scale);
  CHECK(test::gradient_difference({logits.view().data, 24}, {gradient.view().data, 24}, [&] {
          cross_entropy<double>(inline_stream(), loss.data(), logits.view(), target.data(), nullptr);
          return grad_scale * (loss[0] + loss[1] + loss[2] + loss[3]);
        }) == "");
}

TEMPLATE_TEST_CASE("a NaN or infinite logit makes the loss NaN or infinite", "[cross_entropy]", WEFT_F32_DEVICES) {
  WEFT_KERNEL_CASE(T, device);
  Random random(1);
  const reference::Ints target = {3, 4, 5};
  auto logits = Grid<float>::normal(random, 3, 40);
  logits(0, 30) = std::numeric_limits<float>::quiet_NaN();
  logits(1, 30) = std::numeric_limits<float>::infinity();
  logits(2, 5) = -std::numeric_limits<float>::infinity();
  std::vector<double> loss(3);
  const double one = 1.0;
  cross_entropy<float>(device, loss.data(), logits.view(), target.data(), &one);
  CHECK(std::isnan(loss[0]));
  CHECK(std::isnan(logits(0, 0)));
  CHECK(!std::isfinite(loss[1]));
  CHECK(loss[2] == std::numeric_limits<double>::infinity());
}

TEST_CASE("cross-entropy refuses what does not fit, and touches nothing then", "[cross_entropy]") {
  Random random(1);
  auto logits = Grid<float>::normal(random, 3, 4);
  const auto before = reference::Dense(logits.view()).data;
  std::vector<double> loss(3, -1.0);
  const double one = 1.0;
  const auto call = [&](double* l, Matrix<float> m, const std::int32_t* t) {
    return error_of([&] { cross_entropy<float>(inline_stream(), l, m, t, &one); });
  };
  const reference::Ints good = {0, 1, 2}, high = {0, 1, 4}, low = {0, 1, -2};
  CHECK_THAT(call(nullptr, logits.view(), good.data()), says("cross_entropy", "loss is null"));
  CHECK_THAT(call(loss.data(), {nullptr, 3, 4}, good.data()), says("cross_entropy", "logits is null"));
  CHECK_THAT(call(loss.data(), logits.view(), nullptr), says("cross_entropy", "target is null"));
  CHECK_THAT(call(loss.data(), logits.view(), high.data()), says("cross_entropy", "target[2] = 4"));
  CHECK_THAT(call(loss.data(), logits.view(), low.data()), says("cross_entropy", "target[2] = -2"));
  CHECK(reference::Dense(logits.view()).data == before);
  CHECK(loss == std::vector<double>(3, -1.0));
}
