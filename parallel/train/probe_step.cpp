#include "parallel/train/probe_step.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "core/rng.h"
#include "scheduler/order.h"

namespace weft::parallel {
namespace {

/// The mean without the lowest and the highest tenth: what a sum of many such times comes to, without what the machine
/// did for others meanwhile.
double middle_mean(std::vector<double> times) {
  std::sort(times.begin(), times.end());
  const std::size_t cut = times.size() / 10;
  return std::accumulate(times.begin() + static_cast<std::ptrdiff_t>(cut),
                         times.end() - static_cast<std::ptrdiff_t>(cut), 0.0) /
         static_cast<double>(times.size() - 2 * cut);
}

Batch made_up_batch(const StepSpec& spec, std::int64_t first_sample) {
  const Rng rng(1, RngPurpose::kTest);
  Batch batch;
  batch.num_sequences = spec.geometry.micro_batch;
  batch.sequence_length = spec.geometry.sequence_length;
  for (std::int64_t b = 0; b < batch.num_sequences; ++b)
    for (std::int64_t s = 0; s < batch.sequence_length; ++s) {
      const auto at = static_cast<std::uint64_t>((first_sample + b) * batch.sequence_length + s);
      batch.tokens.push_back(
          static_cast<std::int32_t>(rng.below(static_cast<std::uint64_t>(spec.model.vocab_size), at)));
      batch.positions.push_back(static_cast<std::int32_t>(s));
      batch.segments.push_back(static_cast<std::int32_t>(b));
    }
  batch.targets = batch.tokens;
  return batch;
}

}  // namespace

bool waits_for_peers(const scheduler::Task& task) {
  return task.resources.has(Resource::kIntra) || task.resources.has(Resource::kInter);
}

template <class T>
StepProbe<T>::StepProbe(StepSpec spec, const StepVariant& v, scheduler::Recompute recompute, const MeshComms& comms,
                        ParameterStore<T>& store, const ProbeTokens& tokens, Device device)
    : spec_(std::move(spec)), device_(device), comms_(comms) {
  spec_.geometry.num_micro_batches = 1;
  spec_.geometry.micro_batch = v.groups * spec_.geometry.group_sequences;
  const scheduler::Shape shape = uniform_shape(
      spec_.model.layers,
      {v.forward_chunks, v.backward_chunks, v.weight_grad_pieces, recompute, 1, v.gradient_slices, 0, v.padded});
  const scheduler::Graph graph = emit_step(spec_, shape, dtype_of<T>);
  step_ = std::make_unique<BoundStep<T>>(spec_, scheduler::sequential_plan(graph, shape),
                                         Runtime<T>{&store, &comms, &state_, nullptr}, device_);
  const double num_tokens = double(spec_.geometry.micro_batch) * spec_.geometry.sequence_length * spec_.mesh.dp_size();
  state_.previous_choices.assign(static_cast<std::size_t>(spec_.model.layers),
                                 std::vector<double>(static_cast<std::size_t>(spec_.model.moe.experts), 0.0));
  state_.num_valid_tokens = state_.num_tokens = num_tokens;
  state_.num_groups = double(v.groups) * spec_.mesh.dp_size();
  state_.gate_noise = true;
  state_.clip_norm = 1.0;
  state_.optimizer.lr = 0.0;
  state_.optimizer.weight_decay = 0.0;
  take_tokens(tokens);
}

template <class T>
void StepProbe<T>::take_tokens(const ProbeTokens& from) {
  const StepGeometry& g = spec_.geometry;
  const std::int64_t first = std::int64_t{spec_.mesh.dp_rank()} * g.micro_batch;
  Batch batch;
  if (from.data != nullptr) {
    std::vector<std::int64_t> samples(static_cast<std::size_t>(g.micro_batch));
    std::iota(samples.begin(), samples.end(), first);
    for (std::int64_t& s : samples) s %= from.data->num_samples();
    batch = make_batch(*from.data, samples, samples, from.attend);
  } else {
    batch = made_up_batch(spec_, first);
  }
  batch_ = shard(batch, spec_.mesh.sequence_group(), spec_.mesh.sp_rank());
  state_.batches = {batch_.view()};
}

template <class T>
StepTimes StepProbe<T>::run(const ProbeClock& clock) {
  StepTimes out = device_.kind == DeviceKind::kCpu ? run_on_cpu(clock) : run_on_gpu();
  out.rank_load = std::max(1.0, unpack(state_.sums, spec_.model, state_.num_valid_tokens).rank_imbalance);
  return out;
}

template <class T>
StepTimes StepProbe<T>::run_on_gpu() {
  const scheduler::Graph& graph = step_->graph();
  comm::barrier(comms_.host_world(), *make_inline_stream());
  const scheduler::Timeline timeline = step_->run_inline({});
  StepTimes out;
  std::vector<double> comm_us;
  for (scheduler::TaskId t = 0; t < graph.num_tasks(); ++t) {
    const auto at = static_cast<std::size_t>(t);
    out.task_us.push_back(timeline.end_us[at] - timeline.start_us[at]);
    if (waits_for_peers(graph.tasks[at])) comm_us.push_back(out.task_us.back());
  }
  agree_on_least(comms_.host_world(), comm_us);
  auto next = comm_us.begin();
  for (std::size_t t = 0; t < out.task_us.size(); ++t)
    if (waits_for_peers(graph.tasks[t])) out.task_us[t] = *next++;
  std::vector<double> step_us{timeline.total_us};
  agree(comms_.host_world(), step_us);
  out.step_us = step_us[0];
  return out;
}

template <class T>
StepTimes StepProbe<T>::run_on_cpu(const ProbeClock& clock) {
  const scheduler::Graph& graph = step_->graph();
  const auto n = graph.tasks.size();
  comm::Communicator& world = comms_.world();
  const auto stream = make_inline_stream();
  // [tasks] each: CPU time, or for communication the times of start (all are there) and end.
  std::vector<double> cpu(n, 0.0), start(n, 0.0), end(n, 0.0);
  scheduler::TaskHooks hooks;
  hooks.before = [&](scheduler::TaskId t) {
    if (!waits_for_peers(graph.tasks[t])) {
      cpu[t] = -thread_cpu_us();
      return;
    }
    comm::barrier(world, *stream);
    start[t] = clock.now_us();
  };
  hooks.after = [&](scheduler::TaskId t) {
    if (!waits_for_peers(graph.tasks[t])) {
      cpu[t] += thread_cpu_us();
      return;
    }
    end[t] = clock.now_us();
    comm::barrier(world, *stream);
  };
  comm::barrier(world, *stream);
  step_->run_inline(hooks);
  comm::barrier(world, *stream);
  std::vector<double> begin{clock.now_us()};
  step_->run_inline({});
  std::vector<double> done{clock.now_us()};
  for (auto* times : {&start, &end, &begin, &done}) agree(world, *times);

  StepTimes out;
  out.task_us.resize(n);
  for (std::size_t t = 0; t < n; ++t)
    out.task_us[t] = waits_for_peers(graph.tasks[t]) ? std::max(0.0, end[t] - start[t]) : cpu[t];
  out.step_us = done[0] - begin[0];
  return out;
}

int TaskTimes::add_step(const scheduler::Graph& graph, comm::Communicator& world) {
  std::vector<double> works;
  for (const scheduler::Task& task : graph.tasks) {
    works.push_back(task.work.operations);
    works.push_back(task.work.amount);
  }
  world.broadcast(comm::as_buffer(works.data(), static_cast<std::int64_t>(works.size())), 0, *make_inline_stream());
  std::vector<int>& entry_of = entry_of_task_.emplace_back(graph.tasks.size(), -1);
  for (std::size_t t = 0; t < graph.tasks.size(); ++t) {
    const scheduler::Task& task = graph.tasks[t];
    if (task.work.kind == WorkKind::kNothing) continue;
    Entry entry{family_of(task), works[2 * t], works[2 * t + 1], waits_for_peers(task), {}};
    const auto known = std::find_if(entries_.begin(), entries_.end(), [&](const Entry& e) {
      return e.amount == entry.amount && e.operations == entry.operations && e.key == entry.key;
    });
    entry_of[t] = static_cast<int>(known - entries_.begin());
    if (known == entries_.end()) entries_.push_back(std::move(entry));
  }
  return static_cast<int>(entry_of_task_.size()) - 1;
}

void TaskTimes::add(int step, const StepTimes& times) {
  const std::vector<int>& entry_of = entry_of_task_[static_cast<std::size_t>(step)];
  for (std::size_t t = 0; t < entry_of.size(); ++t)
    if (entry_of[t] >= 0) entries_[static_cast<std::size_t>(entry_of[t])].times_us.push_back(times.task_us[t]);
  runs_.push_back({step, times.step_us});
}

void TaskTimes::fit_steps(const std::vector<double>& entry_us, double ranks_per_core) {
  std::vector<std::vector<double>> step_us(entry_of_task_.size());
  for (const Run& run : runs_) step_us[static_cast<std::size_t>(run.step)].push_back(run.step_us);
  std::vector<scheduler::Sample> samples;  // a step's own size: communication tasks, CPU time
  for (std::size_t step = 0; step < step_us.size(); ++step) {
    if (step_us[step].empty()) continue;
    double cpu_us = 0.0, comm_us = 0.0, comm_tasks = 0.0;
    for (const int e : entry_of_task_[step]) {
      if (e < 0) continue;
      const bool comm = entries_[static_cast<std::size_t>(e)].comm;
      (comm ? comm_us : cpu_us) += entry_us[static_cast<std::size_t>(e)];
      comm_tasks += comm ? 1.0 : 0.0;
    }
    const double median_us = scheduler::quantile(step_us[step], 0.5), others = ranks_per_core - 1.0;
    // share * step = cpu * (1 + others * share^2)
    const double root = median_us * median_us - 4.0 * others * cpu_us * cpu_us;
    double share = cpu_us / median_us;
    if (others > 0.0 && cpu_us > 0.0)
      share = root > 0.0 ? std::min(1.0, (median_us - std::sqrt(root)) / (2.0 * others * cpu_us)) : 1.0;
    samples.push_back({comm_tasks, cpu_us * (1.0 + others * share * share), median_us - comm_us});
  }
  const scheduler::Fit fit = scheduler::fit_linear(samples);
  stretch_ = std::max(1.0, fit.cost.beta_us);
  if (fit.cost.beta_us >= 1.0) {
    wait_us_ = fit.cost.alpha_us;
    return;
  }
  // No task takes less than its CPU time: what steps take beyond it is waiting.
  double products = 0.0, squares = 0.0;
  for (const scheduler::Sample& s : samples) {
    products += s.operations * (s.time_us - s.amount);
    squares += s.operations * s.operations;
  }
  wait_us_ = squares > 0.0 ? std::max(0.0, products / squares) : 0.0;
}

std::vector<scheduler::TaskSample> TaskTimes::samples(comm::Communicator& world, double ranks_per_core) {
  std::vector<double> entry_us;
  for (const Entry& e : entries_) entry_us.push_back(e.times_us.empty() ? 0.0 : middle_mean(e.times_us));
  agree(world, entry_us);
  if (device_.kind == DeviceKind::kCpu) fit_steps(entry_us, ranks_per_core);
  std::vector<scheduler::TaskSample> out;
  for (std::size_t i = 0; i < entries_.size(); ++i) {
    const Entry& e = entries_[i];
    out.emplace_back(
        e.key, scheduler::Sample{e.operations, e.amount, e.comm ? entry_us[i] + wait_us_ : entry_us[i] * stretch_});
  }
  return out;
}

template class StepProbe<float>;
template class StepProbe<double>;
template class StepProbe<BF16>;

}  // namespace weft::parallel
