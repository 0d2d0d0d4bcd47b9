// What a top-k router does around its softmax, against plain loops.
#include "kernels/router.h"

#include <algorithm>
#include <array>

#include "kernels/slots.h"
#include "tests/kernels/device_kernels.h"

using namespace weft;
using namespace weft::kernels;
using weft::test::Array;
using weft::test::difference;
using weft::test::error_of;
using weft::test::Grid;
using weft::test::inline_stream;
using weft::test::KernelDevice;
using weft::test::Random;
using weft::test::says;
namespace reference = weft::reference;

namespace {

using Ints = std::vector<std::int32_t>;

/// K distinct experts for each row.
Ints choices_of(Random& random, std::int64_t rows, std::int64_t experts, std::int64_t k) {
  Ints out;
  for (std::int64_t t = 0; t < rows; ++t) {
    const Ints order = random.permutation(experts);
    out.insert(out.end(), order.begin(), order.begin() + k);
  }
  return out;
}

/// Rows of groups, experts, choices.
struct Case {
  explicit Case(std::uint64_t seed)
      : random(seed),
        groups(random.pick({1, 2, 3})),
        group_rows(random.pick({1, 5, 300})),
        experts(random.pick({2, 3, 8, 40})),
        k(std::min<std::int64_t>(experts, random.pick({1, 2, 3}))),
        rows(groups * group_rows),
        choice(choices_of(random, rows, experts, k)) {}
  /// More experts and choices than one block counts.
  static Case large() {
    Case c(7);
    c.groups = 2, c.group_rows = 2300, c.experts = 13000, c.k = 2, c.rows = c.groups * c.group_rows;
    c.choice.resize(static_cast<std::size_t>(c.rows * c.k));
    for (std::int32_t& e : c.choice)  // some have many, most have few
      e = static_cast<std::int32_t>(c.random.below(2) == 0 ? c.random.below(3) : c.random.below(c.experts));
    return c;
  }
  [[nodiscard]] Matrix<const std::int32_t> table() const { return {choice.data(), rows, k}; }
  [[nodiscard]] std::int32_t at(std::int64_t t, std::int64_t i) const {
    return choice[static_cast<std::size_t>(t * k + i)];
  }
  Random random;
  std::int64_t groups, group_rows, experts, k, rows;
  Ints choice;
};

/// Logits with what makes choices hard: ties, masked experts (not all), probabilities that underflow, rows with a NaN.
template <class T>
Grid<T> hard_logits(Random& random, std::int64_t rows, std::int64_t experts) {
  Grid<T> logits(rows, experts, random.below(3));
  for (std::int64_t t = 0; t < rows; ++t) {
    const bool broken = random.below(8) == 0;
    for (std::int64_t e = 0; e < experts; ++e) {
      const std::int64_t kind = random.below(12);
      logits(t, e) = kind == 0 && broken  ? std::numeric_limits<T>::quiet_NaN()
                     : kind == 1 && e > 0 ? -std::numeric_limits<T>::infinity()
                     : kind == 2          ? T(-2000)
                     : kind < 8           ? static_cast<T>(random.below(3))
                                          : static_cast<T>(random.normal());
    }
  }
  return logits;
}

/// The weights of the choices by plain loops.
template <class T>
reference::Dense weights_of(Grid<T>& probs, Grid<T>& logits, const Ints& expert, std::int64_t k,
                            RouterWeighting weighting) {
  reference::Dense want(probs.rows(), k);
  for (std::int64_t t = 0; t < want.rows; ++t) {
    double sum = 0.0;
    for (std::int64_t i = 0; i < k; ++i) {
      const std::int32_t e = expert[static_cast<std::size_t>(t * k + i)];
      sum += static_cast<double>(probs(t, e));
      want(t, i) = weighting == RouterWeighting::kSigmoid ? 1.0 / (1.0 + std::exp(-static_cast<double>(logits(t, e))))
                                                          : static_cast<double>(probs(t, e));
    }
    for (std::int64_t i = 0; i < k && weighting == RouterWeighting::kRenormalized; ++i) want(t, i) /= sum;
  }
  return want;
}

template <class T>
void check_route(KernelDevice& device, Random& random, std::int64_t rows, std::int64_t experts, std::int64_t k) {
  using enum RouterWeighting;
  auto logits = hard_logits<T>(random, rows, experts);
  const RouterWeighting weighting =
      std::array{kProbability, kRenormalized, kSigmoid}[static_cast<std::size_t>(random.below(3))];
  INFO("T " << rows << " E " << experts << " K " << k << " weighting " << static_cast<int>(weighting));
  Grid<T> probs(rows, experts, random.below(3)), lse(1, rows), weight(rows, k, random.below(3));
  Ints expert(static_cast<std::size_t>(rows * k), -7), want;
  device.run(kernels::route_top_k<T>,
             RoutedRows<T>{probs.view(), lse.view().data, {expert.data(), rows, k}, weight.view()},
             Matrix<const T>(logits.view()), weighting);
  const auto softmax = reference::softmax(reference::Dense(logits.view()));
  CHECK(difference(probs, softmax.probs, experts) == "");
  CHECK(difference<T>({lse.view().data, softmax.lse.size()}, softmax.lse, experts, 1.0) == "");
  for (const auto& row : reference::top_k(reference::Dense(probs.view()), k))
    want.insert(want.end(), row.begin(), row.end());
  CHECK(expert == want);
  if (expert == want) CHECK(difference(weight, weights_of(probs, logits, expert, k, weighting), k) == "");
}

}  // namespace

