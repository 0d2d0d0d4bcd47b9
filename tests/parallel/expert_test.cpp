// Every expert: its formula by plain loops, slices that add up to the whole, and its gradients.
#include "parallel/moe/expert.h"

#include <algorithm>
#include <cmath>

#include "core/rng.h"
#include "tests/support/catch.h"
#include "tests/support/gradcheck.h"

using namespace weft;
using namespace weft::parallel;

namespace {

constexpr std::int64_t kWidth = 3, kHidden = 4, kExperts = 2, kRows = 5;
const std::vector<std::int64_t> kOffsets{0, 3, 5};

std::vector<double> numbers(std::int64_t n, std::uint64_t seed) {
  const Rng rng(seed, RngPurpose::kTest);
  std::vector<double> out;
  for (std::int64_t i = 0; i < n; ++i) out.push_back(0.7 * rng.normal(static_cast<std::uint64_t>(i)));
  return out;
}

/// One expert's parameters, as the parameter table lays them out: gate, up, their bias, down, its bias.
struct Parameters {
  bool gated;
  std::int64_t hidden;
  std::vector<double> weights, gradients;
  explicit Parameters(ModelFamily family, std::int64_t h = kHidden)
      : gated(family == ModelFamily::kMixtral),
        hidden(h),
        weights(numbers(kExperts * stride(), 1)),
        gradients(weights.size()) {}
  [[nodiscard]] std::int64_t pre() const { return gated ? 2 * hidden : hidden; }
  [[nodiscard]] std::int64_t stride() const { return pre() * kWidth + (gated ? 0 : hidden + kWidth) + kWidth * hidden; }
  [[nodiscard]] ExpertParameters<double> view(bool adds_bias = true) {
    const auto at = [&](std::int64_t offset) {
      return Parameter<double>{weights.data() + offset, gradients.data() + offset};
    };
    const std::int64_t bias = pre() * kWidth, down = bias + (gated ? 0 : hidden);
    if (gated) return {at(0), {}, at(down), {}, stride()};
    return {at(0), at(bias), at(down), adds_bias ? at(down + kWidth * hidden) : Parameter<double>{}, stride()};
  }
};

ModelConfig model_of(ModelFamily family) {
  ModelConfig m;
  m.family = family;
  m.model_dim = kWidth;
  return m;
}

struct Pass {
  std::vector<double> pre, hidden, y;
};

Pass run(const Expert<double>& expert, const std::vector<double>& x) {
  const auto stream = make_inline_stream();
  Pass m{std::vector<double>(kRows * expert.pre_width()), std::vector<double>(kRows * expert.hidden_width()),
         std::vector<double>(kRows * kWidth)};
  expert.forward(*stream, kOffsets, {m.y.data(), kRows, kWidth}, {m.pre.data(), kRows, expert.pre_width()},
                 {m.hidden.data(), kRows, expert.hidden_width()}, Matrix<const double>(x.data(), kRows, kWidth));
  return m;
}

}  // namespace

TEST_CASE("An expert computes its feed-forward network for the rows it gets", "[expert]") {
  const ModelFamily family = GENERATE(ModelFamily::kMixtral, ModelFamily::kGpt2Moe);
  Parameters p(family);
  const auto expert = make_expert<double>(model_of(family), kHidden, p.view());
  const std::vector<double> x = numbers(kRows * kWidth, 2);
  const Pass m = run(*expert, x);
  for (std::int64_t r = 0; r < kRows; ++r) {
    const double* w = p.weights.data() + (r < kOffsets[1] ? 0 : p.stride());
    const auto product = [&](std::int64_t row) {
      double sum = p.gated ? 0.0 : w[p.pre() * kWidth + row];
      for (std::int64_t j = 0; j < kWidth; ++j)
        sum += w[row * kWidth + j] * x[static_cast<std::size_t>(r * kWidth + j)];
      return sum;
    };
    const double* down = w + p.pre() * kWidth + (p.gated ? 0 : kHidden);
    for (std::int64_t o = 0; o < kWidth; ++o) {
      double sum = p.gated ? 0.0 : down[kWidth * kHidden + o];
      for (std::int64_t h = 0; h < kHidden; ++h) {
        const double a = product(h);
        const double gelu = 0.5 * a * (1.0 + std::tanh(std::sqrt(2.0 / M_PI) * (a + 0.044715 * a * a * a)));
        sum += down[o * kHidden + h] * (p.gated ? a / (1.0 + std::exp(-a)) * product(kHidden + h) : gelu);
      }
      CHECK(m.y[static_cast<std::size_t>(r * kWidth + o)] == Approx(sum).epsilon(1e-12));
    }
  }
}

