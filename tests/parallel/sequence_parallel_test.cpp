// Ranks that share sequences train the model of the one-rank run: in f64 to 1e-10, in every split of a sequence.
#include <string>
#include <tuple>

#include "tests/support/catch.h"
#include "tests/support/step_harness.h"

using namespace weft;
using namespace weft::parallel;
using test::StepCase;
using test::StepOutcome;

namespace {

constexpr double kTolerance = 1e-10;

/// The balance loss over all ranks of the step before: set-wise figures of one routing group do not span ranks yet.
ModelConfig with_global_balance(ModelConfig model) {
  model.moe.balance_scope = BalanceScope::kGlobalPrevious;
  return model;
}

StepCase base_case(const ModelConfig& model) {
  StepCase c;
  c.model = with_global_balance(model);
  c.sequence_length = 32;
  c.global_batch = 4;
  c.steps = 2;
  return c;
}

void check_same(const StepOutcome& reference, const StepCase& c) {
  std::string where;
  const double difference = test::max_difference(reference, test::run_steps<double>(c), where);
  INFO("world " << c.world_size << ", heads " << c.sequence_heads << ", ring " << c.sequence_ring << ", EP "
                << c.ep_size << ", ZeRO " << c.sharded << ", micro-batch " << c.micro_batch << ", documents "
                << c.documents << ", sub-batches " << c.shape.sub_batches << "; worst: " << where);
  CHECK(difference <= kTolerance);
}

}  // namespace

TEST_CASE("Every split of a sequence over heads and ring trains the same model", "[sequence]") {
  StepCase one = base_case(GENERATE(test::small_mixtral(), test::small_gpt2_moe()));
  one.documents = GENERATE(false, true);
  const StepOutcome reference = test::run_steps<double>(one);
  for (const int heads : {1, 2, 4})
    for (const int ring : {1, 2, 4}) {
      if (heads * ring == 1 || heads * ring > 8) continue;
      StepCase c = one;
      c.sequence_heads = heads;
      c.sequence_ring = ring;
      c.world_size = heads * ring;
      c.ep_size = heads * ring >= 4 ? 4 : 2;
      check_same(reference, c);
    }
}

TEST_CASE("Shared sequences go with data parallelism, EP, ZeRO, micro-batches and sub-batches", "[sequence]") {
  StepCase one = base_case(GENERATE(test::small_mixtral(), test::small_gpt2_moe()));
  one.documents = true;
  one.sequence_length = 16;
  one.model.moe.group_sequences = 1;
  const StepOutcome reference = test::run_steps<double>(one);
  for (const auto& [world, heads, ring] : {std::tuple{4, 2, 1}, {4, 1, 2}, {8, 2, 2}, {4, 2, 2}})
    for (const int ep : {1, 2, 4})
      for (const bool sharded : {false, true}) {
        StepCase c = one;
        c.world_size = world;
        c.sequence_heads = heads;
        c.sequence_ring = ring;
        c.ep_size = ep;
        c.sharded = sharded;
        c.micro_batch = ep == 2 ? 1 : 2;
        c.shape.sub_batches = ep == 4 ? 2 : 1;
        check_same(reference, c);
      }
}

TEST_CASE("Shared sequences go with chunks, deferred dW, recompute and slices", "[sequence]") {
  StepCase one = base_case(GENERATE(test::small_mixtral(), test::small_gpt2_moe()));
  const StepOutcome reference = test::run_steps<double>(one);
  for (const auto& [heads, ring] : {std::pair{4, 1}, {1, 4}, {2, 2}})
    for (const auto recompute :
         {scheduler::Recompute::kNone, scheduler::Recompute::kSelective, scheduler::Recompute::kFull})
      for (const auto& [forward, backward] : {std::pair{1, 3}, {3, 2}}) {
        StepCase c = one;
        c.world_size = 4;
        c.ep_size = 2;
        c.sequence_heads = heads;
        c.sequence_ring = ring;
        c.shape.forward_chunks = forward;
        c.shape.backward_chunks = backward;
        c.shape.weight_grad_pieces = backward == 3 ? 2 : 0;
        c.shape.recompute = recompute;
        c.shape.gradient_slices = forward;
        c.shape.sub_batches = backward - 1;
        check_same(reference, c);
      }
}

