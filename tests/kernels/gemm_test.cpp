#include "kernels/gemm.h"

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

const std::initializer_list<std::int64_t> kSides = {0, 1, 2, 3, 7, 17, 31, 64, 101};

template <class T>
T scalar(Random& random) {
  return static_cast<T>(random.normal());
}

}  // namespace

TEMPLATE_TEST_CASE("gemm equals its definition in every transposition", "[gemm]", WEFT_ROW_DEVICES) {
  WEFT_KERNEL_CASE(T, device);
  for (std::uint64_t seed = 0; seed < 200; ++seed) {
    Random random(seed);
    const std::int64_t rows = random.pick(kSides), cols = random.pick(kSides), inner = random.pick(kSides);
    const bool ta = random.below(2) != 0, tb = random.below(2) != 0, add = random.below(2) != 0;
    INFO("seed " << seed << ": [" << rows << ", " << inner << "] x [" << inner << ", " << cols << "], " << ta << tb
                 << add);
    const auto a = Grid<T>::normal(random, ta ? inner : rows, ta ? rows : inner, random.below(3));
    const auto b = Grid<T>::normal(random, tb ? cols : inner, tb ? inner : cols, random.below(3));
    const T alpha = scalar<T>(random);
    Grid<T> c(rows, cols, random.below(3));  // NaN: kOverwrite must not read it
    if (add) c = Grid<T>::normal(random, rows, cols, random.below(3));
    reference::Dense da(a.view()), db(b.view());
    if (ta) da = reference::transpose(da);
    if (tb) db = reference::transpose(db);
    reference::Dense expected = reference::scaled(reference::product(da, db), static_cast<double>(alpha));
    if (add) expected = reference::sum(expected, reference::Dense(c.view()));
    gemm<T>(device, c.view(), a.view(), Transpose{ta}, b.view(), Transpose{tb}, alpha,
            add ? Accumulate::kAdd : Accumulate::kOverwrite);
    CHECK(difference(c, expected, inner + 1) == "");
  }
}

namespace {

/// Up to ten products of any shapes at once, each against its definition.
template <class T, class Out>
void check_group(test::KernelDevice& device, std::uint64_t seed) {
  Random random(seed);
  const bool ta = random.below(2) != 0, tb = random.below(2) != 0, add = random.below(2) != 0;
  INFO("seed " << seed << ", transposed " << ta << tb << ", add " << add);
  std::vector<Grid<T>> a, b;
  std::vector<Grid<Out>> c;
  std::vector<reference::Dense> expected;
  std::vector<std::int64_t> terms;
  for (std::int64_t i = random.below(11); i > 0; --i) {
    const std::int64_t rows = random.pick(kSides), cols = random.pick(kSides), inner = random.pick(kSides);
    a.push_back(Grid<T>::normal(random, ta ? inner : rows, ta ? rows : inner, random.below(3)));
    b.push_back(Grid<T>::normal(random, tb ? cols : inner, tb ? inner : cols, random.below(3)));
    c.emplace_back(rows, cols, random.below(3));
    if (add) c.back() = Grid<Out>::normal(random, rows, cols, random.below(3));
    const reference::Dense da(a.back().view()), db(b.back().view());
    expected.push_back(reference::product(ta ? reference::transpose(da) : da, tb ? reference::transpose(db) : db));
    if (add) expected.back() = reference::sum(expected.back(), reference::Dense(c.back().view()));
    terms.push_back(inner + 1);
  }
  std::vector<GemmProduct<T, Out>> products;
  for (std::size_t i = 0; i < c.size(); ++i) products.push_back({c[i].view(), a[i].view(), b[i].view()});
  device.run(kernels::gemm_group<T, Out>, products, Transpose{ta}, Transpose{tb},
             add ? Accumulate::kAdd : Accumulate::kOverwrite);
  for (std::size_t i = 0; i < c.size(); ++i) CHECK(difference(c[i], expected[i], terms[i]) == "");
}

}  // namespace

