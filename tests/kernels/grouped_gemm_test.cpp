#include "kernels/grouped_gemm.h"

#include <numeric>

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

namespace {

/// Weights of `experts` experts with room between them, and their biases.
template <class T>
struct Experts {
  std::int64_t experts, out, in;
  Grid<T> weight, bias;  // weight: one row per expert

  Experts(std::int64_t experts_, std::int64_t out_, std::int64_t in_, std::int64_t pad)
      : experts(experts_), out(out_), in(in_), weight(experts_, out_ * in_, pad), bias(experts_, out_, pad) {}
  void randomize(Random& random) {
    for (std::int64_t e = 0; e < experts; ++e) {
      for (std::int64_t i = 0; i < out * in; ++i) weight(e, i) = static_cast<T>(random.normal());
      for (std::int64_t i = 0; i < out; ++i) bias(e, i) = static_cast<T>(random.normal());
    }
  }
  ExpertWeights<T> view(bool with_bias) {
    return {
        weight.view().data, weight.view().stride, with_bias ? bias.view().data : nullptr, bias.view().stride, out, in};
  }
  ExpertWeights<const T> const_view(bool with_bias) {
    const ExpertWeights<T> v = view(with_bias);
    return {v.data, v.expert_stride, v.bias, v.bias_stride, v.out_width, v.in_width};
  }
  reference::Dense dense(std::int64_t e) const {
    reference::Dense w(out, in);
    for (std::int64_t i = 0; i < out * in; ++i) w.data[static_cast<std::size_t>(i)] = static_cast<double>(weight(e, i));
    return w;
  }
};

/// Random runs of rows: several experts empty, or all rows to one.
std::vector<std::int64_t> random_offsets(Random& random, std::int64_t experts) {
  std::vector<std::int64_t> offsets = {random.pick({0, 0, 3})};
  const std::int64_t only = random.below(3) == 0 ? random.below(experts) : -1;
  for (std::int64_t e = 0; e < experts; ++e) {
    const std::int64_t rows = only >= 0 ? (e == only ? 37 : 0) : random.pick({0, 1, 2, 3, 5, 8, 19, 40});
    offsets.push_back(offsets.back() + rows);
  }
  return offsets;
}

}  // namespace

TEMPLATE_TEST_CASE("grouped products equal one linear layer per expert", "[grouped_gemm]", WEFT_ROW_DEVICES) {
  WEFT_KERNEL_CASE(T, device);
  for (std::uint64_t seed = 0; seed < 60; ++seed) {
    Random random(seed);
    const std::int64_t experts = random.pick({1, 2, 5, 8}), out = random.pick({1, 3, 16, 33}),
                       in = random.pick({1, 5, 16, 31});
    const auto offsets = random_offsets(random, experts);
    const std::int64_t rows = offsets.back() + random.pick({0, 2});  // rows outside every expert stay as they are
    const bool with_bias = random.below(2) != 0, add = random.below(2) != 0;
    const auto accumulate = add ? Accumulate::kAdd : Accumulate::kOverwrite;
    INFO("seed " << seed << ": L " << experts << " O " << out << " I " << in << " R " << rows << " add " << add);
    Experts<T> w(experts, out, in, 3);
    Experts<Wide<T>> dw(experts, out, in, 2);
    w.randomize(random);
    if (add) dw.randomize(random);
    const auto x = Grid<T>::normal(random, rows, in, 1), dy = Grid<T>::normal(random, rows, out, 2);
    auto y = Grid<T>::normal(random, rows, out, 1), dx = Grid<T>::normal(random, rows, in, 1);
    reference::Dense want_y(y.view()), want_dx(dx.view()), want_dw(experts, out * in), want_dbias(experts, out);
    for (std::int64_t e = 0; e < experts; ++e) {
      const std::int64_t first = offsets[static_cast<std::size_t>(e)], last = offsets[static_cast<std::size_t>(e) + 1];
      const auto rx = reference::rows_of(reference::Dense(x.view()), first, last);
      const auto rdy = reference::rows_of(reference::Dense(dy.view()), first, last);
      const auto ry = reference::product(rx, reference::transpose(w.dense(e)));
      const auto rdx = reference::product(rdy, w.dense(e));
      const auto rdw = reference::product(reference::transpose(rdy), rx);
      const auto rdbias = reference::column_sums(rdy);
      for (std::int64_t i = first; i < last; ++i) {
        for (std::int64_t j = 0; j < out; ++j)
          want_y(i, j) = ry(i - first, j) + (with_bias ? static_cast<double>(w.bias(e, j)) : 0.0);
        for (std::int64_t j = 0; j < in; ++j) want_dx(i, j) = rdx(i - first, j) + (add ? want_dx(i, j) : 0.0);
      }
      for (std::int64_t i = 0; i < out * in; ++i)
        want_dw(e, i) = rdw.data[static_cast<std::size_t>(i)] + (add ? dw.weight(e, i) : 0);
      for (std::int64_t i = 0; i < out; ++i) want_dbias(e, i) = rdbias(0, i) + (add ? dw.bias(e, i) : 0);
    }
    grouped_linear_forward<T>(device, y.view(), x.view(), w.const_view(with_bias), offsets);
    grouped_linear_backward_input<T>(device, dx.view(), dy.view(), w.const_view(with_bias), offsets, accumulate);
    grouped_linear_backward_weight<T>(device, dw.view(with_bias), dy.view(), x.view(), offsets, accumulate);
    CHECK(difference(y, want_y, in + 1) == "");
    CHECK(difference(dx, want_dx, out + 1) == "");
    CHECK(difference(dw.weight, want_dw, 41) == "");
    if (with_bias) CHECK(difference(dw.bias, want_dbias, 41) == "");
  }
}

