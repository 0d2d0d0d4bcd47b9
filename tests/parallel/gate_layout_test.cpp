// Every gate trains the same model in any layout, with any dispatcher; its gradient is that of the whole model's loss;
// and it learns real text.
#include <cmath>
#include <map>
#include <tuple>

#include "core/error.h"
#include "tests/support/catch.h"
#include "tests/support/gates.h"
#include "tests/support/skip.h"
#include "tests/support/step_harness.h"
#include "tests/support/training.h"

using namespace weft;
using namespace weft::parallel;
using test::StepCase;
using test::StepOutcome;

namespace {

/// A small model with one of the gates, of either family.
ModelConfig gated_model(const std::string& gate, bool mixtral) {
  ModelConfig m = mixtral ? test::small_mixtral() : test::small_gpt2_moe();
  test::choose_gate(m, gate);
  return m;
}

void check_same(const StepOutcome& reference, const StepCase& c, double tolerance = 1e-10) {
  std::string where;
  const StepOutcome outcome = test::run_steps<double>(c);
  const double difference = test::max_difference(reference, outcome, where);
  INFO("gate " << c.model.moe.gate << ", world " << c.world_size << ", EP " << c.ep_size << ", ESP " << c.esp_size
               << ", chunks " << c.shape.forward_chunks << "/" << c.shape.backward_chunks << ", recompute "
               << to_string(c.shape.recompute) << ", dispatcher " << static_cast<int>(c.dispatcher) << ", "
               << c.ranks_per_node << " ranks a node; worst: " << where);
  CHECK(difference <= tolerance);
}

}  // namespace

TEST_CASE("Every gate: every layout trains the same model", "[layout][gate]") {
  StepCase one;
  one.model = gated_model(GENERATE(from_range(test::all_gates())), GENERATE(true, false));
  one.model.moe.group_sequences = GENERATE(1, 2);
  one.model.moe.capacity_factor = one.model.moe.group_sequences == 2 ? 0.75 : 0.0;
  const StepOutcome reference = test::run_steps<double>(one);
  int runs = 0;
  for (const int world : {1, 2, 4})
    for (int esp = 1; esp <= world; esp *= 2)
      for (int ep = 1; ep * esp <= world; ep *= 2) {
        StepCase c = one;
        c.world_size = world;
        c.ep_size = ep;
        c.esp_size = esp;
        c.sharded = ++runs % 2 == 0;
        c.shape = {1 + runs % 3, 1 + runs % 2, runs % 2, static_cast<scheduler::Recompute>(runs % 3), 1, 1};
        check_same(reference, c);
      }
}

TEST_CASE("Every gate: any order, on one thread or on streams, gives the bits of the sequential step",
          "[layout][gate][streams]") {
  StepCase c;
  c.model = gated_model(GENERATE(from_range(test::all_gates())), true);
  c.model.moe.capacity_factor = 0.75;
  c.world_size = 4;
  c.ep_size = c.esp_size = 2;
  c.micro_batch = 1;
  c.steps = 2;
  c.shape = {3, 2, 2, scheduler::Recompute::kSelective, 1, 2};
  const StepOutcome reference = test::run_steps<double>(c);
  for (std::uint64_t seed = 1; seed <= 3; ++seed) {
    c.order_seed = seed;
    c.executor = seed % 2 == 0 ? scheduler::ExecutorKind::kInline : scheduler::ExecutorKind::kStreams;
    check_same(reference, c, 0.0);
  }
}

TEST_CASE("Every dispatcher gives the bits of the flat one", "[layout][dispatch]") {
  StepCase c;
  c.model = gated_model(GENERATE(as<std::string>{}, "softmax_top_k", "expert_choice"), true);
  c.model.moe.experts = 8;
  c.world_size = 8;
  c.micro_batch = 1;
  std::tie(c.ep_size, c.esp_size, c.ranks_per_node) =
      GENERATE(table<int, int, int>({{8, 1, 2}, {8, 1, 4}, {4, 2, 4}, {4, 1, 2}, {4, 1, 8}}));
  c.shape = {3, 2, 1, scheduler::Recompute::kFull, 1, 1};
  const StepOutcome reference = test::run_steps<double>(c);
  for (const DispatcherKind kind : {DispatcherKind::kHierarchical1d, DispatcherKind::kHierarchical2d}) {
    c.dispatcher = kind;
    c.executor =
        kind == DispatcherKind::kHierarchical1d ? scheduler::ExecutorKind::kStreams : scheduler::ExecutorKind::kInline;
    check_same(reference, c, 0.0);
  }
}

