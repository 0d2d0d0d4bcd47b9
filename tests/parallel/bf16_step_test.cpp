// Training in BF16: gradients and losses near those of F64, the same in every layout, the same bits twice, and
// checkpoints that hold the F32 master weights.
#include <cmath>

#include "comm/factory.h"
#include "tests/support/catch.h"
#include "tests/support/devices.h"
#include "tests/support/gates.h"
#include "tests/support/gradient_probe.h"
#include "tests/support/step_harness.h"
#include "tests/support/training.h"

using namespace weft;
using namespace weft::parallel;
using test::StepCase;
using test::StepOutcome;

namespace {

struct Gradients {
  double loss = 0.0;
  std::vector<std::pair<std::string, std::vector<double>>> of;  // by tensor
};

template <class T>
Gradients gradients(const ModelConfig& model, const ShapeOptions& shape) {
  Gradients out;
  comm::run_local_ranks(1, [&](comm::Communicator& world) {
    test::GradientProbe<T> probe(model, world, shape);
    out.loss = probe.loss();
    for (const LocalParameter& p : probe.store().table().parameters()) {
      const Wide<T>* g = probe.store().gradients() + p.offset;
      out.of.emplace_back(p.spec.name, std::vector<double>(g, g + p.count()));
    }
  });
  return out;
}

double norm(const std::vector<double>& x) {
  double sum = 0.0;
  for (const double v : x) sum += v * v;
  return std::sqrt(sum);
}

/// The largest |a - b| / |b| over tensors, of vectors; where |b| is next to nothing beside `whole`, |a - b| / whole.
double worst_difference(const Gradients& a, const Gradients& b, std::string& where) {
  double whole = 0.0, worst = 0.0;
  for (const auto& [name, values] : b.of) whole = std::max(whole, norm(values));
  for (std::size_t i = 0; i < a.of.size(); ++i) {
    std::vector<double> difference = a.of[i].second;
    for (std::size_t j = 0; j < difference.size(); ++j) difference[j] -= b.of[i].second[j];
    const double error = norm(difference) / std::max(norm(b.of[i].second), 1e-2 * whole);
    if (!(error <= worst)) worst = error, where = a.of[i].first;
  }
  return worst;
}

double relative(double a, double b) { return std::abs(a - b) / std::abs(b); }

/// Losses and norms of the steps; weights are rounded, and where a gradient is next to nothing Adam's step has the sign
/// of its rounding.
void check_near(const StepOutcome& a, const StepOutcome& b, double tolerance) {
  REQUIRE(a.steps.size() == b.steps.size());
  for (std::size_t s = 0; s < a.steps.size(); ++s) {
    INFO("step " << s + 1);
    CHECK(relative(a.steps[s].loss, b.steps[s].loss) <= tolerance);
    CHECK(relative(a.steps[s].gradient_norm, b.steps[s].gradient_norm) <= 10 * tolerance);
  }
}

StepCase small_case() {
  StepCase c;
  c.model = test::small_mixtral();
  c.documents = true;
  c.sequence_length = 32;
  c.lr = 1e-3;
  c.steps = 4;
  return c;
}

}  // namespace

TEST_CASE("Gradients of a model in BF16 are those of F64, rounded", "[bf16][gradient]") {
  const bool gpt2 = GENERATE(false, true);
  const std::string gate = GENERATE(std::string("softmax_top_k"), std::string("gshard"), std::string("sigmoid"),
                                    std::string("xmoe"), std::string("expert_choice"), std::string("soft_moe"));
  ModelConfig model = gpt2 ? test::small_gpt2_moe() : test::small_mixtral();
  test::choose_gate(model, gate);
  model.moe.balance_loss_coef = gate == "expert_choice" || gate == "soft_moe" ? 0.0 : 0.1;
  model.moe.top_k = model.moe.experts;  // all are chosen: no choice depends on rounding
  model.moe.renormalize = false;
  if (gate == "expert_choice") model.moe.capacity_factor = 1.0;
  ShapeOptions shape;
  SECTION("as it is") {}
  SECTION("in chunks, with recomputation") { shape = {2, 3, 1, scheduler::Recompute::kFull, 2, 1}; }
  const Gradients want = gradients<double>(model, shape), got = gradients<BF16>(model, shape);
  std::string where;
  const double difference = worst_difference(got, want, where);
  INFO(gate << (gpt2 ? ", GPT-2" : ", Mixtral") << "; worst: " << where << " " << difference);
  CHECK(relative(got.loss, want.loss) <= 1e-2);
  CHECK(difference <= 4e-2);
}

