#include "kernels/norm.h"

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

constexpr double kEps = 1e-5;

template <class T>
reference::Reals values(const Grid<T>& row) {
  return reference::Dense(row.view()).data;
}

/// NaN for kOverwrite, which must not read it; numbers for kAdd.
template <class T>
Grid<T> destination(Random& random, bool add, std::int64_t rows, std::int64_t cols, std::int64_t pad = 0) {
  return add ? Grid<T>::normal(random, rows, cols, pad) : Grid<T>(rows, cols, pad);
}

reference::Reals plus(reference::Reals value, const reference::Reals& before, bool add) {
  for (std::size_t i = 0; i < value.size() && add; ++i) value[i] += before[i];
  return value;
}

Accumulate mode(bool add) { return add ? Accumulate::kAdd : Accumulate::kOverwrite; }

}  // namespace

TEMPLATE_TEST_CASE("norms equal their definitions", "[norm]", WEFT_ROW_DEVICES) {
  WEFT_KERNEL_CASE(T, device);
  for (std::uint64_t seed = 0; seed < 60; ++seed) {
    Random random(seed);
    const std::int64_t rows = random.pick({0, 1, 2, 7, 50}), cols = random.pick({1, 2, 3, 16, 33, 127, 512});
    INFO("seed " << seed << ": T " << rows << " M " << cols);
    const auto x = Grid<T>::normal(random, rows, cols, random.below(3));
    const auto weight = Grid<T>::normal(random, 1, cols), bias = Grid<T>::normal(random, 1, cols);
    Grid<T> y(rows, cols, 1);
    Grid<Wide<T>> mean(1, rows), rstd(1, rows);
    const auto rms = reference::rms_norm(reference::Dense(x.view()), values(weight), kEps);
    rms_norm_forward<T>(device, y.view(), rstd.view().data, x.view(), weight.view().data, kEps);
    CHECK(difference(y, rms.y, cols) == "");
    CHECK(difference<Wide<T>>({rstd.view().data, rms.rstd.size()}, rms.rstd, cols) == "");
    const auto layer = reference::layer_norm(reference::Dense(x.view()), values(weight), values(bias), kEps);
    layer_norm_forward<T>(device, y.view(), mean.view().data, rstd.view().data, x.view(), weight.view().data,
                          bias.view().data, kEps);
    if (cols > 3)
      CHECK(difference(y, layer.y, cols) == "");  // of two columns, one may be 1 / sqrt(eps) times cancellation
    CHECK(difference<Wide<T>>({mean.view().data, layer.mean.size()}, layer.mean, cols, 1.0) == "");
    if (cols > 3) CHECK(difference<Wide<T>>({rstd.view().data, layer.rstd.size()}, layer.rstd, cols) == "");
  }
}

