#include "kernels/slots.h"

#include <algorithm>

#include "kernels/router.h"
#include "tests/kernels/device_kernels.h"

using namespace weft;
using namespace weft::kernels;
using weft::test::error_of;
using weft::test::Grid;
using weft::test::inline_stream;
using weft::test::Random;

namespace {

/// Loss <out, weights> of a function of `in`, checked against `gradient`.
template <class F>
std::string check(Grid<double>& in, const Grid<double>& gradient, const F& loss) {
  const auto n = static_cast<std::size_t>(in.view().rows * in.view().cols);
  return test::gradient_difference({in.view().data, n}, {gradient.view().data, n}, loss);
}
template <class T>
Matrix<const T> constant(const Grid<T>& grid) {
  return grid.view();
}
double sum_of(const Grid<double>& a, const Grid<double>& b) {
  double sum = 0.0;
  for (std::int64_t i = 0; i < a.view().rows; ++i)
    for (std::int64_t j = 0; j < a.view().cols; ++j) sum += a.view().row(i)[j] * b.view().row(i)[j];
  return sum;
}

}  // namespace

TEMPLATE_TEST_CASE("expert choice sorts by (score, row) and leaves rows in order", "[slots]", WEFT_F64_DEVICES) {
  WEFT_KERNEL_CASE(T, device);
  for (std::uint64_t seed = 0; seed < 40; ++seed) {
    Random random(seed);
    const std::int64_t groups = random.pick({1, 2, 3}), n = random.pick({1, 4, 9, 300}), experts = random.pick({1, 3});
    const std::int64_t slots = 1 + random.below(n);
    Grid<double> scores(groups * n, experts, 0), weight(groups * slots, experts, 0);
    for (std::int64_t t = 0; t < groups * n; ++t)
      for (std::int64_t e = 0; e < experts; ++e) scores(t, e) = static_cast<double>(random.below(3));  // many ties
    Grid<std::int32_t> source(groups * slots, experts, 0), kept(groups * slots, experts, 0);
    device.run(kernels::expert_choice<double>, SlotTable<double>{source.view(), kept.view(), weight.view()},
               constant(scores), RoutingGroups::whole(n, groups * n));
    for (std::int64_t g = 0; g < groups; ++g)
      for (std::int64_t e = 0; e < experts; ++e) {
        std::vector<std::int64_t> rows;
        for (std::int64_t t = g * n; t < (g + 1) * n; ++t) rows.push_back(t);
        std::stable_sort(rows.begin(), rows.end(), [&](auto a, auto b) { return scores(a, e) > scores(b, e); });
        rows.resize(static_cast<std::size_t>(slots));
        std::sort(rows.begin(), rows.end());
        for (std::int64_t j = 0; j < slots; ++j) {
          CHECK(source(g * slots + j, e) == rows[static_cast<std::size_t>(j)]);
          CHECK(weight(g * slots + j, e) == scores(rows[static_cast<std::size_t>(j)], e));
          CHECK(kept(g * slots + j, e) == e);
        }
      }
  }
}

TEMPLATE_TEST_CASE("expert choice over groups whose rows lie in any order", "[slots]", WEFT_KERNEL_DEVICES) {
  WEFT_KERNEL_CASE(T, device);
  for (std::uint64_t seed = 0; seed < 40; ++seed) {
    Random random(seed);
    const std::int64_t groups = random.pick({1, 2, 3}), n = random.pick({1, 4, 9, 300}), experts = random.pick({1, 3}),
                       rows = groups * n, slots = 1 + random.below(n), first = random.below(rows),
                       count = 1 + random.below(rows - first);
    INFO("seed " << seed << ": " << groups << " groups of " << n << ", " << slots << " slots of " << experts
                 << ", results for " << count << " rows from " << first);
    const std::vector<std::int32_t> order = random.permutation(rows);
    Grid<T> in_order(rows, experts), scores(rows, experts), weight(groups * slots, experts), want_weight = weight;
    for (std::int64_t i = 0; i < rows; ++i)
      for (std::int64_t e = 0; e < experts; ++e)
        scores(order[static_cast<std::size_t>(i)], e) = in_order(i, e) = static_cast<T>(random.below(3));  // many ties
    Grid<std::int32_t> source(groups * slots, experts), kept(groups * slots, experts), want = source, all = kept;
    kernels::expert_choice<T>(inline_stream(), {want.view(), all.view(), want_weight.view()}, constant(in_order),
                              RoutingGroups::whole(n, rows));
    device.run(kernels::expert_choice<T>, SlotTable<T>{source.view(), kept.view(), weight.view()}, constant(scores),
               test::Groups{{n, order.data(), first, count}, rows});
    std::int64_t wrong = 0;
    for (std::int64_t d = 0; d < groups * slots; ++d)
      for (std::int64_t e = 0; e < experts; ++e) {
        const std::int64_t t = order[static_cast<std::size_t>(want(d, e))];
        const bool wanted = t >= first && t < first + count;
        wrong += source(d, e) != (wanted ? t - first : 0) || kept(d, e) != (wanted ? e : -1) ||
                 weight(d, e) != want_weight(d, e);
      }
    CHECK(wrong == 0);
  }
}