TEST_CASE("Steps in BF16 have the losses of F64, and their own bits again", "[bf16]") {
  StepCase c = small_case();
  SECTION("Mixtral") {}
  SECTION("GPT-2, tied embeddings") { c.model = test::small_gpt2_moe(); }
  SECTION("whole states, capacity") {
    c.sharded = false;
    c.model.moe.capacity_factor = 1.0;
  }
  SECTION("every gate") {
    const std::string gate = GENERATE(from_range(test::all_gates()));
    test::choose_gate(c.model, gate);
  }
  const StepOutcome got = test::run_steps<BF16>(c), again = test::run_steps<BF16>(c);
  check_near(got, test::run_steps<double>(c), 1e-2);
  check_near(got, again, 0.0);
  CHECK(got.weights == again.weights);
}

TEST_CASE("Steps in BF16 have the losses of one rank in every layout", "[bf16][layout]") {
  StepCase one = small_case();
  one.steps = 2;
  StepCase c = one;
  c.world_size = 4;
  c.micro_batch = 1;
  c.shape = {2, 3, 1, scheduler::Recompute::kSelective, 1, 2};
  c.executor = scheduler::ExecutorKind::kStreams;
  SECTION("EP 4, through leaders") {
    c.ep_size = 4;
    c.ranks_per_node = 2;
    c.dispatcher = DispatcherKind::kHierarchical1d;
  }
  SECTION("EP 2 x ESP 2, whole states") {
    c.ep_size = c.esp_size = 2;
    c.sharded = false;
  }
  SECTION("heads 2 x ring 2") { c.sequence_heads = c.sequence_ring = 2; }
  SECTION("ring 4, EP 2, inside nodes, then between them") {
    c.sequence_ring = 4;
    c.ep_size = 4;
    c.ranks_per_node = 2;
    c.dispatcher = DispatcherKind::kHierarchical2d;
  }
  SECTION("slots that ranks share") {
    test::choose_gate(c.model, "soft_moe");
    one.model = c.model;
    c.sequence_ring = 2;
    c.ep_size = 2;
  }
  check_near(test::run_steps<BF16>(c), test::run_steps<BF16>(one), 1e-2);
}

TEST_CASE("A run in BF16 goes on from its checkpoint bit for bit, and into F32", "[bf16][trainer]") {
  const test::TempFolder folder;
  RunConfig config = test::tiny_run(folder.path());
  config.train.dtype = DType::kBF16;
  config.parallel.expert = 2;
  config.parallel.zero = GENERATE(true, false);
  const int ranks = 4;
  test::run_training(config, {ranks, folder.path() / "whole"});
  test::run_training(config, {ranks, folder.path() / "broken", Resume::kAuto, {}, 4});
  SECTION("the same layout") {
    test::run_training(config, {ranks, folder.path() / "broken"});
    CHECK(test::timeless_metrics(folder.path() / "whole") == test::timeless_metrics(folder.path() / "broken"));
  }
  SECTION("another layout, or F32: near") {
    config.train.dtype = GENERATE(DType::kBF16, DType::kF32);
    config.parallel.expert = 1;
    config.parallel.zero = true;
    test::run_training(config, {2, folder.path() / "broken"});
    const std::vector<double> want = test::metric(folder.path() / "whole", "loss"),
                              got = test::metric(folder.path() / "broken", "loss");
    REQUIRE(got.size() == want.size());
    for (std::size_t i = 0; i < got.size(); ++i) CHECK(relative(got[i], want[i]) <= 1e-2);
  }
  SECTION("F64 has other states") {
    config.train.dtype = DType::kF64;
    CHECK_THROWS(test::run_training(config, {ranks, folder.path() / "broken"}));
  }
}

TEST_CASE("A step on a GPU in BF16 has the CPU's losses", "[bf16][gpu]") {
  WEFT_NEED_DEVICE(DeviceKind::kCuda);
  StepCase c = small_case();
  c.sequence_length = 8;
  c.global_batch = 4;
  c.micro_batch = 1;
  c.steps = 2;
  SECTION("one rank") {}
  SECTION("every gate") {
    const std::string gate =
        GENERATE(std::string("gshard"), std::string("xmoe"), std::string("expert_choice"), std::string("soft_moe"));
    test::choose_gate(c.model, gate);
  }
  SECTION("ranks that share it") {
    c.world_size = 4;
    c.ep_size = c.esp_size = 2;
    c.shape = {2, 3, 1, scheduler::Recompute::kNone, 1, 2};
    c.executor = scheduler::ExecutorKind::kStreams;
  }
  const StepOutcome cpu = test::run_steps<BF16>(c);
  c.device = {DeviceKind::kCuda, 0};
  const StepOutcome got = test::run_steps<BF16>(c), again = test::run_steps<BF16>(c);
  check_near(got, cpu, 1e-2);
  check_near(got, again, 0.0);
  CHECK(got.weights == again.weights);
}
