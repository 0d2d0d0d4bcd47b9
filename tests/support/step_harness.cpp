#include "tests/support/step_harness.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <map>
#include <mutex>
#include <numeric>

#include "comm/factory.h"
#include "core/error.h"
#include "core/host_access.h"
#include "core/rng.h"
#include "parallel/data/shard.h"
#include "parallel/step/update.h"
#include "scheduler/order.h"
#include "tests/support/random_plan.h"

namespace weft::test {
namespace {

using namespace weft::parallel;

/// This rank's part of a micro-batch; `dp_rank` says which sequences.
LocalBatch make_batch(const StepCase& c, const Mesh& mesh, int step, int micro_batch_index, int num_micro_batches) {
  Batch b;
  b.num_sequences = c.micro_batch;
  b.sequence_length = c.sequence_length;
  const Rng rng(c.seed, RngPurpose::kTest, static_cast<std::uint64_t>(step));
  std::int32_t segment = 0;
  for (int i = 0; i < c.micro_batch; ++i, ++segment) {
    const auto sample =
        static_cast<std::uint64_t>((mesh.dp_rank() * num_micro_batches + micro_batch_index) * c.micro_batch + i);
    b.sample_ids.push_back(static_cast<std::int64_t>(sample));
    std::int32_t position = 0;
    for (int p = 0; p < c.sequence_length; ++p, ++position) {
      const auto token = [&](int at) {
        return static_cast<std::int32_t>(rng.bits(sample, static_cast<std::uint64_t>(at))[0] %
                                         static_cast<std::uint32_t>(c.model.vocab_size));
      };
      if (c.documents && p > 0 && rng.bits(sample, static_cast<std::uint64_t>(p))[1] % 4 == 0) {
        ++segment;
        position = 0;
      }
      b.tokens.push_back(token(p));
      b.targets.push_back((sample + static_cast<std::uint64_t>(p + step)) % 7 == 3 ? -1 : token(p + 1));
      b.positions.push_back(position);
      b.segments.push_back(segment);
    }
  }
  return shard(b, mesh.sequence_group(), mesh.sp_rank());
}

StepCase on_its_gpu(StepCase c, int rank) {
  if (c.own_gpus) c.device.index += rank;
  return c;
}

scheduler::Plan plan_of(const StepCase& c, const scheduler::Graph& graph, const scheduler::Shape& shape) {
  scheduler::Plan plan = scheduler::sequential_plan(graph, shape);
  if (c.order_seed != 0) plan.issue_order = random_order(graph, c.order_seed);
  return plan;
}

template <class T>
class Run {
 public:
  Run(const StepCase& c, comm::Communicator& world)
      : case_(on_its_gpu(c, world.rank())),
        mesh_(make_mesh(c.world_size, world.rank(),
                        {c.ep_size, c.esp_size, c.sequence_heads, c.sequence_ring,
                         c.ranks_per_node > 0 ? c.ranks_per_node : c.world_size})),
        comms_(world, mesh_, case_.device),
        table_(c.model, mesh_),
        store_(table_, case_.device, c.sharded),
        num_micro_(c.global_batch / (mesh_.dp_size() * c.micro_batch)) {
    initialize_weights(store_, c.model, c.seed);
    const StepSpec spec{c.model,
                        mesh_,
                        {num_micro_, c.micro_batch, c.sequence_length, c.model.moe.group_sequences, mesh_.sp_size()},
                        StepMode::kTrain,
                        c.sharded,
                        c.dispatcher,
                        c.hooks != nullptr ? c.hooks->mask() : 0,
                        c.host_apart || case_.device.kind != DeviceKind::kCpu};
    const scheduler::Shape shape = uniform_shape(c.model.layers, c.shape);
    const scheduler::Graph graph = emit_step(spec, shape, dtype_of<T>);
    step_ = std::make_unique<BoundStep<T>>(spec, plan_of(c, graph, shape),
                                           Runtime<T>{&store_, &comms_, &state_, nullptr, hooks()}, case_.device,
                                           c.executor);
    state_.previous_choices.assign(static_cast<std::size_t>(c.model.layers),
                                   std::vector<double>(c.model.moe.experts, 0.0));
    state_.clip_norm = c.clip_norm;
    state_.seed = c.seed;
    state_.gate_noise = true;
    state_.optimizer.lr = c.lr;
    state_.optimizer.weight_decay = 0.1;
    state_.optimizer.eps =
        1e-6;  // a key bias has a gradient of zero but for rounding, which a smaller eps would blow up
    state_.num_tokens = double(c.global_batch) * c.sequence_length;
    state_.num_groups = double(c.global_batch) / c.model.moe.group_sequences;
  }