TEMPLATE_TEST_CASE("expert choice takes scores for equal that differ by rounding alone", "[slots]",
                   WEFT_KERNEL_DEVICES) {
  WEFT_KERNEL_CASE(T, device);
  Grid<T> scores(3, 1), weight(1, 1);
  const T one = T(0.3);
  scores(0, 0) = T(0.1);
  scores(1, 0) = one;
  scores(2, 0) = std::nextafter(one, T(1));
  std::int32_t source = -1, kept = -1;
  device.run(kernels::expert_choice<T>, SlotTable<T>{{&source, 1, 1}, {&kept, 1, 1}, weight.view()}, constant(scores),
             RoutingGroups::whole(3, 3));
  CHECK(source == 1);
  scores(2, 0) = one * T(1.001);
  scores(0, 0) = std::numeric_limits<T>::quiet_NaN();
  device.run(kernels::expert_choice<T>, SlotTable<T>{{&source, 1, 1}, {&kept, 1, 1}, weight.view()}, constant(scores),
             RoutingGroups::whole(3, 3));
  CHECK(source == 2);
}

TEMPLATE_TEST_CASE("the softmax down columns and its gradient", "[slots][gradcheck]", WEFT_F64_DEVICES) {
  WEFT_KERNEL_CASE(T, device);
  Random random(3);
  constexpr std::int64_t kRows = 3;  // of a group
  auto z = Grid<double>::normal(random, 6, 4);
  const auto dout = Grid<double>::normal(random, 6, 4);
  Grid<double> out(6, 4), dz(6, 4), lse(2, 4), dot(2, 4);
  const auto loss = [&] {
    device.run(kernels::column_logsumexp<double>, lse.view(), constant(z), kRows);
    device.run(kernels::column_softmax_forward<double>, out.view(), constant(z), constant(lse), kRows);
    return sum_of(out, dout);
  };
  loss();
  for (std::int64_t g = 0; g < 2; ++g)
    for (std::int64_t s = 0; s < 4; ++s) {
      double sum = 0.0;
      for (std::int64_t t = 3 * g; t < 3 * g + 3; ++t) sum += std::exp(z(t, s));
      for (std::int64_t t = 3 * g; t < 3 * g + 3; ++t) CHECK(out(t, s) == Approx(std::exp(z(t, s)) / sum));
    }
  std::fill_n(dz.view().data, 24, 0.0);
  device.run(kernels::column_dot<double>, dot.view(), constant(dout), constant(out), kRows);
  device.run(kernels::column_softmax_backward<double>, dz.view(),
             ColumnSoftmaxGradient<double>{dout.view(), out.view(), dot.view()}, kRows);
  CHECK(check(z, dz, loss) == "");
}