TEMPLATE_TEST_CASE("routing: softmax, the K best with ties to the lower expert and NaN last, their weights", "[router]",
                   WEFT_KERNEL_DEVICES) {
  WEFT_KERNEL_CASE(T, device);
  for (std::uint64_t seed = 0; seed < 200; ++seed) {
    Random random(seed);
    INFO("seed " << seed);
    const std::int64_t rows = random.pick({0, 1, 9, 40}), experts = random.pick({1, 2, 5, 8, 60, 256});
    check_route<T>(device, random, rows, experts, random.below(std::min<std::int64_t>(experts, 40) + 1));
  }
  Random random(1);
  for (const std::int64_t experts : {3000, 5000, 13000}) check_route<T>(device, random, 5, experts, 3);
}

namespace {

void check_capacity(KernelDevice& device, const Case& c, std::int64_t capacity) {
  INFO(c.groups << " groups of " << c.group_rows << ", E " << c.experts << ", K " << c.k << ", C " << capacity);
  Ints want(c.choice.size(), -1), kept(c.choice.size(), -9);
  std::vector<double> count(static_cast<std::size_t>(c.groups * c.experts), 0.0), got(count.size(), -9.0);
  for (std::int64_t g = 0; g < c.groups; ++g) {
    std::vector<std::int64_t> used(static_cast<std::size_t>(c.experts), 0);
    for (std::int64_t i = 0; i < c.k; ++i)
      for (std::int64_t t = g * c.group_rows; t < (g + 1) * c.group_rows; ++t) {
        const std::int32_t e = c.at(t, i);
        if (capacity > 0 && used[static_cast<std::size_t>(e)] == capacity) continue;
        ++used[static_cast<std::size_t>(e)];
        want[static_cast<std::size_t>(t * c.k + i)] = e;
        count[static_cast<std::size_t>(g * c.experts + e)] += 1.0;
      }
  }
  device.run(kernels::router_drop, Matrix<std::int32_t>(kept.data(), c.rows, c.k), c.table(), c.experts,
             RoutingGroups::whole(c.group_rows, c.rows), capacity);
  CHECK(kept == want);
  device.run(kernels::router_count, Matrix<double>(got.data(), c.groups, c.experts),
             Matrix<const std::int32_t>(kept.data(), c.rows, c.k));
  CHECK(got == count);
}

}  // namespace