TEST_CASE("grouped products pass the gradient check", "[grouped_gemm][gradcheck]") {
  Random random(11);
  const std::vector<std::int64_t> offsets = {0, 4, 4, 5};
  Experts<double> w(3, 4, 6, 0), dw(3, 4, 6, 0);
  w.randomize(random);
  auto x = Grid<double>::normal(random, 5, 6);
  const auto dy = Grid<double>::normal(random, 5, 4);
  const auto loss = [&] {
    Grid<double> y(5, 4);
    grouped_linear_forward<double>(inline_stream(), y.view(), x.view(), w.const_view(true), offsets);
    return test::dot({y.view().data, 20}, {dy.view().data, 20});
  };
  Grid<double> dx(5, 6);
  grouped_linear_backward_input<double>(inline_stream(), dx.view(), dy.view(), w.const_view(true), offsets,
                                        Accumulate::kOverwrite);
  grouped_linear_backward_weight<double>(inline_stream(), dw.view(true), dy.view(), x.view(), offsets,
                                         Accumulate::kOverwrite);
  CHECK(test::gradient_difference({x.view().data, 30}, {dx.view().data, 30}, loss) == "");
  CHECK(test::gradient_difference({w.weight.view().data, 72}, {dw.weight.view().data, 72}, loss) == "");
  CHECK(test::gradient_difference({w.bias.view().data, 12}, {dw.bias.view().data, 12}, loss) == "");
}

TEST_CASE("grouped products refuse offsets and weights that do not fit", "[grouped_gemm]") {
  Stream& s = inline_stream();
  Experts<float> w(2, 3, 4, 0);
  Grid<float> x(5, 4), y(5, 3), wrong(5, 2), short_x(4, 4), short_y(4, 3);
  using Offsets = std::vector<std::int64_t>;
  const Offsets good = {0, 2, 5};
  const auto forward = [&](Grid<float>& out, const Grid<float>& in, const ExpertWeights<const float>& weights,
                           const Offsets& offsets) {
    return error_of([&] { grouped_linear_forward<float>(s, out.view(), in.view(), weights, offsets); });
  };
  const auto weights = w.const_view(true);
  CHECK_THAT(forward(y, x, weights, {}), says("grouped_linear_forward", "offsets are empty"));
  CHECK_THAT(forward(y, x, weights, {0, 3, 2}), says("grouped_linear_forward", "descend at expert 1"));
  CHECK_THAT(forward(y, x, weights, {0, 3, 6}), says("grouped_linear_forward", "has 5 rows"));
  CHECK_THAT(forward(y, x, weights, {-1, 3, 5}), says("grouped_linear_forward", "from -1"));
  CHECK_THAT(forward(wrong, x, weights, good), says("grouped_linear_forward", "y is"));
  CHECK_THAT(forward(y, wrong, weights, good), says("grouped_linear_forward", "x is"));
  auto bad = weights;
  bad.expert_stride = 11;
  CHECK_THAT(forward(y, x, bad, good), says("grouped_linear_forward", "expert stride 11"));
  bad = weights;
  bad.bias_stride = 2;
  CHECK_THAT(forward(y, x, bad, good), says("grouped_linear_forward", "bias stride 2"));
  bad = weights;
  bad.data = nullptr;
  CHECK_THAT(forward(y, x, bad, good), says("grouped_linear_forward", "weight is null"));
  CHECK(forward(y, x, weights, good) == "");
  CHECK(forward(y, x, weights, {0}) == "");  // no expert, nothing to do

  const auto add = Accumulate::kAdd;
  CHECK_THAT(error_of([&] { grouped_linear_backward_input<float>(s, wrong.view(), y.view(), weights, good, add); }),
             says("grouped_linear_backward_input", "dx is"));
  CHECK_THAT(error_of([&] { grouped_linear_backward_input<float>(s, x.view(), wrong.view(), weights, good, add); }),
             says("grouped_linear_backward_input", "dy is"));
  CHECK_THAT(
      error_of([&] { grouped_linear_backward_weight<float>(s, w.view(true), short_y.view(), x.view(), good, add); }),
      says("grouped_linear_backward_weight", "dy is"));
  CHECK_THAT(
      error_of([&] { grouped_linear_backward_weight<float>(s, w.view(true), y.view(), wrong.view(), good, add); }),
      says("grouped_linear_backward_weight", "x is"));
}