  StepResult step(int number) {
    std::vector<LocalBatch> data;
    for (int m = 0; m < num_micro_; ++m) data.push_back(make_batch(case_, mesh_, number, m, num_micro_));
    double valid = 0;
    state_.batches.clear();
    for (const LocalBatch& b : data) {
      state_.batches.push_back(b.view());
      valid += static_cast<double>(count_valid_targets(b.targets));
    }
    const auto stream = make_inline_stream();
    comms_.host_world().all_reduce(comm::as_buffer(&valid, 1), comm::as_buffer(&valid, 1), comm::ReduceOp::kSum,
                                   *stream);
    state_.num_valid_tokens = valid;
    state_.step = number;
    if (case_.before_step) case_.before_step(number, state_);
    step_->run();
    const StepResult result = unpack(state_.sums, case_.model, valid);
    for (std::size_t l = 0; l < result.router.size(); ++l) state_.previous_choices[l] = result.router[l].choices;
    return result;
  }

  void collect_weights(std::map<std::string, std::vector<double>>& out) {
    const auto stream = make_waiting_stream(case_.device);
    stream->enqueue([&] {
      for (int b = 0; case_.sharded && b < static_cast<int>(table_.buckets().size()); ++b)
        gather_weights<T>(store_, b, comms_, *stream);
    });
    stream->synchronize();
    HostAccess access(store_.device());
    for (const LocalParameter& p : table_.parameters()) {
      const T* w = access.read(store_.weights() + p.offset, p.count());
      std::vector<double>& whole = out[p.spec.name];  // elements that other ranks hold stay NaN
      whole.resize(static_cast<std::size_t>(p.spec.count()), std::numeric_limits<double>::quiet_NaN());
      for (const ElementRun& run : p.runs(0, p.count()))
        std::copy_n(w + run.local_begin, run.count, whole.begin() + run.tensor_begin);
    }
  }
  /// What the plan said the step takes beside parameters, gradients and states is what the arena took.
  void check_memory() const {
    std::int64_t planned = scheduler::memory_use(step_->graph(), step_->slots()).total();
    for (const scheduler::BufferSpec& spec : step_->graph().buffers)
      if (spec.persistent) planned -= spec.bytes;
    if (step_->arena().num_grows() == 0 && step_->arena().bytes() != planned)
      throw Error(ErrorCode::kInternal, str("planned ", planned, " bytes, the arena has ", step_->arena().bytes()));
  }
  [[nodiscard]] std::int64_t num_grows() const { return step_->arena().num_grows(); }
  [[nodiscard]] int num_recordings() const { return step_->num_recordings(); }
  [[nodiscard]] std::int64_t sent_bytes() const {
    const std::vector<std::int64_t> bytes = comms_.world().traffic().sent_bytes();
    return std::accumulate(bytes.begin(), bytes.end(), std::int64_t{0});
  }
  [[nodiscard]] std::int64_t num_tasks() const { return step_->graph().num_tasks(); }

 private:
  [[nodiscard]] const MoeHooks<T>* hooks() const {
    if constexpr (std::is_same_v<T, double>)
      return case_.hooks;
    else
      return nullptr;
  }

