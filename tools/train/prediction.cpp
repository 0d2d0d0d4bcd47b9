#include "tools/train/prediction.h"

#include <cstdio>
#include <utility>

#include "core/atomic_file.h"
#include "core/error.h"
#include "scheduler/fit.h"
#include "scheduler/trace.h"
#include "tools/train/text.h"

namespace weft::tools {
namespace {

constexpr std::size_t kKept = 512;

nlohmann::ordered_json compared(double predicted_ms, double measured_ms) {
  nlohmann::ordered_json out{{"predicted_ms", predicted_ms}, {"measured_ms", measured_ms}, {"error", nullptr}};
  if (measured_ms > 0.0) out["error"] = predicted_ms / measured_ms - 1.0;
  return out;
}

}  // namespace

void Prediction::start(const parallel::RunPlan& plan) {
  plan_ = plan;
  steps_.clear();
  num_steps_ = 0;
}

void Prediction::add(const parallel::StepReport& report, const scheduler::Graph& graph,
                     const scheduler::Timeline& timeline) {
  if (++num_steps_ == 2 || steps_.size() == kKept) steps_.pop_front();
  Step& step = steps_.emplace_back();
  step.total_ms = report.step_ms;
  for (scheduler::TaskId t = 0; t < graph.num_tasks(); ++t)
    step.stage_ms[static_cast<std::size_t>(graph.tasks[t].stage)] += (timeline.end_us[t] - timeline.start_us[t]) / 1e3;
}

nlohmann::ordered_json Prediction::to_json() const {
  const auto median = [&](const auto& of) {
    std::vector<double> values;
    for (const Step& step : steps_) values.push_back(of(step));
    return values.empty() ? 0.0 : scheduler::quantile(std::move(values), 0.5);
  };
  nlohmann::ordered_json out{
      {"cost_source", plan_.cost_source},
      {"policy", plan_.plan.policy},
      {"steps", steps_.size()},
      {"step", compared(plan_.predicted_ms, median([](const Step& step) { return step.total_ms; }))},
      {"stages", nlohmann::ordered_json::array()}};
  for (std::size_t s = 0; s < scheduler::kNumStages; ++s) {
    const double measured = median([s](const Step& step) { return step.stage_ms[s]; });
    if (measured <= 0.0 && plan_.predicted_stage_ms[s] <= 0.0) continue;
    nlohmann::ordered_json stage{{"stage", to_string(static_cast<scheduler::Stage>(s))}};
    stage.update(compared(plan_.predicted_stage_ms[s], measured));
    out["stages"].push_back(std::move(stage));
  }
  return out;
}

std::vector<std::string> Prediction::table() const {
  const nlohmann::ordered_json facts = to_json();
  char text[128];
  std::snprintf(text, sizeof text, "%-18s %12s %12s %8s", "", "predicted ms", "measured ms", "error");
  std::vector<std::string> lines{text};
  const auto add = [&](const std::string& name, const nlohmann::ordered_json& of) {
    std::string error = "-";
    if (!of["error"].is_null()) error = fixed(100.0 * of["error"].get<double>(), 1) + "%";
    if (error.front() != '-') error.insert(0, "+");
    std::snprintf(text, sizeof text, "%-18s %12.2f %12.2f %8s", name.c_str(), of["predicted_ms"].get<double>(),
                  of["measured_ms"].get<double>(), error.c_str());
    lines.emplace_back(text);
  };
  for (const auto& stage : facts["stages"]) add("  " + stage["stage"].get<std::string>(), stage);
  add("step", facts["step"]);
  return lines;
}

void write_trace(const std::string& path, const parallel::RunPlan& plan, const MeasuredStep& measured) {
  const scheduler::TraceProcess processes[] = {
      {str("measured, step ", measured.step), measured.graph, measured.timeline},
      {"simulated", measured.graph, &plan.predicted}};
  write_file(path, scheduler::chrome_trace(processes));
}

}  // namespace weft::tools
