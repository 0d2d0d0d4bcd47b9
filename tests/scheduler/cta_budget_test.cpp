// tests/scheduler/cta_budget_test.cpp - the budget that figures of a profile lead to.
#include "scheduler/cta_budget.h"

#include <algorithm>
#include <random>
#include <vector>

#include "tests/support/catch.h"
#include "tests/support/draw.h"

using namespace weft;
using namespace weft::scheduler;

namespace {

constexpr LinkClass kIntra = LinkClass::kIntra, kInter = LinkClass::kInter;

/// Products of 1000 us: few CTAs make the all-to-alls slow, many make the products slow.
std::vector<CtaSample> typical(LinkClass link) {
  return {{link, 0, 300, 1000, 1240}, {link, 2, 1600, 1000, 1700}, {link, 4, 800, 1000, 1050},
          {link, 8, 400, 1000, 1060}, {link, 16, 220, 1000, 1090}, {link, 32, 200, 1000, 1300}};
}

std::vector<CtaSample> random_samples(test::Draw& d) {
  std::vector<CtaSample> out;
  for (const LinkClass link : {kIntra, kInter})
    for (const int ctas : {0, 2, 4, 8, 16, 32})
      if (d.below(2) == 0) out.push_back({link, ctas, d.real(1, 1000), 1000, d.real(500, 2000)});
  return out;
}

}  // namespace

TEST_CASE("The budget that loses the least time is chosen", "[ctas]") {
  CHECK(loss_us(typical(kIntra)[1]) == 2300.0);  // 1600 alone, 700 longer than the products beside them
  CHECK(choose_ctas(typical(kIntra), kIntra) == 16);
  std::vector<CtaSample> samples = typical(kInter);
  samples[4].overlapped_us = 1500;  // 16 CTAs: as fast, but they hold the products up
  CHECK(choose_ctas(samples, kInter) == 8);
  samples[3].collective_us = 900;  // 8 CTAs: what is not hidden would be slow; NCCL's own is as good as any
  CHECK(choose_ctas(samples, kInter) == 0);
}

TEST_CASE("Of budgets that lose as much, NCCL's own goes first, then the fewest CTAs", "[ctas]") {
  std::vector<CtaSample> samples{
      {kIntra, 32, 400, 1000, 1100}, {kIntra, 8, 410, 1000, 1110}, {kIntra, 16, 405, 1000, 1100}};
  CHECK(choose_ctas(samples, kIntra) == 8);
  samples.push_back({kIntra, 0, 420, 1000, 1120});
  CHECK(choose_ctas(samples, kIntra) == 0);
  samples.back().collective_us = 500;  // by more than 2 % of the layer's 2500 us
  CHECK(choose_ctas(samples, kIntra) == 8);
}

TEST_CASE("What was not measured is NCCL's own choice", "[ctas]") {
  CHECK(choose_ctas({}, kIntra) == 0);
  CHECK(choose_ctas(typical(kInter), kIntra) == 0);
  CHECK(choose_ctas(std::vector<CtaSample>{{kIntra, 4, 1, 1, 1}}, kIntra) == 4);
}

TEST_CASE("The choice is one of the samples and within its margin, whatever their order, their unit and other links",
          "[ctas]") {
  for (std::uint64_t seed = 0; seed < 300; ++seed) {
    test::Draw d(seed, 41);
    std::vector<CtaSample> samples = random_samples(d);
    INFO("seed " << seed << ", " << samples.size() << " samples");
    for (const LinkClass link : {kIntra, kInter}) {
      std::vector<CtaSample> here;
      for (const CtaSample& s : samples)
        if (s.link == link) here.push_back(s);
      const int ctas = choose_ctas(samples, link);
      CHECK(choose_ctas(here, link) == ctas);
      if (here.empty()) continue;
      const auto chosen = std::find_if(here.begin(), here.end(), [&](const CtaSample& s) { return s.ctas == ctas; });
      REQUIRE(chosen != here.end());
      for (const CtaSample& s : here) {
        CHECK(loss_us(*chosen) <= loss_us(s) + 0.02 * (s.collective_us + s.overlapped_us + s.product_us));
        if (s.ctas < ctas) CHECK(loss_us(s) > loss_us(*chosen));  // fewer CTAs must lose more
      }
      std::shuffle(here.begin(), here.end(), std::mt19937_64(seed));
      CHECK(choose_ctas(here, link) == ctas);
      for (CtaSample& s : here) s.collective_us *= 1e3, s.product_us *= 1e3, s.overlapped_us *= 1e3;
      CHECK(choose_ctas(here, link) == ctas);
    }
  }
}