TEMPLATE_TEST_CASE("capacity drops by (choice, row) in each group, and choices are counted", "[router]",
                   WEFT_F32_DEVICES) {
  WEFT_KERNEL_CASE(T, device);
  for (std::uint64_t seed = 0; seed < 30; ++seed) {
    Case c(seed);
    INFO("seed " << seed);
    check_capacity(device, c, c.random.pick({0, 1, 2, 50}));
  }
  check_capacity(device, Case::large(), 20);
}

TEMPLATE_TEST_CASE("groups whose rows lie on several ranks drop as they do in order", "[router]", WEFT_F32_DEVICES) {
  WEFT_KERNEL_CASE(T, device);
  for (std::uint64_t seed = 0; seed < 40; ++seed) {
    Random random(seed);
    const std::int64_t ranks = random.pick({1, 2, 3, 4}), share = random.pick({1, 3, 40}),
                       sequences = random.pick({1, 2, 4}), of_group = sequences % 2 == 0 ? random.pick({1, 2}) : 1,
                       experts = random.pick({2, 5, 33}), k = random.pick({1, 2}), length = ranks * share,
                       rows = sequences * share, capacity = random.pick({0, 1, 3, 30});
    INFO("seed " << seed << ": " << ranks << " ranks, " << sequences << " sequences of " << length << ", " << of_group
                 << " a group, E " << experts << ", K " << k << ", C " << capacity);
    // of each sequence, the ranks hold any rows in any order; the micro-batch has other rows around these
    const std::int64_t before = random.below(3), stride = before + rows + random.below(3);
    Ints places(static_cast<std::size_t>(ranks * stride), -5), want_order(static_cast<std::size_t>(ranks * rows), -1),
        order(want_order);
    for (std::int64_t s = 0; s < sequences; ++s) {
      const Ints any = random.permutation(length);
      for (std::int64_t i = 0; i < length; ++i) {
        const std::int64_t r = i / share, t = s * share + i % share;
        places[static_cast<std::size_t>(r * stride + before + t)] = any[static_cast<std::size_t>(i)];
        want_order[static_cast<std::size_t>(s * length + any[static_cast<std::size_t>(i)])] =
            static_cast<std::int32_t>(r * rows + t);
      }
    }
    device.run(kernels::order_rows, Array<std::int32_t>{order.data(), ranks * rows},
               Matrix<const std::int32_t>(places.data() + before, ranks, rows, stride), share);
    CHECK(order == want_order);
    const Ints choice = choices_of(random, ranks * rows, experts, k);  // by rank
    Ints in_order, dropped(choice.size()), want(choice.size()), kept(choice.size(), -9);
    for (const std::int32_t t : want_order)
      for (std::int64_t i = 0; i < k; ++i) in_order.push_back(choice[static_cast<std::size_t>(t * k + i)]);
    router_drop(inline_stream(), {dropped.data(), ranks * rows, k},
                Matrix<const std::int32_t>(in_order.data(), ranks * rows, k), experts,
                RoutingGroups::whole(of_group * length, ranks * rows), capacity);
    for (std::size_t i = 0; i < want_order.size(); ++i)
      std::copy_n(dropped.data() + static_cast<std::int64_t>(i) * k, k, want.data() + want_order[i] * k);
    for (std::int64_t r = 0; r < ranks; ++r)
      device.run(kernels::router_drop, Matrix<std::int32_t>(kept.data() + r * rows * k, rows, k),
                 Matrix<const std::int32_t>(choice.data(), ranks * rows, k), experts,
                 test::Groups{{of_group * length, order.data(), r * rows, rows}, ranks * rows}, capacity);
    CHECK(kept == want);
  }
}

