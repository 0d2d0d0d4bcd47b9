#include <cmath>
#include <optional>
#include <string>

#include "core/atomic_file.h"
#include "core/error.h"
#include "tests/support/catch.h"
#include "tests/support/errors.h"
#include "tests/support/temp_folder.h"
#include "tools/config/schedule_files.h"

using namespace weft;
using namespace weft::scheduler;
using namespace weft::tools;

namespace {

/// A model as a profile has it: two kinds, two families, contention.
CostModel profile() {
  CostModel model;
  model.source = "made up";
  model.add(
      KindFit{WorkKind::kAllToAll, LinkClass::kIntra, false, {{200.0, 1e-4}, 0.98, {{1, 1024, 210}, {1, 4e6, 600}}}});
  model.add(KindFit{WorkKind::kMemory, LinkClass::kIntra, true, {{3.0, 1e-5}, 0.2, {{1, 512, 3.1}}}});
  FamilyKey expert{WorkKind::kGroupedGemm, LinkClass::kIntra, Stage::kExpert, Phase::kBackward, ""};
  model.add(Family{expert, {{50.0, 1.25e-5}, 0.999, {{1, 1e6, 62.5}, {2, 1e6, 112.5}}}});
  expert.label = "dW";
  model.add(Family{expert, {{7.0, 0.0}, std::nullopt, {{1, 5.0, 7.0}}}});
  model.machine.contention[0][1] = 1.25;
  model.machine.contention[1][0] = 3.5;
  model.machine.issue_us = 4.5;
  model.machine.host_apart = true;
  model.machine.ranks_per_core = 2.0;
  model.cta_samples = {{LinkClass::kIntra, 0, 210.5, 800, 905}, {LinkClass::kInter, 16, 3.25e3, 801, 3.5e3}};
  return model;
}

std::string text() {
  return costs_to_text(profile(), {1.0, 1.5, 1.25},
                       Measurement{"0.1", "2026-01-01T00:00:00Z", {"a", "b"}, 8, 4, 2.0, 3});
}

std::string replaced(std::string s, const std::string& from, const std::string& to) {
  const auto at = s.find(from);
  REQUIRE(at != std::string::npos);
  return s.replace(at, from.size(), to);
}

/// The message of the Error that reading `content` ends in.
std::string refusal(const std::string& content, double min_r_squared = kMinRSquared) {
  const Error e = test::error_of([&] { static_cast<void>(costs_from_text(content, "p.textproto", min_r_squared)); });
  CHECK(e.code() == ErrorCode::kInvalidArgument);
  return e.message();
}

}  // namespace

TEST_CASE("A profile reads back as it was written", "[costs]") {
  const CostModel a = profile(), b = costs_from_text(text(), "p.textproto");
  CHECK(b.measured);
  CHECK(b.source == a.source);
  CHECK(b.intra == a.intra);
  CHECK(b.machine == a.machine);
  CHECK(b.cta_samples == a.cta_samples);
  CHECK(b.imbalance == 1.0);
  REQUIRE(b.families().size() == a.families().size());
  for (std::size_t i = 0; i < a.families().size(); ++i) {
    CHECK(b.families()[i].key == a.families()[i].key);
    CHECK(b.families()[i].fit.cost == a.families()[i].fit.cost);
    CHECK(b.families()[i].fit.r_squared == a.families()[i].fit.r_squared);
    CHECK(b.families()[i].fit.samples == a.families()[i].fit.samples);
  }
  REQUIRE(b.kinds().size() == 2);
  CHECK(b.kinds()[1].pooled);
  CHECK(b.kinds()[0].fit.samples == a.kinds()[0].fit.samples);
}