TEMPLATE_TEST_CASE("a group of products equals their definitions, rounded or wide", "[gemm]", WEFT_ROW_DEVICES) {
  WEFT_KERNEL_CASE(T, device);
  for (std::uint64_t seed = 0; seed < 60; ++seed) {
    check_group<T, T>(device, seed);
    check_group<T, Wide<T>>(device, seed);
  }
}

TEMPLATE_TEST_CASE("the products of a linear layer with a wide result equal their definitions", "[gemm]",
                   WEFT_ROW_DEVICES) {
  WEFT_KERNEL_CASE(T, device);
  for (std::uint64_t seed = 0; seed < 60; ++seed) {
    Random random(seed);
    const std::int64_t t = random.pick(kSides), in = random.pick(kSides), out = random.pick(kSides);
    const bool add = random.below(2) != 0;
    INFO("seed " << seed << ": T " << t << " I " << in << " O " << out << " add " << add);
    const auto accumulate = add ? Accumulate::kAdd : Accumulate::kOverwrite;
    const auto x = Grid<T>::normal(random, t, in, random.below(3)), w = Grid<T>::normal(random, out, in, 1);
    const auto dy = Grid<Wide<T>>::normal(random, t, out, random.below(3));
    const reference::Dense rx(x.view()), rw(w.view()), rdy(dy.view());
    Grid<Wide<T>> y(t, out, 2);
    device.run(kernels::linear_forward_wide<T>, y.view(), Matrix<const T>(x.view()), Matrix<const T>(w.view()));
    CHECK(difference(y, reference::product(rx, reference::transpose(rw)), in + 1) == "");  // nothing is rounded to T

    Grid<T> dx(t, in, 1);
    Grid<Wide<T>> dw(out, in, 1);
    reference::Dense want_dx = reference::product(rdy, rw), want_dw = reference::product(reference::transpose(rdy), rx);
    if (add) {
      dx = Grid<T>::normal(random, t, in, 1);
      dw = Grid<Wide<T>>::normal(random, out, in, 1);
      want_dx = reference::sum(want_dx, reference::Dense(dx.view()));
      want_dw = reference::sum(want_dw, reference::Dense(dw.view()));
    }
    device.run(kernels::linear_backward_input_wide<T>, dx.view(), Matrix<const Wide<T>>(dy.view()),
               Matrix<const T>(w.view()), accumulate);
    device.run(kernels::linear_backward_weight_wide<T>, dw.view(), Matrix<const Wide<T>>(dy.view()),
               Matrix<const T>(x.view()), accumulate);
    CHECK(difference(dx, want_dx, out + 1) == "");
    // dy may have been rounded to T on the way
    std::vector<T> narrowed;
    for (std::int64_t i = 0; i < out; ++i)
      for (std::int64_t j = 0; j < in; ++j) narrowed.push_back(static_cast<T>(dw(i, j)));
    CHECK(difference(narrowed, want_dw.data, t + 1) == "");
  }
}