TEST_CASE("An expert's gradients are those of its output", "[expert]") {
  const ModelFamily family = GENERATE(ModelFamily::kMixtral, ModelFamily::kGpt2Moe);
  Parameters p(family);
  const auto expert = make_expert<double>(model_of(family), kHidden, p.view());
  const auto stream = make_inline_stream();
  std::vector<double> x = numbers(kRows * kWidth, 2);
  const std::vector<double> dy = numbers(kRows * kWidth, 3);
  Pass m = run(*expert, x);
  std::vector<double> hidden(m.hidden.size()), d_hidden(m.hidden.size()), dx(x.size());
  expert->activate(*stream, {hidden.data(), kRows, kHidden}, Matrix<const double>(m.pre.data(), kRows, p.pre()));
  CHECK(hidden == m.hidden);
  expert->backward_input(*stream, kOffsets, {dx.data(), kRows, kWidth}, {m.pre.data(), kRows, p.pre()},
                         {d_hidden.data(), kRows, kHidden}, Matrix<const double>(dy.data(), kRows, kWidth));
  const Expert<double>::WeightInputs in{
      Matrix<const double>(dy.data(), kRows, kWidth), Matrix<const double>(m.pre.data(), kRows, p.pre()),
      Matrix<const double>(x.data(), kRows, kWidth), Matrix<const double>(hidden.data(), kRows, kHidden)};
  expert->backward_weight(*stream, kOffsets, in, kernels::Accumulate::kOverwrite);
  const auto loss = [&] { return test::dot(run(*expert, x).y, dy); };
  CHECK(test::gradient_difference(x, dx, loss) == "");
  CHECK(test::gradient_difference(p.weights, p.gradients, loss) == "");
  const std::vector<double> once = p.gradients;
  expert->backward_weight(*stream, kOffsets, in, kernels::Accumulate::kAdd);
  for (std::size_t i = 0; i < once.size(); ++i) CHECK(p.gradients[i] == Approx(2 * once[i]));
}

TEST_CASE("Slices of an expert's hidden width add up to the whole, its last bias once", "[expert][esp]") {
  const ModelFamily family = GENERATE(ModelFamily::kMixtral, ModelFamily::kGpt2Moe);
  Parameters whole(family);
  const std::vector<double> x = numbers(kRows * kWidth, 2);
  const Pass want = run(*make_expert<double>(model_of(family), kHidden, whole.view()), x);
  std::vector<double> sum(want.y.size(), 0.0);
  constexpr std::int64_t kHalf = kHidden / 2;
  for (int slice = 0; slice < 2; ++slice) {
    Parameters part(family, kHalf);
    for (std::int64_t e = 0; e < kExperts; ++e) {
      const double* from = whole.weights.data() + e * whole.stride();
      double* to = part.weights.data() + e * part.stride();
      for (int matrix = 0; matrix < (part.gated ? 2 : 1); ++matrix)  // rows of gate and up
        to = std::copy_n(from + (matrix * kHidden + slice * kHalf) * kWidth, kHalf * kWidth, to);
      from += whole.pre() * kWidth;
      if (!part.gated) to = std::copy_n(from + slice * kHalf, kHalf, to);
      from += part.gated ? 0 : kHidden;
      for (std::int64_t o = 0; o < kWidth; ++o)
        to = std::copy_n(from + o * kHidden + slice * kHalf, kHalf, to);  // columns
      if (!part.gated) std::copy_n(from + kWidth * kHidden, kWidth, to);
    }
    const Pass m = run(*make_expert<double>(model_of(family), kHalf, part.view(slice == 0)), x);
    for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += m.y[i];
  }
  for (std::size_t i = 0; i < sum.size(); ++i) CHECK(sum[i] == Approx(want.y[i]).epsilon(1e-12));
}