  StepCase case_;
  Mesh mesh_;
  MeshComms comms_;
  ParameterTable table_;
  ParameterStore<T> store_;
  int num_micro_;
  StepState state_;
  std::unique_ptr<BoundStep<T>> step_;
};

constexpr double kUpdate =
    1e-2;  // a weight is compared against its size or that of one update (lr), whichever is larger

bool differ(double a, double b) { return a != b && !(std::isnan(a) && std::isnan(b)); }

double relative(double a, double b) { return std::abs(a - b) / std::max({std::abs(a), std::abs(b), 1e-30}); }

}  // namespace

template <class T>
StepOutcome run_steps(const StepCase& c) {
  StepOutcome out;
  std::map<std::string, std::vector<double>> weights;
  std::mutex mutex;
  const auto run_rank = [&](comm::Communicator& world) {
    Run<T> run(c, world);
    std::vector<StepResult> steps;
    const std::int64_t sent_before = run.sent_bytes();
    for (int s = 1; s <= c.steps; ++s) steps.push_back(run.step(s));
    const std::int64_t sent = run.sent_bytes() - sent_before;
    run.check_memory();
    std::map<std::string, std::vector<double>> mine;
    run.collect_weights(mine);  // collective: before the lock
    const std::lock_guard lock(mutex);
    out.num_grows += run.num_grows();
    out.num_tasks = run.num_tasks();
    out.num_recordings = std::max(out.num_recordings, run.num_recordings());
    out.total_recordings += run.num_recordings();
    out.sent_bytes += sent;
    if (out.steps.empty()) out.steps = steps;
    for (std::size_t s = 0; s < steps.size(); ++s)
      if (differ(steps[s].loss, out.steps[s].loss) || differ(steps[s].gradient_norm, out.steps[s].gradient_norm))
        throw Error(ErrorCode::kInternal, str("ranks disagree about step ", s + 1));
    for (auto& [name, values] : mine) {
      std::vector<double>& whole = weights.try_emplace(name, values).first->second;
      for (std::size_t i = 0; i < values.size(); ++i) {
        if (std::isnan(values[i])) continue;
        if (!std::isnan(whole[i]) && whole[i] != values[i])
          throw Error(ErrorCode::kInternal, str("replicas of ", name, " differ"));
        whole[i] = values[i];
      }
    }
  };
  comm::run_local_ranks(c.world_size, run_rank, std::chrono::minutes(2));
  out.weights.assign(weights.begin(), weights.end());
  return out;
}

template StepOutcome run_steps<float>(const StepCase&);
template StepOutcome run_steps<double>(const StepCase&);
template StepOutcome run_steps<BF16>(const StepCase&);

ModelConfig small_mixtral() {
  ModelConfig m;
  m.layers = 2;
  m.model_dim = 16;
  m.expert_hidden_dim = 12;
  m.heads = 4;
  m.kv_heads = 2;
  m.vocab_size = 29;
  m.max_positions = 64;
  m.init_std = 0.2;
  m.moe.experts = 4;
  m.moe.top_k = 2;
  m.moe.z_loss_coef = 1e-3;
  return m;
}

ModelConfig small_gpt2_moe() {
  ModelConfig m = small_mixtral();
  m.family = ModelFamily::kGpt2Moe;
  m.kv_heads = 4;
  m.layer_pattern = "DM";
  m.dense_hidden_dim = 20;
  m.tie_embeddings = true;
  return m;
}

double max_difference(const StepOutcome& a, const StepOutcome& b, std::string& where) {
  double worst = 0.0;
  const auto note = [&](double d, const std::string& what) {
    if (!(d <= worst) && !std::isnan(worst)) {  // a NaN stays the worst
      worst = d;
      where = what;
    }
  };
  for (std::size_t s = 0; s < a.steps.size(); ++s) {
    const StepResult &x = a.steps[s], &y = b.steps[s];
    note(relative(x.loss, y.loss), str("loss of step ", s + 1));
    note(relative(x.gradient_norm, y.gradient_norm), str("gradient norm of step ", s + 1));
    note(relative(x.balance_loss, y.balance_loss), str("balance loss of step ", s + 1));
    note(relative(x.z_loss, y.z_loss), str("z-loss of step ", s + 1));
    note(std::abs(x.drop_fraction - y.drop_fraction), str("drop fraction of step ", s + 1));
  }
  if (a.weights.size() != b.weights.size()) note(1.0, "the sets of weights");
  for (std::size_t i = 0; i < std::min(a.weights.size(), b.weights.size()); ++i) {
    double diff = 0.0, size = 0.0;
    for (std::size_t j = 0; j < a.weights[i].second.size(); ++j) {
      diff += std::pow(a.weights[i].second[j] - b.weights[i].second[j], 2);
      size += std::pow(a.weights[i].second[j], 2);
    }
    note(std::sqrt(diff / std::max(size, kUpdate * kUpdate * double(a.weights[i].second.size()))), a.weights[i].first);
  }
  return worst;
}

}  // namespace weft::test