TEMPLATE_TEST_CASE("the products of a linear layer equal their definitions", "[gemm]", WEFT_ROW_DEVICES) {
  WEFT_KERNEL_CASE(T, device);
  for (std::uint64_t seed = 0; seed < 100; ++seed) {
    Random random(seed);
    const std::int64_t t = random.pick(kSides), in = random.pick(kSides), out = random.pick(kSides);
    const bool with_bias = random.below(2) != 0, add = random.below(2) != 0;
    INFO("seed " << seed << ": T " << t << " I " << in << " O " << out << " bias " << with_bias << " add " << add);
    const auto accumulate = add ? Accumulate::kAdd : Accumulate::kOverwrite;
    const auto x = Grid<T>::normal(random, t, in, random.below(3));
    const auto w = Grid<T>::normal(random, out, in, random.below(3));
    const auto dy = Grid<T>::normal(random, t, out, random.below(3));
    const auto bias = Grid<T>::normal(random, 1, out);
    const reference::Dense rx(x.view()), rw(w.view()), rdy(dy.view()), rbias(bias.view());

    Grid<T> y(t, out, 2);
    linear_forward<T>(device, y.view(), x.view(), w.view(), with_bias ? bias.view().data : nullptr);
    reference::Dense expected = reference::product(rx, reference::transpose(rw));
    for (std::int64_t i = 0; i < t && with_bias; ++i)
      for (std::int64_t j = 0; j < out; ++j) expected(i, j) += rbias(0, j);
    CHECK(difference(y, expected, in + 1) == "");

    Grid<T> dx(t, in, 1);
    Grid<Wide<T>> dw(out, in, 1), dbias(1, out);
    if (add) {
      dx = Grid<T>::normal(random, t, in, 1);
      dw = Grid<Wide<T>>::normal(random, out, in, 1);
      dbias = Grid<Wide<T>>::normal(random, 1, out);
    }
    const auto plus = [&](const reference::Dense& value, const auto& before) {
      return add ? reference::sum(value, reference::Dense(before.view())) : value;
    };
    const auto want_dx = plus(reference::product(rdy, rw), dx);
    const auto want_dw = plus(reference::product(reference::transpose(rdy), rx), dw);
    const auto want_dbias = plus(reference::column_sums(rdy), dbias);
    linear_backward_input<T>(device, dx.view(), dy.view(), w.view(), accumulate);
    linear_backward_weight<T>(device, dw.view(), with_bias ? dbias.view().data : nullptr, dy.view(), x.view(),
                              accumulate);
    CHECK(difference(dx, want_dx, out + 1) == "");
    CHECK(difference(dw, want_dw, t + 1) == "");
    if (with_bias) CHECK(difference(dbias, want_dbias, t + 1) == "");
  }
}

TEST_CASE("a linear layer's gradients pass the gradient check", "[gemm][gradcheck]") {
  Random random(7);
  auto x = Grid<double>::normal(random, 5, 7), w = Grid<double>::normal(random, 3, 7);
  auto bias = Grid<double>::normal(random, 1, 3);
  const auto dy = Grid<double>::normal(random, 5, 3);
  const auto loss = [&] {
    Grid<double> y(5, 3);
    linear_forward<double>(inline_stream(), y.view(), x.view(), w.view(), bias.view().data);
    return test::dot({y.view().data, 15}, {dy.view().data, 15});
  };
  Grid<double> dx(5, 7), dw(3, 7), dbias(1, 3);
  linear_backward_input<double>(inline_stream(), dx.view(), dy.view(), w.view(), Accumulate::kOverwrite);
  linear_backward_weight<double>(inline_stream(), dw.view(), dbias.view().data, dy.view(), x.view(),
                                 Accumulate::kOverwrite);
  CHECK(test::gradient_difference({x.view().data, 35}, {dx.view().data, 35}, loss) == "");
  CHECK(test::gradient_difference({w.view().data, 21}, {dw.view().data, 21}, loss) == "");
  CHECK(test::gradient_difference({bias.view().data, 3}, {dbias.view().data, 3}, loss) == "");
}

TEMPLATE_TEST_CASE("NaN and infinity pass through a product", "[gemm]", WEFT_F32_DEVICES) {
  WEFT_KERNEL_CASE(T, device);
  Random random(1);
  for (const std::int64_t rows : {1, 2, 3, 40}) {
    auto a = Grid<float>::normal(random, rows, 40), b = Grid<float>::normal(random, 40, 33);
    a(rows - 1, 5) = std::numeric_limits<float>::quiet_NaN();
    b(6, 32) = std::numeric_limits<float>::infinity();
    Grid<float> c(rows, 33);
    gemm<float>(device, c.view(), a.view(), Transpose::kNo, b.view(), Transpose::kNo);
    for (std::int64_t j = 0; j < 33; ++j) CHECK(std::isnan(c(rows - 1, j)));
    if (rows > 1) CHECK(std::isinf(c(0, 32)));
    if (rows > 1) CHECK(std::isfinite(c(0, 31)));
  }
}

