#include "kernels/permute.h"

#include <algorithm>

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

/// Which row of R each of T tokens' K choices went to: distinct rows, some choices dropped.
reference::Ints random_choices(Random& random, std::int64_t tokens, std::int64_t choices, std::int64_t rows) {
  reference::Ints row(static_cast<std::size_t>(tokens * choices), -1);
  auto order = random.permutation(rows);
  for (auto& r : row)
    if (!order.empty() && random.below(5) != 0) {
      r = order.back();
      order.pop_back();
    }
  return row;
}

}  // namespace

TEMPLATE_TEST_CASE("gathering moves rows bit for bit", "[permute]", WEFT_ROW_DEVICES) {
  WEFT_KERNEL_CASE(T, device);
  for (std::uint64_t seed = 0; seed < 60; ++seed) {
    Random random(seed);
    const std::int64_t from = random.pick({1, 2, 13, 50}), n = random.pick({0, 1, 7, 50}),
                       width = random.pick({0, 1, 5, 64});
    INFO("seed " << seed << ": " << n << " of " << from << " rows of " << width);
    const auto in = Grid<T>::normal(random, from, width, random.below(3));
    const auto index = random.integers(n, -1, from);
    Grid<T> out(n, width, 2);
    gather_rows<T>(device, out.view(), in.view(), index.data());
    CHECK(out.guards_intact());
    CHECK(reference::Dense(out.view()).data == reference::gather_rows(reference::Dense(in.view()), index).data);
  }
}

TEMPLATE_TEST_CASE("the weighted un-permute and its gradients equal their definitions", "[permute]", WEFT_ROW_DEVICES) {
  WEFT_KERNEL_CASE(T, device);
  for (std::uint64_t seed = 0; seed < 80; ++seed) {
    Random random(seed);
    const std::int64_t tokens = random.pick({0, 1, 3, 29}), choices = random.pick({0, 1, 2, 5}),
                       width = random.pick({1, 3, 16, 65});
    const std::int64_t num_rows = random.pick({0, 1, 30, 150});
    INFO("seed " << seed << ": T " << tokens << " K " << choices << " R " << num_rows << " M " << width);
    const auto row = random_choices(random, tokens, choices, num_rows);
    auto rows = Grid<T>::normal(random, num_rows, width, random.below(3));
    const auto weight = Grid<Wide<T>>::normal(random, tokens, choices, random.below(2));
    const auto residual = Grid<T>::normal(random, tokens, width, 1), dout = Grid<T>::normal(random, tokens, width, 2);
    const Matrix<const std::int32_t> row_view(row.data(), tokens, choices);
    const reference::Dense rrows(rows.view()), rweight(weight.view()), rresidual(residual.view()), rdout(dout.view());

    Grid<T> out(tokens, width, 1);
    unpermute_weighted<T>(device, out.view(), {}, rows.view(), row_view, weight.view());
    CHECK(difference(out, reference::unpermute_weighted({}, rrows, row, rweight), choices, 1.0) == "");
    unpermute_weighted<T>(device, out.view(), residual.view(), rows.view(), row_view, weight.view());
    const auto want = reference::unpermute_weighted(rresidual, rrows, row, rweight);
    CHECK(difference(out, want, choices + 1) == "");
    auto in_place = residual;
    unpermute_weighted<T>(device, in_place.view(), in_place.view(), rows.view(), row_view, weight.view());
    CHECK(difference(in_place, want, choices + 1) == "");

    const auto want_d = reference::unpermute_weighted_backward(rdout, rrows, row, rweight);
    auto want_d_rows = want_d.d_rows;  // rows that no choice names keep what they had
    Grid<T> d_rows(num_rows, width, 1);
    Grid<Wide<T>> d_weight(tokens, choices, 1);
    std::vector<bool> named(static_cast<std::size_t>(num_rows), false);
    for (const auto r : row)
      if (r >= 0) named[static_cast<std::size_t>(r)] = true;
    for (std::int64_t r = 0; r < num_rows; ++r)
      for (std::int64_t j = 0; j < width && !named[static_cast<std::size_t>(r)]; ++j)
        want_d_rows(r, j) = std::numeric_limits<double>::quiet_NaN();
    unpermute_weighted_backward<T>(device, {d_rows.view(), d_weight.view(), row_view}, dout.view(), rows.view(),
                                   row_view, weight.view());
    CHECK(difference(d_rows, want_d_rows, 1) == "");
    CHECK(difference(d_weight, want_d.d_weight, width, 1.0) == "");

    auto dx = Grid<T>::normal(random, tokens, width, 1);
    const auto want_dx = reference::permute_backward(rrows, row, tokens);
    const auto want_added = reference::sum(want_dx, reference::Dense(dx.view()));
    permute_backward<T>(device, dx.view(), rows.view(), row_view, Accumulate::kAdd);
    CHECK(difference(dx, want_added, choices + 1) == "");
    Grid<T> overwritten(tokens, width, 2);
    permute_backward<T>(device, overwritten.view(), rows.view(), row_view, Accumulate::kOverwrite);
    CHECK(difference(overwritten, want_dx, choices, 1.0) == "");

    const std::int64_t shift = num_rows / 2;  // another layout of the gradient's rows: rotated
    reference::Ints d_row = row;
    for (auto& r : d_row)
      if (r >= 0) r = static_cast<std::int32_t>((r + shift) % num_rows);
    Grid<T> rotated(num_rows, width, 1);
    Grid<Wide<T>> same_weight(tokens, choices, 1);
    unpermute_weighted_backward<T>(device, {rotated.view(), same_weight.view(), {d_row.data(), tokens, choices}},
                                   dout.view(), rows.view(), row_view, weight.view());
    CHECK(difference(same_weight, want_d.d_weight, width, 1.0) == "");
    for (std::int64_t r = 0; r < num_rows; ++r)
      for (std::int64_t j = 0; j < width && named[static_cast<std::size_t>(r)]; ++j)
        CHECK(rotated((r + shift) % num_rows, j) == d_rows(r, j));

    unpermute_weighted_backward<T>(device, {rows.view(), d_weight.view(), row_view}, dout.view(), rows.view(), row_view,
                                   weight.view());
    CHECK(difference(d_weight, want_d.d_weight, width, 1.0) == "");  // in place: read before written
    for (std::int64_t r = 0; r < num_rows; ++r)
      for (std::int64_t j = 0; j < width && named[static_cast<std::size_t>(r)]; ++j) CHECK(rows(r, j) == d_rows(r, j));
  }
}