TEST_CASE("A profile of other ranks, another kind of device or another dtype is used with a warning", "[costs]") {
  const test::TempFolder folder;
  parallel::RunConfig config;
  CHECK(profile_warning(config, 1, 1, DeviceKind::kCpu).empty());
  config.schedule.profile = (folder.path() / "p.textproto").string();
  const auto write = [&](const Measurement& measured) {
    write_file(config.schedule.profile, costs_to_text(profile(), {}, measured));
  };
  Measurement measured{.ranks = 8, .ranks_per_node = 4, .device = DeviceKind::kCuda, .device_name = "a GPU"};
  write(measured);
  CHECK(read_file(config.schedule.profile).find("device_name: \"a GPU\"") != std::string::npos);
  CHECK(profile_warning(config, 8, 4, DeviceKind::kCuda).empty());
  CHECK(profile_warning(config, 8, 4, std::nullopt).empty());
  CHECK_THAT(
      profile_warning(config, 8, 4, DeviceKind::kCpu),
      Catch::Contains("measured on 8 ranks, 4 a node, on GPUs, in F32; here are 8 ranks, 4 a node, on CPUs, in F32"));
  CHECK_THAT(profile_warning(config, 2, 2, std::nullopt), Catch::Contains("here are 2 ranks, 2 a node, on GPUs"));
  measured.device = DeviceKind::kCpu;
  write(measured);
  CHECK(profile_warning(config, 8, 4, DeviceKind::kCpu).empty());
  CHECK_THAT(profile_warning(config, 8, 4, DeviceKind::kCuda), Catch::Contains("here are 8 ranks, 4 a node, on GPUs"));
  for (const DType dtype : {DType::kF32, DType::kF64, DType::kBF16}) {
    measured.dtype = dtype;
    write(measured);
    config.train.dtype = dtype;
    CHECK(profile_warning(config, 8, 4, DeviceKind::kCpu).empty());
    config.train.dtype = dtype == DType::kBF16 ? DType::kF32 : DType::kBF16;
    CHECK_THAT(profile_warning(config, 8, 4, DeviceKind::kCpu),
               Catch::Contains(str("on CPUs, in ", to_string(dtype), "; here")) &&
                   Catch::Contains(str("on CPUs, in ", to_string(config.train.dtype), ", whose")));
  }
  const std::string without = replaced(read_file(config.schedule.profile), "dtype: BF16", "");  // of an older weft
  write_file(config.schedule.profile, without);
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    config.train.dtype = dtype;
    CHECK(profile_warning(config, 8, 4, DeviceKind::kCpu).empty());
  }
}

TEST_CASE("An inconsistent profile is refused by the family's name", "[costs]") {
  CHECK_THAT(refusal(replaced(text(), "ranks_per_core: 2", "ranks_per_core: 0.5")), Catch::Contains("ranks_per_core"));
  CHECK_THAT(refusal(replaced(text(), "beta_us: 1.25e-05", "beta_us: -1.25e-05")),
             Catch::Contains("p.textproto: expert(backward), grouped_gemm: beta_us is -1.25e-05"));
  CHECK_THAT(refusal(replaced(text(), "r_squared: 0.999", "r_squared: 0.3")),
             Catch::Contains("expert(backward), grouped_gemm: R squared is 0.3, under 0.5"));
  CHECK(costs_from_text(replaced(text(), "r_squared: 0.999", "r_squared: 0.3"), "p", 0.25).measured);
  CHECK_THAT(refusal(text(), 0.99),
             Catch::Contains("all_to_all intra: R squared is 0.98"));  // pooled ones are not judged
  CHECK_THAT(refusal(replaced(text(), "r_squared: 0.999", "r_squared: nan")), Catch::Contains("R squared is nan"));
  CHECK_THAT(refusal(replaced(text(), "alpha_us: 200", "alpha_us: nan")),
             Catch::Contains("all_to_all intra: alpha_us"));
  CHECK_THAT(refusal(replaced(text(), "label: \"dW\"", "label: \"\"")),
             Catch::Contains("two entries for the family expert(backward), grouped_gemm"));
  CHECK_THAT(refusal(replaced(text(), "stage: \"expert\"", "stage: \"experts\"")), Catch::Contains("'experts'"));
  CHECK_THAT(refusal(replaced(text(), "factor: 1.25", "factor: 0.5")), Catch::Contains("contention"));
  CHECK_THAT(refusal(text() + "cost { work: MEMORY }"), Catch::Contains("two costs for memory"));
}

TEST_CASE("Budgets of CTAs that make no sense are refused", "[costs]") {
  CHECK_THAT(refusal(replaced(text(), "ctas: 16", "ctas: 65")), Catch::Contains("cta_budget of 65 CTAs, inter"));
  CHECK_THAT(refusal(replaced(text(), "ctas: 16", "ctas: -1")), Catch::Contains("cta_budget of -1 CTAs, inter"));
  CHECK_THAT(refusal(replaced(text(), "collective_us: 210.5", "collective_us: 0")),
             Catch::Contains("cta_budget of 0 CTAs, intra: a time of 0 us"));
  CHECK_THAT(refusal(replaced(text(), "overlapped_us: 905", "overlapped_us: nan")), Catch::Contains("a time of nan"));
  CHECK_THAT(refusal(replaced(text(), "product_us: 801", "product_us: inf")), Catch::Contains("a time of inf"));
  const std::string one = "cta_budget { link: INTER ctas: 16 collective_us: 1 product_us: 1 overlapped_us: 1 }";
  CHECK_THAT(refusal(text() + one), Catch::Contains("cta_budget of 16 CTAs, inter is given twice"));
  CHECK_THAT(refusal(text() + replaced(one, "INTER", "BOTH")), Catch::Contains("cta_budget of 16 CTAs, both"));
}