TEMPLATE_TEST_CASE("rows of slots are scattered to their tokens, with gradients", "[slots][gradcheck]",
                   WEFT_F64_DEVICES) {
  WEFT_KERNEL_CASE(T, device);
  Random random(7);
  constexpr std::int32_t kRow[] = {2, -1, 0, 1, 4, 3}, kSource[] = {1, 1, 0, 1, 2, 1};  // a token in several slots
  const SlotRows slots{{kRow, 3, 2}, {kSource, 3, 2}};
  auto rows = Grid<double>::normal(random, 5, 3), weight = Grid<double>::normal(random, 3, 2);
  const auto dout = Grid<double>::normal(random, 3, 3);
  Grid<double> out(3, 3), d_rows(5, 3), d_weight(3, 2);
  const auto loss = [&] {
    std::fill_n(out.view().data, 9, 0.0);
    device.run(kernels::slots_scatter<double>, out.view(), constant(rows), slots, constant(weight));
    return sum_of(out, dout);
  };
  loss();
  for (int j = 0; j < 3; ++j)
    CHECK(out(1, j) == Approx(weight(0, 0) * rows(2, j) + weight(1, 1) * rows(1, j) + weight(2, 1) * rows(3, j)));
  device.run(kernels::slots_scatter_backward<double>, SlotsGradient<double>{d_rows.view(), d_weight.view(), slots.row},
             constant(dout), constant(rows), slots, constant(weight));
  CHECK(check(rows, d_rows, loss) == "");
  CHECK(check(weight, d_weight, loss) == "");
  Grid<double> dx(3, 3);
  std::fill_n(dx.view().data, 9, 1.0);
  device.run(kernels::slots_gather_backward<double>, dx.view(), constant(rows), slots);
  for (int j = 0; j < 3; ++j) CHECK(dx(1, j) == Approx(1.0 + rows(2, j) + rows(1, j) + rows(3, j)));
}

TEMPLATE_TEST_CASE("kept choices fill slots in order, and the rest stay empty", "[slots]", WEFT_KERNEL_DEVICES) {
  WEFT_KERNEL_CASE(T, device);
  for (std::uint64_t seed = 0; seed < 40; ++seed) {
    Random random(seed);
    const std::int64_t groups = random.pick({1, 2, 3}), n = random.pick({1, 5, 300}), experts = random.pick({1, 3, 8});
    const std::int64_t k = random.pick({1, 2}), slots = 1 + random.below(n);
    INFO("seed " << seed << ": " << groups << " groups of " << n << ", " << slots << " slots of " << experts);
    Grid<std::int32_t> kept(groups * n, k), place(groups * n, k), want_place(groups * n, k);
    const auto weight = Grid<T>::normal(random, groups * n, k);
    Grid<std::int32_t> source(groups * slots, experts), all(groups * slots, experts);
    Grid<T> slot_weight(groups * slots, experts);
    std::vector<std::vector<std::pair<std::int64_t, std::int64_t>>> of(static_cast<std::size_t>(groups * experts));
    for (std::int64_t t = 0; t < groups * n; ++t)
      for (std::int64_t c = 0; c < k; ++c) {
        const std::int64_t e = random.below(experts);
        auto& queue = of[static_cast<std::size_t>(t / n * experts + e)];
        const bool fits = std::ssize(queue) < slots && random.below(4) != 0;
        kept(t, c) = fits ? static_cast<std::int32_t>(e) : -1;
        want_place(t, c) = -1;
        if (!fits) continue;
        want_place(t, c) = static_cast<std::int32_t>((t / n * slots + std::ssize(queue)) * experts + e);
        queue.emplace_back(t, c);
      }
    device.run(kernels::fill_slots<T>, SlotTable<T>{source.view(), all.view(), slot_weight.view()}, place.view(),
               constant(kept), constant(weight), n);
    std::int64_t wrong = 0;
    for (std::int64_t t = 0; t < groups * n; ++t)
      for (std::int64_t c = 0; c < k; ++c) wrong += place(t, c) != want_place(t, c);
    for (std::int64_t d = 0; d < groups * slots; ++d)
      for (std::int64_t e = 0; e < experts; ++e) {
        const auto& queue = of[static_cast<std::size_t>(d / slots * experts + e)];
        const bool filled = d % slots < std::ssize(queue);
        const auto at =
            filled ? queue[static_cast<std::size_t>(d % slots)] : std::pair<std::int64_t, std::int64_t>{-1, 0};
        wrong += source(d, e) != at.first || all(d, e) != e ||
                 slot_weight(d, e) != (filled ? weight(at.first, at.second) : T(0));
      }
    CHECK(wrong == 0);
  }
}