TEMPLATE_TEST_CASE("gradients of norms equal their definitions, overwritten or added", "[norm]", WEFT_ROW_DEVICES) {
  WEFT_KERNEL_CASE(T, device);
  for (std::uint64_t seed = 0; seed < 60; ++seed) {
    Random random(seed);
    const std::int64_t rows = random.pick({0, 1, 2, 7, 50}), cols = random.pick({5, 16, 33, 127, 512});
    const bool add_dx = random.below(2) != 0, add_dw = random.below(2) != 0;
    INFO("seed " << seed << ": T " << rows << " M " << cols << " add dx " << add_dx << " add dw " << add_dw);
    const auto x = Grid<T>::normal(random, rows, cols, 2), dy = Grid<T>::normal(random, rows, cols, 1);
    const auto weight = Grid<T>::normal(random, 1, cols), bias = Grid<T>::normal(random, 1, cols);
    Grid<T> y(rows, cols);
    Grid<Wide<T>> mean(1, rows), rstd(1, rows);
    for (const bool layer : {false, true}) {
      auto dx = destination<T>(random, add_dx, rows, cols, 1);
      auto dweight = destination<Wide<T>>(random, add_dw, 1, cols, 1),
           dbias = destination<Wide<T>>(random, add_dw, 1, cols, 1);
      const reference::Dense rx(x.view()), rdy(dy.view());
      auto want = layer ? reference::layer_norm_backward(rdy, rx, values(weight), kEps)
                        : reference::rms_norm_backward(rdy, rx, values(weight), kEps);
      want.dx.data = plus(want.dx.data, values(dx), add_dx);
      const auto want_dweight = plus(want.dweight, values(dweight), add_dw);
      const auto want_dbias = plus(want.dbias, values(dbias), add_dw);
      if (layer) {
        layer_norm_forward<T>(device, y.view(), mean.view().data, rstd.view().data, x.view(), weight.view().data,
                              bias.view().data, kEps);
        layer_norm_backward<T>(device, dx.view(), dweight.view().data, dbias.view().data, dy.view(), x.view(),
                               mean.view().data, rstd.view().data, weight.view().data, mode(add_dx), mode(add_dw));
        CHECK(difference<Wide<T>>({dbias.view().data, want_dbias.size()}, want_dbias, rows + 1) == "");
        CHECK(dbias.guards_intact());
      } else {
        rms_norm_forward<T>(device, y.view(), rstd.view().data, x.view(), weight.view().data, kEps);
        rms_norm_backward<T>(device, dx.view(), dweight.view().data, dy.view(), x.view(), rstd.view().data,
                             weight.view().data, mode(add_dx), mode(add_dw));
      }
      CHECK(difference(dx, want.dx, cols, 1.0) == "");
      CHECK(difference<Wide<T>>({dweight.view().data, want_dweight.size()}, want_dweight, rows + 1, 1.0) == "");
      CHECK(dweight.guards_intact());
    }
  }
}

TEST_CASE("gradients of norms pass the gradient check", "[norm][gradcheck]") {
  Random random(4);
  auto x = Grid<double>::normal(random, 4, 9), weight = Grid<double>::normal(random, 1, 9),
       bias = Grid<double>::normal(random, 1, 9);
  const auto dy = Grid<double>::normal(random, 4, 9);
  Grid<double> y(4, 9), dx(4, 9), dweight(1, 9), dbias(1, 9), mean(1, 4), rstd(1, 4);
  const auto overwrite = Accumulate::kOverwrite;
  const auto rms_loss = [&] {
    rms_norm_forward<double>(inline_stream(), y.view(), rstd.view().data, x.view(), weight.view().data, kEps);
    return test::dot({y.view().data, 36}, {dy.view().data, 36});
  };
  rms_loss();
  rms_norm_backward<double>(inline_stream(), dx.view(), dweight.view().data, dy.view(), x.view(), rstd.view().data,
                            weight.view().data, overwrite, overwrite);
  CHECK(test::gradient_difference({x.view().data, 36}, {dx.view().data, 36}, rms_loss) == "");
  CHECK(test::gradient_difference({weight.view().data, 9}, {dweight.view().data, 9}, rms_loss) == "");
  const auto layer_loss = [&] {
    layer_norm_forward<double>(inline_stream(), y.view(), mean.view().data, rstd.view().data, x.view(),
                               weight.view().data, bias.view().data, kEps);
    return test::dot({y.view().data, 36}, {dy.view().data, 36});
  };
  layer_loss();
  layer_norm_backward<double>(inline_stream(), dx.view(), dweight.view().data, dbias.view().data, dy.view(), x.view(),
                              mean.view().data, rstd.view().data, weight.view().data, overwrite, overwrite);
  CHECK(test::gradient_difference({x.view().data, 36}, {dx.view().data, 36}, layer_loss) == "");
  CHECK(test::gradient_difference({weight.view().data, 9}, {dweight.view().data, 9}, layer_loss) == "");
  CHECK(test::gradient_difference({bias.view().data, 9}, {dbias.view().data, 9}, layer_loss) == "");
}