TEMPLATE_TEST_CASE("rows are moved wherever they begin and end", "[permute]", WEFT_ROW_DEVICES) {
  WEFT_KERNEL_CASE(T, device);
  constexpr std::int64_t kVector = 16 / sizeof(T), kTokens = 5, kChoices = 7, kRows = 40;
  for (std::uint64_t seed = 0; seed < 40; ++seed) {
    Random random(seed);
    const std::int64_t stride = 1200 / kVector * kVector + random.pick({0, 0, 0, 1}), first = random.pick({0, 0, 1}),
                       width = random.pick({1, kVector - 1, kVector, kVector + 1, 33, 512, 1100, 1199 - kVector});
    INFO("seed " << seed << ": columns [" << first << ", " << first + width << ") of " << stride);
    const auto cut = [&](Grid<T>& grid) { return grid.view().col_range(first, width); };
    const auto row = random_choices(random, kTokens, kChoices, kRows);
    auto rows = Grid<T>::normal(random, kRows, stride), x = Grid<T>::normal(random, kTokens, stride);
    const auto weight = Grid<Wide<T>>::normal(random, kTokens, kChoices);
    const Matrix<const std::int32_t> table(row.data(), kTokens, kChoices);
    const reference::Dense dense_rows(cut(rows)), dense_x(cut(x)), dense_weight(weight.view());
    // What a kernel wrote: its columns equal `want`, the others of its rows are still NaN.
    const auto check = [&](Grid<T>& out, const reference::Dense& want, std::int64_t terms) {
      Grid<T> inside(out.rows(), width);
      bool outside = true;
      for (std::int64_t i = 0; i < out.rows(); ++i)
        for (std::int64_t j = 0; j < stride; ++j)
          if (first <= j && j < first + width)
            inside(i, j - first) = out(i, j);
          else
            outside = outside && std::isnan(static_cast<float>(out(i, j)));
      CHECK(outside);
      CHECK(difference(inside, want, terms, 1.0) == "");
    };
    Grid<T> gathered(kTokens * kChoices, stride), out(kTokens, stride), dx(kTokens, stride), d_rows(kRows, stride);
    gather_rows<T>(device, cut(gathered), cut(rows), row.data());
    check(gathered, reference::gather_rows(dense_rows, row), 0);
    unpermute_weighted<T>(device, cut(out), cut(x), cut(rows), table, weight.view());
    check(out, reference::unpermute_weighted(dense_x, dense_rows, row, dense_weight), kChoices + 1);
    permute_backward<T>(device, cut(dx), cut(rows), table, Accumulate::kOverwrite);
    check(dx, reference::permute_backward(dense_rows, row, kTokens), kChoices);
    Grid<Wide<T>> d_weight(kTokens, kChoices);
    unpermute_weighted_backward<T>(device, {cut(d_rows), d_weight.view(), table}, cut(x), cut(rows), table,
                                   weight.view());
    const auto want = reference::unpermute_weighted_backward(dense_x, dense_rows, row, dense_weight);
    CHECK(difference(d_weight, want.d_weight, width, 1.0) == "");
    auto want_d_rows = want.d_rows;
    for (std::int64_t r = 0; r < kRows; ++r)
      if (std::find(row.begin(), row.end(), r) == row.end())
        std::fill_n(want_d_rows.data.begin() + r * width, width, std::numeric_limits<double>::quiet_NaN());
    check(d_rows, want_d_rows, 1);
  }
}

