#include "kernels/adamw.h"

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

TEMPLATE_TEST_CASE("AdamW equals its definition over several steps", "[adamw]", WEFT_ROW_DEVICES) {
  WEFT_KERNEL_CASE(T, device);
  for (std::uint64_t seed = 0; seed < 30; ++seed) {
    Random random(seed);
    const std::int64_t n = random.pick({0, 1, 5, 16, 33, 1000});
    AdamWOptions options;
    options.lr = 1e-2;
    options.weight_decay = random.below(2) != 0 ? 0.1 : 0.0;
    const double factor = random.below(2) != 0 ? 1.0 : 0.3;
    options.step = random.pick({1, 2, 1000, 1'000'000});
    INFO("seed " << seed << ": n " << n << " step " << options.step);
    using W = Wide<T>;
    auto master = random.normals<W>(n), m = random.normals<W>(n), v = random.normals<W>(n), grad = random.normals<W>(n);
    for (auto& value : v) value = options.step == 1 ? W(0) : std::fabs(value);
    for (auto& value : m) value = options.step == 1 ? W(0) : value;
    constexpr bool kOwnMaster = std::is_same_v<T, W>;
    std::vector<T> weight(master.begin(), master.end());
    const AdamWState<T> state{m.data(), v.data(), kOwnMaster ? nullptr : master.data()};
    reference::AdamW want{test::reals(master), test::reals(m), test::reals(v)};
    for (int step = 0; step < 3; ++step, ++options.step) {
      want = reference::adamw(want, test::reals(grad), factor, options);
      adamw<T>(device, weight.data(), state, grad.data(), n, factor == 1.0 ? nullptr : &factor, options);
    }
    if (kOwnMaster) std::copy(weight.begin(), weight.end(), master.begin());
    CHECK(difference(master, want.weight, 3) == "");
    CHECK(weight == std::vector<T>(master.begin(), master.end()));  // rounded, no more
    CHECK(difference(m, want.m, 3) == "");
    CHECK(difference(v, want.v, 3) == "");
  }
}

TEMPLATE_TEST_CASE("updates below a BF16's last bit add up in the master weight", "[adamw]", WEFT_BF16_DEVICES) {
  WEFT_KERNEL_CASE(T, device);
  AdamWOptions options;
  options.lr = 1e-3;  // a BF16 near 1 has steps of 2^-8 = 0.0039 below it
  std::vector<BF16> weight(1, BF16(1.0F));
  std::vector<float> m(1), v(1), master(1, 1.0F);
  const std::vector<float> grad(1, 1.0F);
  for (; options.step <= 5; ++options.step)
    adamw<BF16>(device, weight.data(), {m.data(), v.data(), master.data()}, grad.data(), 1, nullptr, options);
  CHECK(master[0] == Approx(0.995).epsilon(1e-5));
  CHECK(weight[0] == 1.0F - 0x1p-8F);
}

TEST_CASE("AdamW's first step is the learning rate in the gradient's direction", "[adamw]") {
  AdamWOptions options;
  options.lr = 0.5;
  std::vector<double> weight = {1.0, 1.0}, m(2), v(2);
  const std::vector<double> grad = {1e-3, -7.0};
  const AdamWFactors factors = adamw_factors(options);
  adamw<double>(inline_stream(), weight.data(), {m.data(), v.data()}, grad.data(), 2, nullptr, &factors);
  CHECK(weight[0] == Approx(0.5).epsilon(1e-4));
  CHECK(weight[1] == Approx(1.5).epsilon(1e-7));
}

TEMPLATE_TEST_CASE("a NaN gradient reaches the weight, and no other", "[adamw]", WEFT_F32_DEVICES) {
  WEFT_KERNEL_CASE(T, device);
  AdamWOptions options;
  options.lr = 0.1;
  std::vector<float> weight(20, 1.0F), m(20), v(20), grad(20, 1.0F);
  grad[17] = std::numeric_limits<float>::quiet_NaN();
  adamw<float>(device, weight.data(), {m.data(), v.data()}, grad.data(), 20, nullptr, options);
  for (std::size_t i = 0; i < 20; ++i) CHECK(std::isnan(weight[i]) == (i == 17));
}

TEMPLATE_TEST_CASE("the gradient's factor clips its norm, and a step that is not finite changes nothing", "[adamw]",
                   WEFT_F64_DEVICES) {
  WEFT_KERNEL_CASE(T, device);
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  const auto factor_of = [&](double loss, double squares, double clip_norm) {
    double factor = -1.0;
    clip_factor(device, &factor, &loss, &squares, clip_norm);
    return factor;
  };
  CHECK(factor_of(3.0, 16.0, 0.0) == 1.0);
  CHECK(factor_of(3.0, 16.0, 4.5) == 1.0);
  CHECK(factor_of(3.0, 16.0, 1.0) == 0.25);
  CHECK(std::isnan(factor_of(std::nan(""), 16.0, 1.0)));
  CHECK(std::isnan(factor_of(3.0, kInfinity, 1.0)));
  CHECK(std::isnan(factor_of(3.0, std::nan(""), 0.0)));
  AdamWOptions options;
  options.lr = 0.1;
  const std::vector<double> grad(40, 1.0);
  std::vector<double> weight(40, 1.0), m(40, 0.5), v(40, 0.5);
  const double none = std::nan("");
  adamw<double>(device, weight.data(), {m.data(), v.data()}, grad.data(), 40, &none, options);
  CHECK(weight == std::vector<double>(40, 1.0));
  CHECK((m == std::vector<double>(40, 0.5) && v == m));
}

TEST_CASE("AdamW refuses what makes no sense", "[adamw]") {
  std::vector<float> x(4);
  const AdamWFactors factors = adamw_factors({});
  const auto call = [&](float* w, float* m, float* v, const float* g, std::int64_t n, const AdamWFactors* f) {
    return error_of([&] { adamw<float>(inline_stream(), w, {m, v}, g, n, nullptr, f); });
  };
  float* p = x.data();
  CHECK_THAT(call(nullptr, p, p, p, 4, &factors), says("adamw", "weight is null"));
  CHECK_THAT(call(p, nullptr, p, p, 4, &factors), says("adamw", "m is null"));
  CHECK_THAT(call(p, p, nullptr, p, 4, &factors), says("adamw", "v is null"));
  CHECK_THAT(call(p, p, p, nullptr, 4, &factors), says("adamw", "grad is null"));
  CHECK_THAT(call(p, p, p, p, 4, nullptr), says("adamw", "factors is null"));
  CHECK_THAT(call(p, p, p, p, -1, &factors), says("adamw", "-1 elements"));
  std::vector<BF16> stored(4);
  CHECK_THAT(error_of([&] {
               adamw<BF16>(inline_stream(), stored.data(), {p, p}, p, 4, nullptr, &factors);
             }),
             says("adamw", "master is null"));
  const auto factors_of = [](const AdamWOptions& options) {
    return error_of([&] { static_cast<void>(adamw_factors(options)); });
  };
  AdamWOptions options;
  options.step = 0;
  CHECK_THAT(factors_of(options), says("adamw", "count from 1"));
  options.step = 1;
  options.beta1 = 1.0;
  CHECK_THAT(factors_of(options), says("adamw", "beta1"));
  options.beta1 = 0.9;
  options.beta2 = -0.1;
  CHECK_THAT(factors_of(options), says("adamw", "beta2"));
}
