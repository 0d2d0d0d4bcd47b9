#include "parallel/train/trainer.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <memory>
#include <numeric>
#include <optional>
#include <set>
#include <sstream>

#include "core/error.h"
#include "core/rng.h"
#include "parallel/data/batch.h"
#include "parallel/data/shard.h"
#include "parallel/step/update.h"
#include "parallel/train/checkpoint.h"
#include "parallel/train/device_memory.h"
#include "parallel/train/lr_schedule.h"
#include "parallel/train/metrics.h"
#include "parallel/train/replanner.h"
#include "parallel/train/run_setup.h"
#include "parallel/train/validator.h"

namespace weft::parallel {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

double milliseconds_since(Clock::time_point start) {
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

/// Lines of `now` that `before` does not have, trimmed: what a user changed between two starts. Empty when the texts
/// are equal.
std::string changed_lines(const std::string& before, const std::string& now) {
  std::multiset<std::string> known;
  std::istringstream old_lines(before), new_lines(now);
  std::string line, out;
  while (std::getline(old_lines, line)) known.insert(line);
  while (std::getline(new_lines, line)) {
    if (const auto at = known.find(line); at != known.end()) {
      known.erase(at);
      continue;
    }
    out += (out.empty() ? "" : ", ") + line.substr(std::min(line.size(), line.find_first_not_of(' ')));
  }
  return out;
}

template <class T>
class Training final : public TrainingRun {
 public:
  Training(const RunConfig& config, comm::Communicator& world, const TrainOptions& options, TrainObserver& observer);
  std::optional<TrainOutcome> step() override;
  [[nodiscard]] const RunPlan& plan() const override { return plan_; }

 private:
  /// What `work` returns; its kOutOfMemory with what the plan needs, and with one that needs less.
  template <class Work>
  auto explaining_memory(const Work& work) {
    try {
      return work();
    } catch (const Error& e) {
      if (e.code() != ErrorCode::kOutOfMemory) throw;
      throw explain_out_of_memory(config_, plan_, cost_, e);
    }
  }
  void start_from_checkpoint();
  void make_plan();
  void require_same_plan();
  void bind();
  [[nodiscard]] std::optional<TrainOutcome> next_step();
  [[nodiscard]] bool should_stop(std::int64_t valid_here, std::int64_t& valid_all);
  StepReport one_step(std::int64_t step, const std::vector<LocalBatch>& batches, std::int64_t valid);
  [[nodiscard]] std::vector<LocalBatch> load_batches() const;
  void save(std::int64_t step);
  void replan(std::int64_t step);
  void bind_step();
  void write_metrics(const StepReport& report, std::optional<double> validation_loss);

  RunConfig config_;
  comm::Communicator& world_;
  const TrainOptions& options_;
  TrainObserver& observer_;
  Clock::time_point start_ = Clock::now();
  TokenDataset data_;
  scheduler::CostModel cost_;
  SampleOrder order_;
  Mesh mesh_;
  RunPlan plan_;
  MeshComms comms_;
  ParameterTable table_;
  std::unique_ptr<Stream> stream_ = make_inline_stream();
  std::unique_ptr<Checkpoint> resume_;
  std::int64_t first_step_ = 1, next_step_ = 1, samples_ = 0, tokens_ = 0, last_saved_ = 0;
  std::int64_t noted_bytes_ = 0;  // size of the arena when its growth was last reported
  std::unique_ptr<ParameterStore<T>> store_;
  StepState state_;
  std::unique_ptr<BoundStep<T>> step_;
  std::unique_ptr<Replanner> replanner_;  // null: schedule.replan is 0
  std::unique_ptr<Validator<T>> validator_;
  std::unique_ptr<MetricsFiles> metrics_;  // rank 0
};

template <class T>
Training<T>::Training(const RunConfig& config, comm::Communicator& world, const TrainOptions& options,
                      TrainObserver& observer)
    : config_(config),
      world_(world),
      options_(options),
      observer_(observer),
      data_(dataset_options(config, config.data.train)),
      cost_(costs_on(options.device, options.cost)),
      order_(config.train.seed, data_.num_samples()),
      mesh_(make_mesh(world.size(), world.rank(), mesh_options(config, options.ranks_per_node))),
      comms_(world, mesh_, options.device),
      table_(config.model, mesh_) {
  start_from_checkpoint();  // before the parameters take memory: a wrong one costs nothing
  make_plan();
  require_device_memory(config_, world_, plan_, cost_, options.device);
  if (!config.data.val.empty())
    validator_ = std::make_unique<Validator<T>>(config, comms_, validation_spec(config, mesh_, cost_.machine),
                                                plan_.plan.shape, options.device);
  explaining_memory([this] { bind(); });
  next_step_ = first_step_;
  if (world.rank() == 0 && !options.run_dir.empty()) {
    const int aside = set_aside_checkpoints(options.run_dir / "checkpoints", first_step_ - 1);
    if (aside > 0)
      observer.on_warning(str("moved ", aside, " checkpoint(s) of later steps aside, as ",
                              (options.run_dir / "checkpoints/abandoned-*").string(),
                              ": this run starts over from step ", first_step_ - 1));
    prune_checkpoints(options.run_dir / "checkpoints", config.checkpoint.keep);
    metrics_ = std::make_unique<MetricsFiles>(options.run_dir, config_, first_step_ - 1);
  }
}

template <class T>
void Training<T>::start_from_checkpoint() {
  if (options_.resume == Resume::kNone || options_.run_dir.empty()) return;
  const bool one = options_.resume == Resume::kFrom && fs::exists(options_.resume_from / "manifest.json");
  std::vector<std::string> refused;
  if (one) {
    resume_ = std::make_unique<Checkpoint>(options_.resume_from);
    resume_->verify(world_.rank(), world_.size());
  } else {
    const fs::path run = options_.resume == Resume::kFrom ? options_.resume_from : options_.run_dir;
    resume_ = newest_valid_checkpoint(run / "checkpoints", world_, refused);
    if (!resume_ && options_.resume == Resume::kFrom)
      throw Error(ErrorCode::kIo, str(run.string(), " holds no checkpoint that can be used"),
                  "see `weft checkpoint ls`");
  }
  for (const std::string& why : refused) observer_.on_warning("a checkpoint was passed over: " + why);
  if (!resume_) return;
  resume_->check_model(config_.model);
  if (resume_->dtype() != dtype_of<Wide<T>>)  // BF16 stores its F32 master weights
    throw Error(
        ErrorCode::kInvalidArgument,
        str("train.dtype is ", to_string(config_.train.dtype), ", the checkpoint's ", to_string(resume_->dtype())),
        "resume with the checkpoint's dtype, or start from its weights with --init_from");
  const CheckpointState& state = resume_->state();
  if (const std::string changed = changed_lines(state.config_text, options_.config_text); !changed.empty())
    observer_.on_warning("the config is not the one of the checkpoint: " + changed);
  if (!options_.init_from.empty())
    observer_.on_warning("--init_from is left alone: the run folder has a checkpoint to resume from");
  first_step_ = state.step + 1;
  samples_ = state.samples;
  tokens_ = state.tokens;
  last_saved_ = state.step;
}

/// The checkpoint's plan where it fits, so that a resumed run keeps its bits; else a new one. The same on every rank.
template <class T>
void Training<T>::make_plan() {
  // Ranks own uneven shares, so their prices differ by a little: rank 0's plan is everybody's.
  plan_ = take_plan(config_, mesh_, cost_, agree_on_plan(world_, [this] {
                      return options_.plan ? *options_.plan : parallel::make_plan(config_, mesh_, cost_);
                    }));
  require_memory(config_, peak_memory(world_, plan_), plan_.plan);
  if (options_.plan)
    if (const std::string overridden = overridden_settings(config_, plan_.plan); !overridden.empty())
      observer_.on_warning(overridden);
  if (resume_ && options_.plan_from_text && !resume_->state().plan_text.empty()) {
    try {
      scheduler::Plan stored = options_.plan_from_text(resume_->state().plan_text);
      if (scheduler::digest(stored) != scheduler::digest(plan_.plan)) {
        RunPlan taken = take_plan(config_, mesh_, cost_, std::move(stored));
        require_memory(config_, peak_memory(world_, taken), taken.plan);
        plan_ = std::move(taken);
        observer_.on_note("goes on with the checkpoint's plan, which is not the config's; --resume none plans afresh");
      }
    } catch (const Error& e) {
      observer_.on_note("planned afresh, not by the checkpoint's plan: " + e.message());
    }
  }
  require_same_plan();
}

template <class T>
void Training<T>::require_same_plan() {
  std::int64_t digests[2] = {static_cast<std::int64_t>(scheduler::digest(plan_.plan)), 0};
  digests[1] = -digests[0];
  world_.all_reduce(comm::as_buffer(digests, 2), comm::as_buffer(digests, 2), comm::ReduceOp::kMax, *stream_);
  if (digests[0] != -digests[1])
    throw Error(ErrorCode::kInternal, "the ranks planned different steps",
                "are all ranks running the same build and config?");
}

template <class T>
void Training<T>::bind() {
  store_ = std::make_unique<ParameterStore<T>>(table_, options_.device, config_.parallel.zero);
  state_.previous_choices.assign(static_cast<std::size_t>(config_.model.layers),
                                 std::vector<double>(static_cast<std::size_t>(config_.model.moe.experts), 0.0));
  std::vector<std::string> replans;
  if (resume_) {
    load_checkpoint(*resume_, *store_, true);
    state_.previous_choices = resume_->state().previous_choices;
    replans = resume_->state().replans;
    observer_.on_note(str("resumed from ", resume_->folder().string(), ", step ", first_step_ - 1));
    resume_.reset();
  } else if (!options_.init_from.empty()) {
    const Checkpoint from(options_.init_from);
    from.check_model(config_.model);
    from.verify(world_.rank(), world_.size());
    load_checkpoint(from, *store_, false);
    observer_.on_note(str("weights from ", options_.init_from.string()));
  } else {
    initialize_weights(*store_, config_.model, config_.train.seed);
  }
  bind_step();
  if (config_.schedule.replan > 0) {
    const double room_mib = double(room_for_plans(world_, plan_, options_.device)) / (1024.0 * 1024.0);
    double& limit_mib = config_.schedule.memory_limit_mib;
    if (room_mib > 0.0 && (limit_mib == 0.0 || room_mib < limit_mib)) limit_mib = room_mib;
    replanner_ = std::make_unique<Replanner>(config_, world_, cost_, std::move(replans));
  }
  state_.seed = config_.train.seed;
  state_.gate_noise = true;
  state_.clip_norm = config_.train.optimizer.clip_norm;
  state_.num_tokens = double(config_.train.global_batch) * config_.train.sequence_length;
  state_.num_groups = double(config_.train.global_batch) / config_.model.moe.group_sequences;
  kernels::AdamWOptions& o = state_.optimizer;
  o.beta1 = config_.train.optimizer.beta1;
  o.beta2 = config_.train.optimizer.beta2;
  o.eps = config_.train.optimizer.eps;
  o.weight_decay = config_.train.optimizer.weight_decay;
}

template <class T>
void Training<T>::bind_step() {
  step_.reset();  // its memory first
  step_ = std::make_unique<BoundStep<T>>(training_spec(config_, mesh_, cost_.machine), plan_.plan,
                                         Runtime<T>{store_.get(), &comms_, &state_, nullptr}, options_.device,
                                         executor_of(config_, plan_.plan, options_.device));
  if (config_.schedule.executor == ExecutorChoice::kCudaGraph)
    if (const std::string why = step_->why_not_recorded(); !why.empty())
      observer_.on_note("steps are launched task by task, not as a CUDA graph: " + why);
}

template <class T>
void Training<T>::replan(std::int64_t step) {
  const std::optional<Replan> look = replanner_->consider(step, plan_);
  if (!look) return;
  observer_.on_note("replan: " + look->entry);
  plan_ = look->plan;
  if (look->changes) {
    require_same_plan();
    bind_step();
  }
  observer_.on_replan(*look);
}

/// This rank's rows of its micro-batches. Ranks that share sequences read all of them and keep their part.
template <class T>
std::vector<LocalBatch> Training<T>::load_batches() const {
  const TrainConfig& t = config_.train;
  const BatchLayout layout{t.global_batch, t.micro_batch, mesh_.dp_size(), mesh_.dp_rank()};
  std::vector<LocalBatch> out;
  for (std::int64_t m = 0; m < layout.num_micro_batches(); ++m) {
    std::vector<std::int64_t> places(static_cast<std::size_t>(t.micro_batch)), samples(places.size());
    std::iota(places.begin(), places.end(), samples_ + layout.first_place(0, m));
    std::transform(places.begin(), places.end(), samples.begin(), [&](std::int64_t place) { return order_(place); });
    const Batch batch = make_batch(data_, samples, places, attend_mode(config_));
    out.push_back(shard(batch, mesh_.sequence_group(), mesh_.sp_rank()));
  }
  return out;
}

/// One small reduction before each step: the loss divisor, and whether any rank wants to stop.
template <class T>
bool Training<T>::should_stop(std::int64_t valid_here, std::int64_t& valid_all) {
  const bool late = config_.train.time_limit_s > 0 && milliseconds_since(start_) > 1e3 * config_.train.time_limit_s;
  std::int64_t sums[2] = {valid_here, late || (options_.stop_requested && options_.stop_requested()) ? 1 : 0};
  world_.all_reduce(comm::as_buffer(sums, 2), comm::as_buffer(sums, 2), comm::ReduceOp::kSum, *stream_);
  valid_all = sums[0];
  return sums[1] > 0;
}

template <class T>
StepReport Training<T>::one_step(std::int64_t step, const std::vector<LocalBatch>& batches, std::int64_t valid) {
  state_.step = step;
  state_.num_valid_tokens = static_cast<double>(std::max<std::int64_t>(1, valid));
  state_.optimizer.lr = learning_rate(config_.train.optimizer, step, config_.train.steps);
  state_.batches.clear();
  for (const LocalBatch& b : batches) state_.batches.push_back(b.view());
  const std::int64_t grows = step_->arena().num_grows();
  const Clock::time_point start = Clock::now();
  const scheduler::Timeline timeline = step_->run();

  StepReport report;
  report.step = step;
  report.step_ms = milliseconds_since(start);
  report.result = unpack(state_.sums, config_.model, state_.num_valid_tokens);
  if (!state_.finite)
    throw Error(
        ErrorCode::kNonFinite,
        str("step ", step, ": loss ", report.result.loss, ", gradient norm ", report.result.gradient_norm),
        str("the update was not applied and ",
            last_saved_ > 0 ? str("the checkpoint of step ", last_saved_, " stands") : "no checkpoint was written",
            "; lower train.optimizer.lr or clip_norm, or warm up longer"));
  for (std::size_t l = 0; l < report.result.router.size(); ++l)
    if (!report.result.router[l].choices.empty()) state_.previous_choices[l] = report.result.router[l].choices;
  tokens_ += valid;
  samples_ += config_.train.global_batch;
  report.lr = state_.optimizer.lr;
  report.tokens = tokens_;
  report.tokens_per_second = state_.num_tokens / report.step_ms * 1e3;
  report.model_tflops =
      flops_per_token(config_.model, config_.train.sequence_length) * report.tokens_per_second / world_.size() / 1e12;
  report.predicted_ms = plan_.predicted_ms;
  report.exposed_comm_fraction = scheduler::exposed_comm_us(step_->graph(), timeline) / timeline.total_us;
  if (step_->arena().num_grows() > grows && step_->arena().bytes() > noted_bytes_ + noted_bytes_ / 4) {
    noted_bytes_ = step_->arena().bytes();
    observer_.on_note(str("step ", step, ": routing is more unbalanced than planned for; the arena grew to ",
                          noted_bytes_ >> 10, " KiB"));
  }
  if (replanner_) replanner_->observe(step_->graph(), timeline, report.step_ms);
  observer_.on_step(report, step_->graph(), timeline);
  return report;
}

template <class T>
void Training<T>::write_metrics(const StepReport& report, std::optional<double> validation_loss) {
  if (!metrics_) return;
  try {
    metrics_->write(report, validation_loss);
  } catch (const Error& e) {  // a full disk must not end a run that computes well
    observer_.on_warning(str("step ", report.step, ": its metrics are lost: ", e.message()));
  }
}

template <class T>
void Training<T>::save(std::int64_t step) {
  if (step == last_saved_) return;
  const fs::path root = options_.run_dir / "checkpoints";
  CheckpointState state;
  state.step = step;
  state.samples = samples_;
  state.tokens = tokens_;
  state.config_text = options_.config_text;
  if (options_.plan_to_text) state.plan_text = options_.plan_to_text(plan_.plan);
  state.previous_choices = state_.previous_choices;
  if (replanner_) state.replans = replanner_->log();
  try {
    const fs::path folder = save_checkpoint(root, *store_, comms_, state);
    last_saved_ = step;
    observer_.on_note("saved " + folder.string());
    if (world_.rank() == 0) prune_checkpoints(root, config_.checkpoint.keep);
  } catch (const Error& e) {
    if (e.code() != ErrorCode::kIo) throw;
    observer_.on_warning(str("step ", step, ": no checkpoint was saved, training goes on: ", e.message()));
  }
}

template <class T>
std::optional<TrainOutcome> Training<T>::step() {
  return explaining_memory([this] { return next_step(); });
}

template <class T>
std::optional<TrainOutcome> Training<T>::next_step() {
  const TrainConfig& t = config_.train;
  const std::int64_t step = next_step_;
  if (step == first_step_) observer_.on_start(plan_, first_step_);
  if (step > t.steps) return TrainOutcome::kFinished;
  const std::vector<LocalBatch> batches = load_batches();
  std::int64_t valid_here = 0, valid = 0;
  for (const LocalBatch& b : batches) valid_here += count_valid_targets(b.targets);
  if (should_stop(valid_here, valid)) {
    save(step - 1);
    return TrainOutcome::kStopped;
  }
  const StepReport report = one_step(step, batches, valid);
  ++next_step_;
  if (replanner_) replan(step);
  std::optional<double> validation_loss;
  const bool last = step == t.steps;
  if (validator_ && (last || (t.validate_every > 0 && step % t.validate_every == 0))) {
    validation_loss = validator_->run(*store_);
    observer_.on_validation(step, *validation_loss);
  }
  write_metrics(report, validation_loss);
  if (config_.checkpoint.every > 0 && (last || step % config_.checkpoint.every == 0)) save(step);
  return last ? std::optional(TrainOutcome::kFinished) : std::nullopt;
}

}  // namespace

std::unique_ptr<TrainingRun> start_training(const RunConfig& config, comm::Communicator& world,
                                            const TrainOptions& options, TrainObserver& observer) {
  if (config.train.dtype == DType::kF64) return std::make_unique<Training<double>>(config, world, options, observer);
  if (config.train.dtype == DType::kBF16) return std::make_unique<Training<BF16>>(config, world, options, observer);
  return std::make_unique<Training<float>>(config, world, options, observer);
}

TrainOutcome train(const RunConfig& config, comm::Communicator& world, const TrainOptions& options,
                   TrainObserver& observer) {
  const std::unique_ptr<TrainingRun> run = start_training(config, world, options, observer);
  for (;;)
    if (const std::optional<TrainOutcome> outcome = run->step()) return *outcome;
}

}  // namespace weft::parallel