TEMPLATE_TEST_CASE("mean probabilities and fractions of groups", "[router]", WEFT_KERNEL_DEVICES) {
  WEFT_KERNEL_CASE(T, device);
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    Case c(seed);
    const auto probs = Grid<T>::normal(c.random, c.rows, c.experts, 1);
    Grid<double> mean(c.groups, c.experts, 1), count(seed % 2 == 0 ? c.groups : 1, c.experts),
        fraction(c.groups, c.experts, 2);
    reference::Dense want(c.groups, c.experts), want_fraction(c.groups, c.experts);
    for (std::int64_t t = 0; t < c.rows; ++t)
      for (std::int64_t e = 0; e < c.experts; ++e)
        want(t / c.group_rows, e) += 0.5 * static_cast<double>(probs(t, e)) / double(c.group_rows);
    device.run(kernels::router_mean_probs<T>, mean.view(), Matrix<const T>(probs.view()), 0.5);
    CHECK(difference(mean, want, c.group_rows) == "");
    for (std::int64_t g = 0; g < count.rows(); ++g)
      for (std::int64_t e = 0; e < c.experts; ++e) count(g, e) = g == 1 ? 0.0 : double(c.random.below(9) + 1);
    for (std::int64_t g = 0; g < c.groups; ++g) {
      const std::int64_t from = count.rows() == 1 ? 0 : g;
      double sum = 0.0;
      for (std::int64_t e = 0; e < c.experts; ++e) sum += count(from, e);
      for (std::int64_t e = 0; e < c.experts; ++e) want_fraction(g, e) = sum > 0.0 ? count(from, e) / sum : 0.125;
    }
    device.run(kernels::router_fractions, fraction.view(), Matrix<const double>(count.view()), 0.125);
    CHECK(difference(fraction, want_fraction, 1) == "");
  }
}

TEMPLATE_TEST_CASE("the gradient of router weights, balance loss and z-loss", "[router]", WEFT_KERNEL_DEVICES) {
  WEFT_KERNEL_CASE(T, device);
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    Case c(seed);
    const bool renormalize = seed % 2 == 0, balances = seed % 3 != 0;
    Grid<T> probs(c.rows, c.experts), weight(c.rows, c.k);
    for (std::int64_t t = 0; t < c.rows; ++t)
      for (std::int64_t e = 0; e < c.experts; ++e) probs(t, e) = static_cast<T>(0.1 + c.random.uniform());
    for (std::int64_t t = 0; t < c.rows; ++t) {
      T sum = 0;
      for (std::int64_t i = 0; i < c.k; ++i) sum += weight(t, i) = probs(t, c.at(t, i));
      for (std::int64_t i = 0; i < c.k && renormalize; ++i) weight(t, i) /= sum;
    }
    const auto d_weight = Grid<T>::normal(c.random, c.rows, c.k, 1);
    const auto fraction = Grid<double>::normal(c.random, c.groups, c.experts, 1);
    Grid<T> got(c.rows, c.experts, 1);
    const RouterGradient<T> in{
        probs.view(), c.table(),  weight.view(), d_weight.view(), balances ? fraction.view() : Matrix<const double>(),
        0.7,          renormalize};
    device.run(kernels::router_backward<T>, got.view(), in);
    reference::Dense want(c.rows, c.experts);
    for (std::int64_t t = 0; t < c.rows; ++t) {
      double sum = 0.0, dot = 0.0;
      for (std::int64_t i = 0; i < c.k; ++i) {
        sum += static_cast<double>(probs(t, c.at(t, i)));
        dot += static_cast<double>(d_weight(t, i)) * static_cast<double>(weight(t, i));
      }
      for (std::int64_t e = 0; e < c.experts && balances; ++e) want(t, e) = 0.7 * fraction(t / c.group_rows, e);
      for (std::int64_t i = 0; i < c.k; ++i) {
        const auto dw = static_cast<double>(d_weight(t, i));
        want(t, c.at(t, i)) += renormalize ? (dw - dot) / sum : dw;
      }
    }
    CHECK(difference(got, want, 8, 1.0) == "");  // with one choice a weight is 1, and its gradient cancels

    const auto lse = c.random.normals<T>(c.rows);
    auto dz = Grid<T>::normal(c.random, c.rows, c.experts, 1);
    reference::Dense z(dz.view());
    for (std::int64_t t = 0; t < c.rows; ++t)
      for (std::int64_t e = 0; e < c.experts; ++e)
        z(t, e) += 0.3 * static_cast<double>(lse[static_cast<std::size_t>(t)]) * static_cast<double>(probs(t, e));
    device.run(kernels::router_z_backward<T>, dz.view(), Matrix<const T>(probs.view()),
               Array<const T>{lse.data(), c.rows}, 0.3);
    CHECK(difference(dz, z, 3) == "");
  }
}