TEMPLATE_TEST_CASE("slots move rows of every type as plain loops do", "[slots]", WEFT_ROW_DEVICES) {
  WEFT_KERNEL_CASE(T, device);
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    Random random(seed);
    const std::int64_t tokens = random.pick({1, 3, 40}), slots = random.pick({1, 4, 9}), experts = random.pick({1, 3}),
                       width = random.pick({1, 7, 64, 72}), entries = slots * experts;
    INFO("seed " << seed << ": " << tokens << " tokens, " << slots << " slots of " << experts << ", width " << width);
    Grid<std::int32_t> row(slots, experts), source(slots, experts);
    std::int32_t next = 0;
    for (std::int64_t d = 0; d < slots; ++d)
      for (std::int64_t e = 0; e < experts; ++e) {
        row(d, e) = random.below(4) == 0 ? -1 : next++;
        source(d, e) = random.below(5) == 0 ? -1 : static_cast<std::int32_t>(random.below(tokens));
      }
    const SlotRows at{row.view(), source.view()};
    const auto rows = Grid<T>::normal(random, entries, width), dout = Grid<T>::normal(random, tokens, width);
    const auto weight = Grid<Wide<T>>::normal(random, slots, experts);
    auto out = Grid<T>::normal(random, tokens, width), dx = out, d_rows = Grid<T>::normal(random, entries, width);
    Grid<Wide<T>> d_weight(slots, experts);
    reference::Dense want_out(out.view()), want_dx(dx.view()), want_d_rows(d_rows.view()),
        want_d_weight(slots, experts);
    for (std::int64_t d = 0; d < slots; ++d)
      for (std::int64_t e = 0; e < experts; ++e)
        for (std::int64_t j = 0; j < width && row(d, e) >= 0; ++j) {
          if (source(d, e) < 0) {  // an empty slot
            want_d_rows(row(d, e), j) = 0.0;
            continue;
          }
          const double w = weight(d, e), y = rows(row(d, e), j), dy = dout(source(d, e), j);
          want_out(source(d, e), j) += w * y;
          want_dx(source(d, e), j) += y;
          want_d_rows(row(d, e), j) = w * dy;
          want_d_weight(d, e) += y * dy;
        }
    device.run(kernels::slots_scatter<T>, out.view(), constant(rows), at, constant(weight));
    device.run(kernels::slots_gather_backward<T>, dx.view(), constant(rows), at);
    device.run(kernels::slots_scatter_backward<T>, SlotsGradient<T>{d_rows.view(), d_weight.view(), at.row},
               constant(dout), constant(rows), at, constant(weight));
    CHECK(test::difference(out, want_out, entries + 1) == "");
    CHECK(test::difference(dx, want_dx, entries + 1) == "");
    CHECK(test::difference(d_rows, want_d_rows, 1) == "");
    CHECK(test::difference(d_weight, want_d_weight, width, 1.0) == "");
  }
}

TEMPLATE_TEST_CASE("normalised rows have length 1, and their gradient", "[router][gradcheck]", WEFT_F64_DEVICES) {
  WEFT_KERNEL_CASE(T, device);
  Random random(5);
  auto x = Grid<double>::normal(random, 4, 3);
  const auto dy = Grid<double>::normal(random, 4, 3);
  Grid<double> y(4, 3), dx(4, 3);
  std::vector<double> n(4);
  const auto loss = [&] {
    device.run(kernels::normalize_rows<double>, y.view(), test::Array<double>{n.data(), 4}, constant(x));
    return sum_of(y, dy);
  };
  loss();
  for (int t = 0; t < 4; ++t) CHECK(y(t, 0) * y(t, 0) + y(t, 1) * y(t, 1) + y(t, 2) * y(t, 2) == Approx(1.0));
  device.run(kernels::normalize_rows_backward<double>, dx.view(), constant(dy), constant(y),
             test::Array<const double>{n.data(), 4});
  CHECK(check(x, dx, loss) == "");
  std::fill_n(x.view().data, 12, 0.0);
  loss();
  CHECK(y(0, 0) == 0.0);  // no direction, no NaN
}