TEST_CASE("Heads that divide unevenly among their readers are copied and summed", "[sequence]") {
  StepCase one = base_case(test::small_mixtral());
  one.model.heads = 6;
  one.model.kv_heads = GENERATE(1, 2, 3, 6);
  one.model.head_dim = 4;
  one.sequence_length = 24;
  one.documents = true;
  const StepOutcome reference = test::run_steps<double>(one);
  for (const auto& [heads, ring] : {std::pair{3, 1}, {6, 1}, {3, 2}, {2, 3}}) {
    StepCase c = one;
    c.sequence_heads = heads;
    c.sequence_ring = ring;
    c.world_size = heads * ring;
    check_same(reference, c);
  }
}

TEST_CASE("Balance over all ranks and the z-loss know nothing of the split", "[sequence]") {
  StepCase one = base_case(test::small_mixtral());
  one.steps = 4;
  one.model.moe.balance_loss_coef = 0.5;
  one.model.moe.z_loss_coef = 0.1;
  SECTION("groups of one sequence") {}
  SECTION("groups of two sequences") { one.model.moe.group_sequences = 2; }
  SECTION("no balance loss") { one.model.moe.balance_loss_coef = 0.0; }
  const StepOutcome reference = test::run_steps<double>(one);
  for (const auto& [heads, ring] : {std::pair{2, 1}, {1, 2}, {2, 2}}) {
    StepCase c = one;
    c.sequence_heads = heads;
    c.sequence_ring = ring;
    c.world_size = c.ep_size = heads * ring;
    check_same(reference, c);
  }
}

TEST_CASE("Running balance counts are those of the micro-batch, shared or not", "[sequence]") {
  StepCase one = base_case(test::small_mixtral());
  one.model.moe.balance_scope = BalanceScope::kGlobalRunning;
  const StepOutcome reference = test::run_steps<double>(one);
  one.world_size = one.ep_size = 4;
  one.sequence_heads = one.sequence_ring = 2;
  check_same(reference, one);
}

TEST_CASE("Shared sequences: any order, inline or on streams, gives the same bits", "[sequence][streams]") {
  StepCase c = base_case(GENERATE(test::small_mixtral(), test::small_gpt2_moe()));
  std::tie(c.world_size, c.sequence_heads, c.sequence_ring) =
      GENERATE(std::tuple{4, 2, 2}, std::tuple{4, 1, 4}, std::tuple{4, 4, 1}, std::tuple{8, 2, 2});
  c.ep_size = 2;
  c.micro_batch = 1;
  c.global_batch = 4;
  c.ranks_per_node = 2;  // heads inside a node, the ring between nodes: streams of their own
  c.documents = true;
  c.shape.forward_chunks = 2;
  c.shape.recompute = scheduler::Recompute::kSelective;
  const StepOutcome reference = test::run_steps<double>(c);
  for (std::uint64_t seed = 0; seed < 4; ++seed) {
    c.order_seed = seed;
    c.executor = seed % 3 == 2 ? scheduler::ExecutorKind::kInline : scheduler::ExecutorKind::kStreams;
    std::string where;
    const double difference = test::max_difference(reference, test::run_steps<double>(c), where);
    INFO("order " << seed << ", heads " << c.sequence_heads << ", ring " << c.sequence_ring << ", worst: " << where);
    CHECK(difference == 0.0);
  }
}

namespace {

/// Sums of the work of one rank's step, by stage and phase.
double work_of(const scheduler::Graph& graph, scheduler::Stage stage, scheduler::Phase phase,
               scheduler::WorkKind kind) {
  double sum = 0.0;
  for (const scheduler::Task& t : graph.tasks)
    if (t.stage == stage && t.phase == phase && t.work.kind == kind) sum += t.work.amount;
  return sum;
}

}  // namespace