TEMPLATE_TEST_CASE("noise is the generator's, by sample and place", "[router]", WEFT_KERNEL_DEVICES) {
  WEFT_KERNEL_CASE(T, device);
  const Rng rng(7, RngPurpose::kGateNoise, 3, 1);
  constexpr std::int64_t kRows = 40, kExperts = 5;
  Grid<T> noise(kRows, kExperts, 1);
  const PhiloxKey key = rng.key();
  device.run(kernels::router_draw<T>, noise.view(), Array<const PhiloxKey>{&key, 1},
             NoiseRows{nullptr, nullptr, 12, 8});
  reference::Dense want(kRows, kExperts);
  for (std::int64_t t = 0; t < kRows; ++t)
    for (std::int64_t e = 0; e < kExperts; ++e)
      want(t, e) =
          rng.normal(static_cast<std::uint64_t>((12 + t) / 8), static_cast<std::uint64_t>((12 + t) % 8 * kExperts + e));
  CHECK(difference(noise, want, 4) == "");
}

TEMPLATE_TEST_CASE("a learned temperature divides, and products are summed", "[router]", WEFT_KERNEL_DEVICES) {
  WEFT_KERNEL_CASE(T, device);
  for (const std::int64_t n : {0, 1, 33, 700}) {
    Random random(static_cast<std::uint64_t>(n));
    const auto x = random.normals<T>(n), y = random.normals<T>(n);
    const T theta = T(0.4);
    std::vector<T> z(x.size());
    reference::Reals want;
    double dot = 0.0;
    for (std::size_t i = 0; i < x.size(); ++i) {
      want.push_back(2.5 * std::exp(-static_cast<double>(theta)) * static_cast<double>(x[i]));
      dot += static_cast<double>(x[i]) * static_cast<double>(y[i]);
    }
    device.run(kernels::router_temperature<T>, Array<T>{z.data(), n}, Array<const T>{x.data(), n}, n,
               Array<const T>{&theta, 1}, 2.5);
    CHECK(difference(z, want, 4) == "");
    T got = T(1.5);
    inner_product<T>(device, &got, x.data(), y.data(), n, T(-2), Accumulate::kAdd);
    CHECK(static_cast<double>(got) == Approx(1.5 - 2.0 * dot).margin(std::is_same_v<T, float> ? 1e-4 : 1e-12));
    inner_product<T>(device, &got, x.data(), y.data(), n, T(1), Accumulate::kOverwrite);
    CHECK(static_cast<double>(got) == Approx(dot).margin(std::is_same_v<T, float> ? 1e-4 : 1e-12));
  }
}