TEST_CASE("Every gate: routing groups that ranks share are routed as a whole", "[layout][gate][sequence]") {
  StepCase one;
  const std::string gate = GENERATE(from_range(test::all_gates()));
  const int variant = GENERATE(range(0, 16));
  one.model = gated_model(gate, variant % 2 == 0);
  MoeConfig& moe = one.model.moe;
  moe.group_sequences = 1 + variant / 2 % 2;
  switch (variant / 4) {
    case 0:
      break;  // dropless
    case 1:
      moe.capacity_factor = 0.75;
      break;
    case 2:
      moe.capacity_factor = 0.75;
      moe.balance_scope = BalanceScope::kGlobalPrevious;
      break;
    default:
      moe.balance_form = BalanceForm::kHuggingFace;
  }
  const StepOutcome reference = test::run_steps<double>(one);
  // Of the 12 layouts a variant has four, of every split and every EP; the variants beside it have others. Under
  // sanitizers it has one.
  int runs = 0, taken = 0;
  for (const auto& [heads, ring] : {std::pair{2, 1}, {1, 2}, {2, 2}, {1, 4}})
    for (const int ep : {1, 2, 4}) {
      const int split = runs / 3, place = runs++ % 3;
      if ((split + place) % 3 != variant % 3) continue;
      if (test::kSanitized && taken++ != variant / 3 % 4) continue;
      StepCase c = one;
      c.world_size = runs % 2 == 0 ? 8 : 4;
      c.sequence_heads = heads;
      c.sequence_ring = ring;
      c.ep_size = ep;
      c.esp_size = ep == 2 ? 2 : 1;
      c.shape = {
          1 + runs % 3, 1 + runs % 2, runs % 2, static_cast<scheduler::Recompute>((split + variant / 3) % 3), 1, 1};
      INFO(gate << ", variant " << variant << ", heads " << heads << ", ring " << ring << ", EP " << ep);
      check_same(reference, c);
    }
}

TEST_CASE("The host waits once for the counts of each sub-batch and layer, and never where they are known", "[gate]") {
  for (const std::string& gate : test::all_gates())
    for (const bool apart : {false, true})
      for (const double capacity : {0.0, 1.0}) {
        StepSpec spec{gated_model(gate, true), make_mesh(4, 0, {4}), {2, 2, 8, 1}};
        spec.host_apart = apart;
        spec.model.moe.capacity_factor = capacity;
        for (const scheduler::Recompute recompute : {scheduler::Recompute::kNone, scheduler::Recompute::kFull}) {
          const scheduler::Graph graph =
              emit_step(spec, uniform_shape(spec.model.layers, {3, 2, 1, recompute, 2}), DType::kF64);
          std::map<std::pair<int, int>, int> waits;  // by phase and layer
          for (scheduler::TaskId t = 0; t < graph.num_tasks(); ++t) {
            const scheduler::Task& task = graph.tasks[t];
            if (task.stage != scheduler::Stage::kHostWait) continue;
            CHECK(task.resources == scheduler::ResourceSet{scheduler::Resource::kHost});
            ++waits[{static_cast<int>(task.phase), task.layer}];
          }
          INFO(gate << ", capacity factor " << capacity << ", recompute " << to_string(recompute));
          if (!apart || !gate_needs(spec.model).count_exchange) {
            CHECK(waits.empty());
            continue;
          }
          for (int l = 0; l < spec.model.layers; ++l) {
            const int units = spec.model.is_moe_layer(l) ? 2 * 2 : 0;  // micro-batches, sub-batches
            CHECK(waits[{static_cast<int>(scheduler::Phase::kForward), l}] == units);
            CHECK(waits[{static_cast<int>(scheduler::Phase::kBackward), l}] == 0);  // the counts are those of before
          }
        }
      }
}

TEST_CASE("Static shapes need no exchange of counts", "[gate]") {
  for (const std::string& gate : test::all_gates()) {
    StepSpec spec{gated_model(gate, true), make_mesh(4, 0, {4}), {1, 2, 8, 1}};
    const scheduler::Graph graph = emit_step(spec, uniform_shape(spec.model.layers, {}), DType::kF64);
    int exchanges = 0, elastic = 0;
    for (const scheduler::Task& task : graph.tasks) exchanges += task.stage == scheduler::Stage::kCountExchange;
    for (const scheduler::BufferSpec& buffer : graph.buffers) elastic += buffer.elastic;
    INFO(gate);
    CHECK((exchanges > 0) == gate_needs(spec.model).count_exchange);
    CHECK((elastic > 0) == !gate_needs(spec.model).static_shapes);
  }
}

TEST_CASE("Every gate learns real text", "[gate][trainer]") {
  const std::string gate = GENERATE(from_range(test::all_gates()));
  const test::TempFolder folder;
  RunConfig config;
  config.model = gated_model(gate, true);
  config.model.vocab_size = 257;
  config.model.init_std = 0.05;
  config.train.steps = 12;
  config.train.global_batch = 8;
  config.train.micro_batch = 2;
  config.train.sequence_length = 32;
  config.train.optimizer.lr = 2e-2;
  config.parallel.expert = 2;
  config.data.train = {std::string(WEFT_SOURCE_DIR) + "/configs/data/tiny.train.bin"};
  REQUIRE(validate(config, 2).empty());
  test::run_training(config, {2, folder.path() / "run"});
  const std::vector<double> loss = test::metric(folder.path() / "run", "loss");
  REQUIRE(loss.size() == 12);
  INFO(gate << ": " << loss.front() << " to " << loss.back());
  CHECK(loss.front() == Approx(std::log(257.0)).epsilon(0.02));
  CHECK(loss.back() < loss.front() - 1.0);
}