TEST_CASE("The graph's bytes and FLOPs of shared sequences are the closed forms", "[sequence]") {
  using scheduler::Phase;
  using scheduler::Stage;
  using scheduler::WorkKind;
  ModelConfig model = with_global_balance(test::small_mixtral());
  model.heads = 8;
  model.kv_heads = 2;
  model.head_dim = 4;
  const int length = 128, micro_batch = 2;
  const double layers = model.layers, element = sizeof(float), d = model.head_dim, hq = model.heads * d;
  for (const int hp : {1, 2, 4, 8})
    for (const int cp : {1, 2, 4, 8}) {
      INFO("heads " << hp << ", ring " << cp);
      double flops = 0.0;
      for (int rank = 0; rank < hp * cp; ++rank) {
        const Mesh mesh = make_mesh(hp * cp, rank, {1, 1, hp, cp, hp});
        const StepSpec spec{model, mesh, {1, micro_batch, length, 1, mesh.sp_size()}, StepMode::kTrain, false};
        const scheduler::Graph graph = emit_step(spec, uniform_shape(model.layers, {}), DType::kF32);
        // sequence-parallel.md 4.1, "2D hp x cp": elements that a rank sends per layer
        const double t = double(micro_batch) * length / (hp * cp), hk = std::max(model.kv_heads, hp) * d;
        const double exchange = t * (2 * hq + 2 * hk) * (hp - 1) / hp, ring = 2 * (cp - 1) * t * hk;
        const double travelling = cp > 1 ? 2 * cp * t * hk : 0.0;
        for (const Phase phase : {Phase::kForward, Phase::kBackward})
          CHECK(work_of(graph, Stage::kSequenceExchange, phase, WorkKind::kAllToAll) ==
                Approx(layers * exchange * element));
        CHECK(work_of(graph, Stage::kSequenceRing, Phase::kForward, WorkKind::kSendRecv) ==
              Approx(layers * ring * element));
        CHECK(work_of(graph, Stage::kSequenceRing, Phase::kBackward, WorkKind::kSendRecv) ==
              Approx(layers * (ring + travelling) * element));
        const double forward = work_of(graph, Stage::kAttention, Phase::kForward, WorkKind::kAttention);
        CHECK(work_of(graph, Stage::kAttention, Phase::kBackward, WorkKind::kAttention) == Approx(2.5 * forward));
        flops += forward;
        for (const scheduler::Task& task : graph.tasks) {
          if (task.stage == Stage::kSequenceExchange)
            CHECK(task.resources == scheduler::ResourceSet{scheduler::Resource::kIntra});
          if (task.stage == Stage::kSequenceRing)
            CHECK(task.resources == scheduler::ResourceSet{scheduler::Resource::kInter});
        }
      }
      CHECK(flops == Approx(layers * 4.0 * hq * micro_batch * length * (length + 1) / 2.0));
    }
}

TEST_CASE("Each hop of a ring can run while the block before it is computed", "[sequence]") {
  const Mesh mesh = make_mesh(4, 1, {1, 1, 1, 4, 4});
  const ModelConfig model = with_global_balance(test::small_mixtral());
  const StepSpec spec{model, mesh, {1, 2, 32, 1, 4}, StepMode::kTrain, false};
  const scheduler::Graph graph = emit_step(spec, uniform_shape(model.layers, {}), DType::kF32);
  int keys = 0, gradients = 0;
  for (scheduler::TaskId t = 0; t < graph.num_tasks(); ++t) {
    const scheduler::Task& hop = graph.tasks[t];
    if (hop.stage != scheduler::Stage::kSequenceRing || hop.layer != 1) continue;
    (std::string(hop.label) == "k and v" ? keys : gradients) += 1;
    for (const scheduler::TaskId d : graph.dependencies(t)) {
      const scheduler::Task& before = graph.tasks[d];
      if (std::string(hop.label) != "k and v" || before.work.kind != scheduler::WorkKind::kAttention) continue;
      FAIL(graph.name(t) << " waits for " << graph.name(d));
    }
  }
  CHECK(keys == 2 * 3);   // forward and backward, one less than there are ranks
  CHECK(gradients == 4);  // back to their owner
}