TEST_CASE("matrix products refuse shapes that do not fit", "[gemm]") {
  Stream& s = inline_stream();
  Grid<float> m23(2, 3), m34(3, 4), m24(2, 4), m43(4, 3), m32(3, 2), m33(3, 3);
  const auto no = Transpose::kNo;
  CHECK_THAT(error_of([&] { gemm<float>(s, m33.view(), m23.view(), no, m34.view(), no); }),
             says("gemm", "a is [2, 3]"));
  CHECK_THAT(error_of([&] { gemm<float>(s, m23.view(), m23.view(), no, m34.view(), no); }),
             says("gemm", "b is [3, 4]"));
  CHECK_THAT(error_of([&] { gemm<float>(s, m24.view(), m23.view(), no, m34.view(), Transpose::kYes); }),
             says("gemm", "b is"));
  CHECK_THAT(error_of([&] { gemm<float>(s, m24.view(), m23.view(), Transpose::kYes, m34.view(), no); }),
             says("gemm", "a is"));
  CHECK_THAT(error_of([&] {
               gemm<float>(s, {m24.view().data, 2, 4, 3}, m23.view(), no, m34.view(), no);
             }),
             says("gemm", "c has row stride 3"));
  CHECK_THAT(error_of([&] {
               gemm<float>(s, {nullptr, 2, 4}, m23.view(), no, m34.view(), no);
             }),
             says("gemm", "c is null"));
  CHECK_THAT(error_of([&] {
               gemm<float>(s, {nullptr, -1, 4}, {nullptr, -1, 3}, no, m34.view(), no);
             }),
             says("gemm", "c is [-1"));
  const std::int64_t huge = std::int64_t{1} << 31;
  const auto empty = [&](Matrix<float> c, Matrix<const float> a, Matrix<const float> b) {
    return error_of([&] { gemm<float>(s, c, a, no, b, no); });
  };
  CHECK_THAT(empty({nullptr, huge, 0}, {nullptr, huge, 0}, {nullptr, 0, 0}), says("gemm", "c is [2147483648, 0]"));
  CHECK_THAT(empty({nullptr, 0, 0}, {nullptr, 0, huge}, {nullptr, huge, 0}), says("gemm", "a is [0, 2147483648]"));
  CHECK_THAT(empty({nullptr, 0, 0}, {nullptr, 0, 0}, {nullptr, 0, 0, huge}), says("gemm", "row stride 2147483648"));
  CHECK_THAT(error_of([&] { linear_forward<float>(s, m24.view(), m23.view(), m34.view()); }),
             says("linear_forward", "y is"));
  CHECK_THAT(error_of([&] { linear_forward<float>(s, m23.view(), m23.view(), m34.view()); }),
             says("linear_forward", "x is"));
  CHECK_THAT(error_of([&] {
               linear_forward<float>(s, m24.view(), m23.view(), {m43.view().data, 4, 3, 2});
             }),
             says("linear_forward", "w has row stride"));
  const auto add = Accumulate::kAdd;
  CHECK_THAT(error_of([&] { linear_backward_input<float>(s, m33.view(), m24.view(), m43.view(), add); }),
             says("linear_backward_input", "dx is"));
  CHECK_THAT(error_of([&] { linear_backward_input<float>(s, m23.view(), m23.view(), m43.view(), add); }),
             says("linear_backward_input", "dy is"));
  CHECK_THAT(error_of([&] { linear_backward_weight<float>(s, m33.view(), nullptr, m24.view(), m23.view(), add); }),
             says("linear_backward_weight", "dw is"));
  CHECK_THAT(error_of([&] { linear_backward_weight<float>(s, m43.view(), nullptr, m34.view(), m23.view(), add); }),
             says("linear_backward_weight", "dy is"));
  CHECK(error_of([&] { gemm<float>(s, m24.view(), m23.view(), no, m34.view(), no); }) == "");
}