TEMPLATE_TEST_CASE("noise on logits is scaled by softplus, and leaves its slope", "[router][gradcheck]",
                   WEFT_F64_DEVICES) {
  WEFT_KERNEL_CASE(T, device);
  Random random(6);
  auto raw = Grid<double>::normal(random, 3, 4);
  const auto base = Grid<double>::normal(random, 3, 4), noise = Grid<double>::normal(random, 3, 4),
             dz = Grid<double>::normal(random, 3, 4);
  raw(0, 0) = 800.0;  // exp of it would overflow
  auto z = base, slope = noise;
  const auto loss = [&] {
    z = base;
    slope = noise;
    device.run(kernels::router_noise<double>, z.view(), slope.view(), constant(raw));
    return sum_of(z, dz);
  };
  loss();
  CHECK(z(0, 0) == Approx(base(0, 0) + noise(0, 0) * 800.0));
  Grid<double> d_raw(3, 4);
  for (int t = 0; t < 3; ++t)
    device.run(kernels::multiply<double>, test::Array<double>{d_raw.view().row(t), 4},
               test::Array<const double>{dz.view().row(t), 4}, test::Array<const double>{slope.view().row(t), 4},
               std::int64_t{4});
  raw(0, 0) = 0.5;
  loss();
  for (int t = 0; t < 3; ++t)
    device.run(kernels::multiply<double>, test::Array<double>{d_raw.view().row(t), 4},
               test::Array<const double>{dz.view().row(t), 4}, test::Array<const double>{slope.view().row(t), 4},
               std::int64_t{4});
  CHECK(check(raw, d_raw, loss) == "");
}

TEMPLATE_TEST_CASE("sigmoid weights and their gradient", "[router][gradcheck]", WEFT_F64_DEVICES) {
  WEFT_KERNEL_CASE(T, device);
  Random random(8);
  auto z = Grid<double>::normal(random, 3, 4);
  const auto dw = Grid<double>::normal(random, 3, 2);
  constexpr std::int32_t kChoice[] = {0, 3, 2, 1, 3, 0};
  const Matrix<const std::int32_t> choice(kChoice, 3, 2);
  Grid<double> w(3, 2), dz(3, 4);
  const auto loss = [&] {
    device.run(kernels::router_sigmoid<double>, w.view(), constant(z), choice);
    return sum_of(w, dw);
  };
  loss();
  CHECK(w(0, 1) == Approx(1.0 / (1.0 + std::exp(-z(0, 3)))));
  for (int t = 0; t < 3; ++t) std::fill_n(dz.view().row(t), 4, 0.0);
  device.run(kernels::router_sigmoid_backward<double>, dz.view(), constant(w), constant(dw), choice);
  CHECK(check(z, dz, loss) == "");
}

TEST_CASE("wrong shapes of slots are refused by name", "[slots]") {
  Grid<double> a(4, 2), b(3, 2);
  Grid<std::int32_t> t(4, 2);
  CHECK_THAT(error_of([&] { column_softmax_forward<double>(inline_stream(), a.view(), a.view(), a.view(), 3); }),
             Catch::Matchers::Contains("column_softmax_forward") && Catch::Matchers::Contains("multiple"));
  CHECK_THAT(error_of([&] { column_softmax_forward<double>(inline_stream(), b.view(), a.view(), a.view(), 2); }),
             Catch::Matchers::Contains("out"));
  CHECK_THAT(error_of([&] { column_logsumexp<double>(inline_stream(), b.view(), a.view(), 2); }),
             Catch::Matchers::Contains("lse"));
  CHECK_THAT(error_of([&] { column_dot<double>(inline_stream(), b.view(), a.view(), a.view(), 2); }),
             Catch::Matchers::Contains("dot"));
  CHECK_THAT(error_of([&] {
               column_softmax_backward<double>(inline_stream(), a.view(), {a.view(), a.view(), b.view()}, 2);
             }),
             Catch::Matchers::Contains("dot"));
  CHECK_THAT(
      error_of([&] {
        expert_choice<double>(inline_stream(), {t.view(), t.view(), a.view()}, b.view(), RoutingGroups::whole(1, 3));
      }),
      Catch::Matchers::Contains("expert_choice"));
  CHECK_THAT(error_of([&] {
               slots_scatter<double>(inline_stream(), a.view(), b.view(), {t.view(), t.view()}, b.view());
             }),
             Catch::Matchers::Contains("weight"));
}
