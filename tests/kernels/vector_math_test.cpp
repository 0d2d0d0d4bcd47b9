#include "kernels/cpu/vector_math.h"

#include <limits>

#include "tests/kernels/kernel_test.h"

namespace cpu = weft::kernels::cpu;

namespace {

/// |actual - expected| in units of the last place of `expected` as a T (subnormals: of the smallest number).
template <class T>
double ulps(T actual, long double expected) {
  const T rounded = static_cast<T>(expected);
  if (std::isnan(rounded)) return std::isnan(actual) ? 0.0 : 1e30;
  if (std::isinf(rounded) || std::isinf(actual)) {  // next to overflow, the largest number and infinity are neighbours
    const T largest = std::numeric_limits<T>::max();
    return actual == rounded || std::fabs(actual) == largest || std::fabs(rounded) == largest ? 0.0 : 1e30;
  }
  const T magnitude = std::fabs(rounded);
  const T ulp = std::max(std::nextafter(magnitude, std::numeric_limits<T>::infinity()) - magnitude,
                         std::numeric_limits<T>::denorm_min());
  return static_cast<double>(std::fabs(static_cast<long double>(actual) - expected) / static_cast<long double>(ulp));
}

template <class T>
double worst_exp(T low, T high, int steps) {
  double worst = 0.0;
  for (int i = 0; i <= steps; ++i) {
    const T x = low + (high - low) * static_cast<T>(i) / static_cast<T>(steps);
    worst = std::max(worst, ulps(cpu::exp(x), std::exp(static_cast<long double>(x))));
  }
  return worst;
}

template <class T>
constexpr T kInf = std::numeric_limits<T>::infinity();
template <class T>
constexpr T kNaN = std::numeric_limits<T>::quiet_NaN();

}  // namespace

TEST_CASE("exp is within 2 ulp over its whole range", "[vector_math]") {
  CHECK(worst_exp<float>(-106.0F, 90.0F, 3'000'000) <= 2.0);
  CHECK(worst_exp<float>(-1.0F, 1.0F, 1'000'000) <= 1.5);
  CHECK(worst_exp<double>(-750.0, 712.0, 1'000'000) <= 2.0);
  CHECK(worst_exp<double>(-1.0, 1.0, 1'000'000) <= 1.5);
}

TEMPLATE_TEST_CASE("exp at the ends of its range", "[vector_math]", float, double) {
  using T = TestType;
  CHECK(cpu::exp(T(0)) == T(1));
  CHECK(cpu::exp(T(-0.0)) == T(1));
  CHECK(cpu::exp(-kInf<T>) == T(0));
  CHECK(cpu::exp(std::numeric_limits<T>::lowest()) == T(0));
  CHECK(cpu::exp(kInf<T>) == kInf<T>);
  CHECK(cpu::exp(std::numeric_limits<T>::max()) == kInf<T>);
  CHECK(std::isnan(cpu::exp(kNaN<T>)));
  CHECK(std::isnan(cpu::exp(-kNaN<T>)));
  CHECK(cpu::exp(std::numeric_limits<T>::denorm_min()) == T(1));
}

TEMPLATE_TEST_CASE("tanh is within 4 ulp, sigmoid within 4", "[vector_math]", float, double) {
  using T = TestType;
  double worst_tanh = 0.0, worst_sigmoid = 0.0;
  for (int i = -400'000; i <= 400'000; ++i) {
    const T x = static_cast<T>(i) * T(0.0001);
    worst_tanh = std::max(worst_tanh, ulps(cpu::tanh(x), std::tanh(static_cast<long double>(x))));
    worst_sigmoid =
        std::max(worst_sigmoid, ulps(cpu::sigmoid(x), 1.0L / (1.0L + std::exp(-static_cast<long double>(x)))));
  }
  for (T x = std::numeric_limits<T>::min(); x < T(1); x *= T(1.7)) {
    worst_tanh = std::max(worst_tanh, ulps(cpu::tanh(x), std::tanh(static_cast<long double>(x))));
    worst_tanh = std::max(worst_tanh, ulps(cpu::tanh(-x), std::tanh(-static_cast<long double>(x))));
  }
  CHECK(worst_tanh <= 4.0);
  CHECK(worst_sigmoid <= 4.0);
  CHECK(cpu::tanh(T(0)) == T(0));
  CHECK(std::signbit(cpu::tanh(T(-0.0))));
  CHECK(cpu::tanh(kInf<T>) == T(1));
  CHECK(cpu::tanh(-kInf<T>) == T(-1));
  CHECK(cpu::tanh(std::numeric_limits<T>::max()) == T(1));
  CHECK(std::isnan(cpu::tanh(kNaN<T>)));
  CHECK(cpu::sigmoid(kInf<T>) == T(1));
  CHECK(cpu::sigmoid(-kInf<T>) == T(0));
  CHECK(std::isnan(cpu::sigmoid(kNaN<T>)));
}

TEST_CASE("sine and cosine are right to the last bits of an angle", "[vector_math]") {
  weft::test::Random random(3);
  double worst = 0.0;
  for (int i = 0; i < 1'000'000; ++i) {
    const double x = (random.uniform() - 0.5) * (i % 2 == 0 ? 20.0 : 2e6);
    const auto [sine, cosine] = cpu::sin_cos(x);
    worst = std::max(
        worst, std::fabs(static_cast<double>(static_cast<long double>(sine) - std::sin(static_cast<long double>(x)))));
    worst = std::max(worst, std::fabs(static_cast<double>(static_cast<long double>(cosine) -
                                                          std::cos(static_cast<long double>(x)))));
  }
  CHECK(worst < 3e-16);
  CHECK(cpu::sin_cos(0.0).sin == 0.0);
  CHECK(cpu::sin_cos(0.0).cos == 1.0);
}
