#include "parallel/train/trainer.h"

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <numeric>

#include "parallel/data/batch.h"
#include "parallel/train/lr_schedule.h"
#include "parallel/train/run_setup.h"
#include "parallel/train/training.h"

namespace weft::parallel {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

double milliseconds_since(Clock::time_point start) {
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

}  // namespace

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

template std::optional<TrainOutcome> Training<float>::step();
template std::optional<TrainOutcome> Training<double>::step();
template std::optional<TrainOutcome> Training<BF16>::step();

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