TEMPLATE_TEST_CASE("norms do without the statistics nobody asks for, and pass NaN on", "[norm]", WEFT_F32_DEVICES) {
  WEFT_KERNEL_CASE(T, device);
  Random random(8);
  auto x = Grid<float>::normal(random, 3, 20);
  const auto weight = Grid<float>::normal(random, 1, 20), bias = Grid<float>::normal(random, 1, 20);
  x(1, 7) = std::numeric_limits<float>::quiet_NaN();
  Grid<float> y(3, 20);
  const auto check = [&] {
    for (std::int64_t j = 0; j < 20; ++j) {
      CHECK(std::isfinite(y(0, j)));
      CHECK(std::isnan(y(1, j)));
    }
  };
  rms_norm_forward<float>(device, y.view(), nullptr, x.view(), weight.view().data, kEps);
  check();
  layer_norm_forward<float>(device, y.view(), nullptr, nullptr, x.view(), weight.view().data, bias.view().data, kEps);
  check();
}

TEST_CASE("norms refuse what does not fit", "[norm]") {
  Stream& s = inline_stream();
  Grid<float> x(3, 4), y(3, 4), wrong(3, 5), one(1, 8);
  float* v = one.view().data;
  const auto o = Accumulate::kOverwrite;
  const auto rms = [&](Grid<float>& out, Matrix<const float> in, const float* w) {
    return error_of([&] { rms_norm_forward<float>(s, out.view(), nullptr, in, w, kEps); });
  };
  CHECK_THAT(rms(wrong, x.view(), v), says("rms_norm_forward", "y is"));
  CHECK_THAT(rms(y, {x.view().data, 3, 4, 2}, v), says("rms_norm_forward", "x has row stride"));
  CHECK_THAT(rms(y, x.view(), nullptr), says("rms_norm_forward", "weight is null"));
  const auto rms_back = [&](Grid<float>& dx, float* dw, Grid<float>& dy, const float* r, const float* w) {
    return error_of([&] { rms_norm_backward<float>(s, dx.view(), dw, dy.view(), x.view(), r, w, o, o); });
  };
  CHECK_THAT(rms_back(wrong, v, y, v, v), says("rms_norm_backward", "dx is"));
  CHECK_THAT(rms_back(y, nullptr, y, v, v), says("rms_norm_backward", "dweight is null"));
  CHECK_THAT(rms_back(y, v, wrong, v, v), says("rms_norm_backward", "dy is"));
  CHECK_THAT(rms_back(y, v, y, nullptr, v), says("rms_norm_backward", "rstd is null"));
  CHECK_THAT(rms_back(y, v, y, v, nullptr), says("rms_norm_backward", "weight is null"));
  const auto layer = [&](Grid<float>& out, const float* w, const float* b) {
    return error_of([&] { layer_norm_forward<float>(s, out.view(), nullptr, nullptr, x.view(), w, b, kEps); });
  };
  CHECK_THAT(layer(wrong, v, v), says("layer_norm_forward", "y is"));
  CHECK_THAT(layer(y, nullptr, v), says("layer_norm_forward", "weight is null"));
  CHECK_THAT(layer(y, v, nullptr), says("layer_norm_forward", "bias is null"));
  const auto layer_back = [&](Grid<float>& dx, float* dw, float* db, Grid<float>& dy, const float* m, const float* r,
                              const float* w) {
    return error_of([&] { layer_norm_backward<float>(s, dx.view(), dw, db, dy.view(), x.view(), m, r, w, o, o); });
  };
  CHECK_THAT(layer_back(wrong, v, v, y, v, v, v), says("layer_norm_backward", "dx is"));
  CHECK_THAT(layer_back(y, nullptr, v, y, v, v, v), says("layer_norm_backward", "dweight is null"));
  CHECK_THAT(layer_back(y, v, nullptr, y, v, v, v), says("layer_norm_backward", "dbias is null"));
  CHECK_THAT(layer_back(y, v, v, wrong, v, v, v), says("layer_norm_backward", "dy is"));
  CHECK_THAT(layer_back(y, v, v, y, nullptr, v, v), says("layer_norm_backward", "mean is null"));
  CHECK_THAT(layer_back(y, v, v, y, v, nullptr, v), says("layer_norm_backward", "rstd is null"));
  CHECK_THAT(layer_back(y, v, v, y, v, v, nullptr), says("layer_norm_backward", "weight is null"));
}