TEMPLATE_TEST_CASE("slots: gradient of the choice, experts kept, logsumexps merged", "[slots]", WEFT_KERNEL_DEVICES) {
  WEFT_KERNEL_CASE(T, device);
  const Ints source = {0, 4, 2, 1, 3, 0}, kept = {0, 1, -1, 1, 0, -1};
  Random random(4);
  const auto d_weight = Grid<T>::normal(random, 3, 2);
  Grid<T> d_scores(5, 2, 1);
  device.run(kernels::expert_choice_backward<T>, d_scores.view(),
             SlotTable<const T>{{source.data(), 3, 2}, {kept.data(), 3, 2}, d_weight.view()});
  reference::Dense want(5, 2);
  for (std::int64_t d = 0; d < 3; ++d)
    for (std::int64_t e = 0; e < 2; ++e)
      if (kept[static_cast<std::size_t>(2 * d + e)] >= 0)
        want(source[static_cast<std::size_t>(2 * d + e)], e) = static_cast<double>(d_weight(d, e));
  CHECK(difference(d_scores, want, 0) == "");

  Ints table(12, -9);
  device.run(kernels::keep_experts, Matrix<std::int32_t>(table.data(), 3, 4), std::int64_t{1}, std::int64_t{3});
  CHECK(table == Ints{-1, 1, 2, -1, -1, 1, 2, -1, -1, 1, 2, -1});

  const auto parts = Grid<T>::normal(random, 3, 70);
  std::vector<T> lse(70);
  device.run(kernels::merge_logsumexp<T>, Array<T>{lse.data(), 70}, Matrix<const T>(parts.view()));
  reference::Reals merged;
  for (std::int64_t i = 0; i < 70; ++i) {
    double sum = 0.0;
    for (std::int64_t r = 0; r < 3; ++r) sum += std::exp(static_cast<double>(parts(r, i)));
    merged.push_back(std::log(sum));
  }
  CHECK(difference(lse, merged, 4) == "");
}

TEST_CASE("wrong shapes of routers are refused by name", "[router]") {
  Stream& s = inline_stream();
  Grid<float> a(4, 2), b(3, 2);
  Grid<double> counts(3, 2);
  Grid<std::int32_t> t(4, 2), u(3, 2);
  const auto route = [&](RoutedRows<float> out, Matrix<const float> logits) {
    return error_of([&] { route_top_k<float>(s, out, logits, RouterWeighting::kProbability); });
  };
  Grid<float> lse(1, 4);
  float* const n = lse.view().data;
  CHECK_THAT(route({a.view(), n, t.view(), a.view()}, {nullptr, 4, 2}), says("route_top_k", "logits is null"));
  CHECK_THAT(route({b.view(), n, t.view(), a.view()}, a.view()), says("route_top_k", "probs is"));
  CHECK_THAT(route({a.view(), nullptr, t.view(), a.view()}, a.view()), says("route_top_k", "lse is"));
  CHECK_THAT(route({a.view(), n, u.view(), a.view()}, a.view()), says("route_top_k", "expert is"));
  CHECK_THAT(route({a.view(), n, t.view(), b.view()}, a.view()), says("route_top_k", "weight is"));
  Grid<float> one(4, 1);
  CHECK_THAT(route({one.view(), n, t.view(), a.view()}, one.view()), says("route_top_k", "2 choices among 1"));
  CHECK_THAT(error_of([&] { router_drop(s, u.view(), t.view(), 2, RoutingGroups::whole(4, 4), 1); }),
             says("router_drop", "kept is"));
  CHECK_THAT(error_of([&] { router_drop(s, t.view(), t.view(), 2, RoutingGroups::whole(3, 4), 1); }),
             says("router_drop", "multiple"));
  CHECK_THAT(error_of([&] {
               router_drop(s, u.view(), t.view(), 2, {4, nullptr, 2, 3}, 1);
             }),
             says("router_drop", "rows 2 to 5 of 4"));
  CHECK_THAT(error_of([&] { order_rows(s, t.view().data, t.view(), 3); }), says("order_rows", "2 rows"));
  CHECK_THAT(error_of([&] { order_rows(s, nullptr, t.view(), 1); }), says("order_rows", "order is null"));
  CHECK_THAT(error_of([&] { router_count(s, counts.view(), t.view()); }), says("router_count", "4 rows in 3 groups"));
  CHECK_THAT(error_of([&] { router_fractions(s, counts.view(), Grid<double>(2, 2).view(), 0.0); }),
             says("router_fractions", "count is"));
  CHECK_THAT(error_of([&] { router_sigmoid<float>(s, b.view(), a.view(), t.view()); }),
             says("router_sigmoid", "weight is"));
  CHECK_THAT(error_of([&] { normalize_rows<float>(s, b.view(), b.view().data, a.view()); }),
             says("normalize_rows", "y is"));
}
