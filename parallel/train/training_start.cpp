// parallel/train/training_start.cpp - everything up to a run's first step: the checkpoint to go on from, the plan,
// weights, and the step that is bound to both.
#include <algorithm>
#include <filesystem>
#include <set>
#include <sstream>

#include "parallel/train/run_device.h"
#include "parallel/train/run_setup.h"
#include "parallel/train/training.h"

namespace weft::parallel {
namespace {

namespace fs = std::filesystem;

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

}  // namespace

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
      comms_(world, mesh_, options.device, cta_budgets(config, cost_.cta_samples)),
      table_(config.model, mesh_) {
  if (comm::find_transport(world, options.device) == comm::Transport::kNccl)
    observer.on_note(describe_ctas(config, cost_.cta_samples));
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

#define WEFT_INSTANTIATE(T)                                                                                   \
  template Training<T>::Training(const RunConfig&, comm::Communicator&, const TrainOptions&, TrainObserver&); \
  template void Training<T>::require_same_plan();                                                             \
  template void Training<T>::bind_step();
WEFT_INSTANTIATE(float)
WEFT_INSTANTIATE(double)
WEFT_INSTANTIATE(BF16)
#undef WEFT_INSTANTIATE

}  // namespace weft::parallel