TEST_CASE("A file written by hand prices every kind of work", "[costs]") {
  CHECK_THAT(refusal("cost { work: GEMM alpha_us: 1 }"), Catch::Contains("no cost for grouped_gemm"));
  const CostModel nominal = nominal_costs();
  CHECK(!nominal.measured);
  CHECK(nominal.families().empty());
  CHECK(nominal.machine == Machine{});
}

TEST_CASE("Contention given one way holds both ways", "[costs]") {
  const std::string one = "measured {} contention { a: COMPUTE b: INTRA_STREAM factor: 2 }";
  const CostModel model = costs_from_text(one, "p");
  CHECK(model.machine.contention[0][1] == 2.0);
  CHECK(model.machine.contention[1][0] == 2.0);
  for (const bool mirrored_first : {false, true}) {
    const std::string other = "contention { a: INTRA_STREAM b: COMPUTE factor: 3 }";
    const CostModel both = costs_from_text(mirrored_first ? other + one : one + other, "p");
    CHECK(both.machine.contention[0][1] == 2.0);
    CHECK(both.machine.contention[1][0] == 3.0);
  }
}

TEST_CASE("Imbalance is a quantile of the observed loads over their median", "[costs]") {
  CHECK(costs_from_text(text() + "imbalance_quantile: 1", "p").imbalance == Approx(1.5 / 1.25));
  CHECK(costs_from_text("measured {} imbalance: 1.75", "p").imbalance == 1.75);
  CHECK_THAT(refusal(text() + "imbalance: 2 imbalance_quantile: 1"), Catch::Contains("imbalance_quantile"));
  CHECK_THAT(refusal("measured {} imbalance_quantile: 1"), Catch::Contains("rank_load"));
}

TEST_CASE("Fits that planning refuses are named, the worst first, with a limit low enough for all", "[costs]") {
  const std::string poor =
      replaced(replaced(text(), "r_squared: 0.999", "r_squared: -0.316"), "r_squared: 0.98", "r_squared: 0.42");
  const CostModel model = costs_from_text(poor, "p", -1.0);
  const std::vector<PoorFit> found = poor_fits(model, 0.5);
  REQUIRE(found.size() == 2);  // not the pooled one
  CHECK(found[0].name == "expert(backward), grouped_gemm");
  CHECK(found[0].r_squared == -0.316);
  CHECK(found[1].name == "all_to_all intra");
  CHECK(poor_fits(model, 0.42).size() == 1);
  const std::string hint = hint_for(found), option = "schedule.profile_min_r_squared=";
  const std::size_t at = hint.find(option);
  REQUIRE(at != std::string::npos);
  const double limit = std::stod(hint.substr(at + option.size()));
  CHECK(limit == Approx(-0.32));
  CHECK(poor_fits(costs_from_text(poor, "p", limit), limit).empty());
  CHECK_THAT(refusal(poor), Catch::Contains("R squared is -0.316, under 0.5 (and 1 more)"));
  CHECK_THAT(hint_for({{"a", std::nan("")}}), !Catch::Contains(option));
}

TEST_CASE("Refitted costs read back, from a profile and from nominal costs", "[costs]") {
  CostModel model = profile();
  model.imbalance = 1.25;
  const CostModel again = costs_from_text(costs_to_text(model, {}, Measurement{}), "p");
  CHECK(again.measured);
  CHECK(again.imbalance == 1.25);
  CostModel nominal = nominal_costs();
  nominal.source = "measured steps of this run up to step 20";
  nominal.add(model.families().front());
  const CostModel back = costs_from_text(costs_to_text(nominal, {}, std::nullopt), "p");
  CHECK(!back.measured);
  CHECK(back.source == nominal.source);
  CHECK(back.intra == nominal.intra);
  CHECK(back.inter == nominal.inter);
  REQUIRE(back.families().size() == 1);
  CHECK(back.families().front().fit.cost == model.families().front().fit.cost);
}