TEST_CASE("moving rows passes the gradient check", "[permute][gradcheck]") {
  Random random(12);
  const reference::Ints row = {3, -1, 0, 4, 1, 2};
  const Matrix<const std::int32_t> row_view(row.data(), 3, 2);
  auto rows = Grid<double>::normal(random, 5, 4), weight = Grid<double>::normal(random, 3, 2);
  const auto dout = Grid<double>::normal(random, 3, 4);
  Grid<double> d_rows(5, 4), d_weight(3, 2);
  const auto loss = [&] {
    Grid<double> out(3, 4);
    unpermute_weighted<double>(inline_stream(), out.view(), {}, rows.view(), row_view, weight.view());
    return test::dot({out.view().data, 12}, {dout.view().data, 12});
  };
  unpermute_weighted_backward<double>(inline_stream(), {d_rows.view(), d_weight.view(), row_view}, dout.view(),
                                      rows.view(), row_view, weight.view());
  CHECK(test::gradient_difference({rows.view().data, 20}, {d_rows.view().data, 20}, loss) == "");
  CHECK(test::gradient_difference({weight.view().data, 6}, {d_weight.view().data, 6}, loss) == "");

  auto x = Grid<double>::normal(random, 3, 4);  // the permute: row r holds the token that chose it
  const reference::Ints token_of_row = {1, 2, 2, 0, 1};
  const auto d_out = Grid<double>::normal(random, 5, 4);
  Grid<double> dx(3, 4);
  permute_backward<double>(inline_stream(), dx.view(), d_out.view(), row_view, Accumulate::kOverwrite);
  CHECK(test::gradient_difference({x.view().data, 12}, {dx.view().data, 12}, [&] {
          Grid<double> out(5, 4);
          gather_rows<double>(inline_stream(), out.view(), x.view(), token_of_row.data());
          return test::dot({out.view().data, 20}, {d_out.view().data, 20});
        }) == "");
}

