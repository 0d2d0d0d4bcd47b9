#include "parallel/train/replanner.h"

#include <algorithm>
#include <chrono>
#include <map>
#include <nlohmann/json.hpp>
#include <utility>

#include "core/error.h"
#include "parallel/train/probe_clock.h"
#include "parallel/train/probe_step.h"

namespace weft::parallel {
namespace {

using Json = nlohmann::ordered_json;

std::string hex(std::uint64_t digest) {
  char text[20];
  std::snprintf(text, sizeof text, "%016llx", static_cast<unsigned long long>(digest));
  return text;
}

Json entry(std::int64_t step, const char* action, std::string reason, double measured_ms) {
  return {{"step", step}, {"action", action}, {"reason", std::move(reason)}, {"measured_ms", measured_ms}};
}

Json before_and_after(double before_ms, double after_ms) { return {{"before", before_ms}, {"after", after_ms}}; }

std::string percent(double share) {
  char text[32];
  std::snprintf(text, sizeof text, "%.1f%%", 100.0 * share);
  return text;
}

}  // namespace

Replanner::Replanner(const RunConfig& config, comm::Communicator& world, const scheduler::CostModel& cost,
                     std::vector<std::string> log)
    : config_(config), world_(world), cost_(cost), first_source_(cost.source), log_(std::move(log)) {
  for (const std::string& line : log_) {
    const Json known = Json::parse(line, nullptr, false);
    if (known.is_object() && known.value("action", "") == "give_up")
      given_up_.push_back(std::stoull(known.value("digest", "0"), nullptr, 16));
  }
}

void Replanner::observe(const scheduler::Graph& graph, const scheduler::Timeline& timeline, double step_ms) {
  if (skipped_++ == 0) return;
  graph_ = &graph;
  std::vector<double>& us = task_us_.emplace_back(graph.tasks.size());
  for (std::size_t t = 0; t < us.size(); ++t) us[t] = timeline.end_us[t] - timeline.start_us[t];
  step_ms_.push_back(step_ms);
}

/// Medians over the steps. Computation: of the slowest rank; communication: of the rank that came last, which waited
/// for nobody.
std::vector<double> Replanner::agreed_task_us() const {
  std::vector<double> out(graph_->tasks.size()), of_task(task_us_.size());
  const auto sign = [&](std::size_t t) { return waits_for_peers(graph_->tasks[t]) ? -1.0 : 1.0; };
  for (std::size_t t = 0; t < out.size(); ++t) {
    for (std::size_t s = 0; s < task_us_.size(); ++s) of_task[s] = task_us_[s][t];
    out[t] = sign(t) * scheduler::quantile(of_task, 0.5);
  }
  agree(world_, out);
  for (std::size_t t = 0; t < out.size(); ++t) out[t] *= sign(t);
  return out;
}

double Replanner::agreed_step_ms() const {
  std::vector<double> median{scheduler::quantile(step_ms_, 0.5)};
  agree(world_, median);
  return median[0];
}

/// Rank 0's text, on every rank.
std::string Replanner::shared(const std::string& text) const {
  const auto stream = make_inline_stream();
  auto length = static_cast<std::int64_t>(text.size());
  world_.broadcast(comm::as_buffer(&length, 1), 0, *stream);
  std::vector<std::int32_t> letters(static_cast<std::size_t>(length));
  if (world_.rank() == 0) std::copy(text.begin(), text.end(), letters.begin());
  world_.broadcast(comm::as_buffer(letters.data(), length), 0, *stream);
  std::string out;
  for (const std::int32_t c : letters) out.push_back(static_cast<char>(c));
  return out;
}

/// `current` is priced with the refitted costs.
Replanner::Decision Replanner::look(std::int64_t step, const RunPlan& current, double measured_ms) const {
  const auto start = std::chrono::steady_clock::now();
  const RunPlan next = take_plan(config_, current.mesh, cost_, make_plan(config_, current.mesh, cost_));
  const double planning_ms =
      std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
  const std::uint64_t digest = scheduler::digest(next.plan);
  const double gain = 1.0 - next.predicted_ms / current.predicted_ms;
  const double saved_ms = gain * measured_ms * static_cast<double>(config_.train.steps - step);
  std::string keep;
  if (digest == scheduler::digest(current.plan))
    keep = "the refitted costs choose the same plan";
  else if (std::find(given_up_.begin(), given_up_.end(), digest) != given_up_.end())
    keep = "the plan they choose was tried and given up";
  else if (!(gain > kHysteresis))
    keep = str("the best plan is predicted to gain ", percent(gain), ", not more than ", percent(kHysteresis));
  else if (saved_ms <= 2.0 * planning_ms)  // binding emits the step again
    keep = str("the steps that are left would save ", saved_ms, " ms, less than a change costs");
  Json line = entry(step, keep.empty() ? "try" : "keep", keep.empty() ? str("predicted to gain ", percent(gain)) : keep,
                    measured_ms);
  line["predicted_ms"] = before_and_after(current.predicted_ms, next.predicted_ms);
  line["policy"] = next.plan.policy;
  line["digest"] = hex(digest);
  if (!keep.empty()) return {std::nullopt, line.dump()};
  return {next.plan, line.dump()};
}

Replanner::Decision Replanner::judge_trial(std::int64_t step, const RunPlan& current, double measured_ms) const {
  const double gain = 1.0 - measured_ms / incumbent_ms_;
  const bool faster = gain > kTrialGain;
  const double after_ms =
      faster ? current.predicted_ms : take_plan(config_, current.mesh, cost_, *incumbent_).predicted_ms;
  Json line = entry(step, faster ? "accept" : "give_up", str("measured to gain ", percent(gain)), measured_ms);
  line["measured_before_ms"] = incumbent_ms_;
  line["predicted_ms"] = before_and_after(current.predicted_ms, after_ms);
  line["policy"] = (faster ? current.plan : *incumbent_).policy;
  line["digest"] = hex(scheduler::digest(current.plan));
  return {faster ? std::nullopt : incumbent_, line.dump()};
}

/// Nothing on ranks other than 0.
Replanner::Decision Replanner::decide(std::int64_t step, const RunPlan& current, double measured_ms) const {
  if (world_.rank() != 0) return {};
  try {
    return incumbent_ ? judge_trial(step, current, measured_ms) : look(step, current, measured_ms);
  } catch (const Error& e) {  // the run goes well as it is
    Json line = entry(step, "keep", "planning failed: " + e.message(), measured_ms);
    line["predicted_ms"] = before_and_after(current.predicted_ms, current.predicted_ms);
    return {std::nullopt, line.dump()};
  }
}

/// Puts rank 0's `plan` into force, unless a rank has no memory for it.
void Replanner::change_plan(const scheduler::Plan& plan, Replan& out) {
  RunPlan next = take_plan(config_, out.plan.mesh, cost_, agree_on_plan(world_, [&] { return plan; }));
  try {
    require_memory(config_, peak_memory(world_, next), next.plan);
  } catch (const Error& e) {  // on every rank: planned within rank 0's memory, but another's is fuller
    incumbent_.reset();
    given_up_.push_back(scheduler::digest(next.plan));
    Json line = Json::parse(log_.back());
    line["action"] = "keep";
    line["reason"] = e.message();
    log_.back() = line.dump();
    return;
  }
  out.plan = std::move(next);
  out.changes = true;
  skipped_ = 0;
}

std::optional<Replan> Replanner::consider(std::int64_t step, const RunPlan& current) {
  if (static_cast<int>(step_ms_.size()) < config_.schedule.replan || step >= config_.train.steps) return std::nullopt;
  const double measured_ms = agreed_step_ms();
  cost_ = scheduler::refit(cost_, *graph_, current.predicted, agreed_task_us());
  cost_.source = str("measured steps of this run up to step ", step, "; at its start ", first_source_);
  Replan out{step, {}, false, take_plan(config_, current.mesh, cost_, current.plan), cost_};
  const bool trial = incumbent_.has_value();
  const Decision decision = decide(step, out.plan, measured_ms);
  std::int64_t changes = decision.plan ? 1 : 0;
  world_.broadcast(comm::as_buffer(&changes, 1), 0, *make_inline_stream());
  log_.push_back(shared(decision.entry));
  task_us_.clear();
  step_ms_.clear();
  if (trial) {
    incumbent_.reset();
    if (changes != 0) given_up_.push_back(scheduler::digest(current.plan));
  } else if (changes != 0) {
    incumbent_ = current.plan;
    incumbent_ms_ = measured_ms;
  }
  if (changes != 0) change_plan(decision.plan.value_or(scheduler::Plan{}), out);
  out.entry = log_.back();
  return out;
}

}  // namespace weft::parallel