TEST_CASE("moving rows refuses what does not fit", "[permute]") {
  Stream& s = inline_stream();
  Grid<float> a34(3, 4), a35(3, 5), a54(5, 4), w32(3, 2), w33(3, 3);
  const reference::Ints index = {0, 1, 2, 0, 1, 2}, high = {0, 3, 5, 6, 7, 8};
  const Matrix<const std::int32_t> row(index.data(), 3, 2), high_row(high.data(), 3, 2), row2(index.data(), 2, 2);
  CHECK_THAT(error_of([&] { gather_rows<float>(s, a35.view(), a34.view(), index.data()); }),
             says("gather_rows", "out is"));
  CHECK_THAT(error_of([&] {
               gather_rows<float>(s, a34.view(), {nullptr, 3, 4}, index.data());
             }),
             says("gather_rows", "in is null"));
  CHECK_THAT(error_of([&] { gather_rows<float>(s, a34.view(), a34.view(), nullptr); }),
             says("gather_rows", "index is null"));
  CHECK_THAT(error_of([&] { gather_rows<float>(s, a34.view(), a34.view(), high.data()); }),
             says("gather_rows", "row index 3"));

  const auto unpermute = [&](Grid<float>& out, Matrix<const float> residual, Matrix<const float> rows,
                             Matrix<const std::int32_t> r, Grid<float>& w) {
    return error_of([&] { unpermute_weighted<float>(s, out.view(), residual, rows, r, w.view()); });
  };
  CHECK_THAT(unpermute(a35, {}, a54.view(), row, w32), says("unpermute_weighted", "out is"));
  CHECK_THAT(unpermute(a34, a35.view(), a54.view(), row, w32), says("unpermute_weighted", "residual is"));
  CHECK_THAT(unpermute(a34, {}, {nullptr, 5, 4}, row, w32), says("unpermute_weighted", "rows is null"));
  CHECK_THAT(unpermute(a34, {}, a54.view(), row2, w32), says("unpermute_weighted", "row is"));
  CHECK_THAT(unpermute(a34, {}, a54.view(), row, w33), says("unpermute_weighted", "weight is"));
  CHECK_THAT(unpermute(a34, {}, a54.view(), high_row, w32), says("unpermute_weighted", "row index 5"));

  const auto backward = [&](Grid<float>& d_rows, Grid<float>& d_weight, Matrix<const float> dout, Grid<float>& rows,
                            Matrix<const std::int32_t> r, Grid<float>& w) {
    return error_of([&] {
      unpermute_weighted_backward<float>(s, {d_rows.view(), d_weight.view(), r}, dout, rows.view(), r, w.view());
    });
  };
  const char* name = "unpermute_weighted_backward";
  CHECK_THAT(backward(a35, w32, a34.view(), a54, row, w32), says(name, "d_rows is"));
  CHECK_THAT(backward(a54, w33, a34.view(), a54, row, w32), says(name, "d_weight is"));
  CHECK_THAT(backward(a54, w32, {nullptr, 3, 4}, a54, row, w32), says(name, "dout is null"));
  CHECK_THAT(backward(a54, w32, {a34.view().data, 3, 3}, a54, row, w32), says(name, "expected"));
  CHECK_THAT(backward(a54, w32, a34.view(), a54, row2, w32), says(name, "row is"));
  CHECK_THAT(backward(a54, w32, a34.view(), a54, row, w33), says(name, "weight is"));
  CHECK_THAT(backward(a54, w32, a34.view(), a54, high_row, w32), says(name, "row index 5"));

  const auto add = Accumulate::kAdd;
  CHECK_THAT(error_of([&] {
               permute_backward<float>(s, {nullptr, 3, 4}, a54.view(), row, add);
             }),
             says("permute_backward", "dx is null"));
  CHECK_THAT(error_of([&] { permute_backward<float>(s, a35.view(), a54.view(), row, add); }),
             says("permute_backward", "d_rows is"));
  CHECK_THAT(error_of([&] { permute_backward<float>(s, a34.view(), a54.view(), row2, add); }),
             says("permute_backward", "row is"));
  CHECK_THAT(error_of([&] { permute_backward<float>(s, a34.view(), a54.view(), high_row, add); }),
             says("permute_backward", "row index 5"));
}
