#include "tools/report/report.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "core/atomic_file.h"
#include "core/error.h"
#include "parallel/model/parameters.h"
#include "tools/config/loader.h"
#include "tools/config/schedule_files.h"
#include "tools/report/metrics_table.h"
#include "tools/report/plan_view.h"
#include "tools/report/router_view.h"
#include "tools/report/step_view.h"
#include "tools/report/traffic_view.h"
#include "tools/train/replan_files.h"

namespace weft::tools {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

/// The report under way, and what it could not find.
struct Draft {
  fs::path run_dir;
  ordered_json report;
  [[nodiscard]] bool has(const char* file) const { return fs::exists(run_dir / file); }
  [[nodiscard]] std::string read(const char* file) const { return read_file(run_dir / file); }
  [[nodiscard]] std::string name(const char* file) const { return (run_dir / file).string(); }
  void miss(const std::string& what, const std::string& how) {
    report["missing"].push_back({{"what", what}, {"how", how}});
  }
};

/// A JSON file of the folder; null when there is none.
ordered_json read_json(const Draft& draft, const char* file) {
  if (!draft.has(file)) return nullptr;
  ordered_json value = ordered_json::parse(draft.read(file), nullptr, false);
  if (value.is_discarded())
    throw Error(ErrorCode::kInvalidArgument, draft.name(file) + " is not JSON",
                "remove it, or let the run write it again");
  return value;
}

/// The same, where `check` reads what the report will; what it does not find is said by the file's name.
template <class Check>
ordered_json read_json(const Draft& draft, const char* file, const Check& check) {
  ordered_json value = read_json(draft, file);
  if (value.is_null()) return value;
  try {
    check(std::as_const(value));
  } catch (const ordered_json::exception& e) {
    throw Error(ErrorCode::kInvalidArgument, str(draft.name(file), " is not what weft train writes: ", e.what()),
                "remove it, or let the run write it again");
  }
  return value;
}

void check_environment(const ordered_json& environment) {
  const int ranks = environment.at("ranks").get<int>();
  const int ranks_per_node = environment.value("ranks_per_node", ranks);
  if (ranks < 1 || ranks_per_node < 1)
    throw Error(ErrorCode::kInvalidArgument, str("env.json: ", ranks, " ranks, ", ranks_per_node, " a node"),
                "remove it, or let the run write it again");
}

void check_prediction(const ordered_json& prediction) {
  const auto times = [](const ordered_json& row) {
    static_cast<void>(row.at("measured_ms").get<double>());
    static_cast<void>(row.at("predicted_ms").get<double>());
    if (!row.at("error").is_null()) static_cast<void>(row.at("error").get<double>());
  };
  times(prediction.at("step"));
  for (const ordered_json& stage : prediction.at("stages")) {
    static_cast<void>(stage.at("stage").get<std::string>());
    times(stage);
  }
}

std::vector<int> moe_layers(const parallel::ModelConfig& model) {
  std::vector<int> out;
  for (int l = 0; l < model.layers; ++l)
    if (model.is_moe_layer(l)) out.push_back(l);
  return out;
}

void add_run(Draft& draft, const parallel::RunConfig& config) {
  const parallel::ModelConfig& m = config.model;
  const parallel::ParameterCount count = parallel::count_parameters(m);
  draft.report["run"] = {{"name", config.name},
                         {"folder", draft.run_dir.string()},
                         {"parameters", count.total},
                         {"active_parameters", count.active},
                         {"layers", m.layers},
                         {"moe_layers", moe_layers(m).size()},
                         {"experts", m.moe.experts},
                         {"top_k", m.moe.top_k},
                         {"capacity_factor", m.moe.capacity_factor},
                         {"steps", config.train.steps},
                         {"global_batch", config.train.global_batch},
                         {"micro_batch", config.train.micro_batch},
                         {"sequence_length", config.train.sequence_length},
                         {"ep", config.parallel.expert},
                         {"esp", config.parallel.expert_shard},
                         {"sp", config.parallel.sequence_heads * config.parallel.sequence_ring}};
}

void add_metrics(Draft& draft, const parallel::RunConfig& config) {
  const MetricsTable table = read_metrics(draft.run_dir / "metrics.jsonl");
  draft.report["curves"] = curves_json(table);
  if (draft.report["curves"]["validation"]["step"].empty())
    draft.miss("validation loss", "data.val in the config, and train.validate_every for more than the last step");
  draft.report["router"] = router_json(table.router, moe_layers(config.model));
  if (draft.report["router"].is_null() && !moe_layers(config.model).empty())
    draft.miss("tokens of each expert over time", "weft train --set metrics.router_every=10");
}

/// The stage table of the run, and where it has none, of its traced step.
ordered_json stages_of(const ordered_json& prediction, const std::vector<StepView>& steps) {
  if (!prediction.is_null()) return prediction;
  if (steps.size() < 2) return nullptr;
  ordered_json out{{"cost_source", nullptr}, {"steps", 1}, {"step", nullptr}, {"stages", ordered_json::array()}};
  const auto row = [](double predicted_us, double measured_us) {
    return ordered_json{{"predicted_ms", predicted_us / 1e3},
                        {"measured_ms", measured_us / 1e3},
                        {"error", measured_us > 0 ? ordered_json(predicted_us / measured_us - 1.0) : ordered_json()}};
  };
  out["step"] = row(steps[1].timeline.total_us, steps[0].timeline.total_us);
  for (int s = 0; s < scheduler::kNumStages; ++s) {
    double us[2] = {0.0, 0.0};
    for (std::size_t i = 0; i < 2; ++i)
      for (std::size_t t = 0; t < steps[i].graph.tasks.size(); ++t)
        if (steps[i].graph.tasks[t].stage == static_cast<scheduler::Stage>(s))
          us[i] += steps[i].timeline.end_us[t] - steps[i].timeline.start_us[t];
    if (us[0] <= 0.0 && us[1] <= 0.0) continue;
    ordered_json stage{{"stage", to_string(static_cast<scheduler::Stage>(s))}};
    stage.update(row(us[1], us[0]));
    out["stages"].push_back(std::move(stage));
  }
  return out;
}

void add_steps(Draft& draft, std::vector<StepView> simulated) {
  std::vector<StepView> steps;
  if (draft.has("trace.json")) {
    steps = read_trace(draft.read("trace.json"), draft.name("trace.json"));
  } else {
    steps = std::move(simulated);
    draft.miss("the timeline and overlaps of a measured step", "weft train --trace 10");
  }
  const ordered_json prediction = read_json(draft, "prediction.json", check_prediction);
  if (prediction.is_null())
    draft.miss("predicted next to measured times of all steps",
               "weft train writes them when a run ends or is stopped on request");
  draft.report["stages"] = stages_of(prediction, steps);
  for (const StepView& step : steps) draft.report["timeline"].push_back(step_json(step));
}

/// The costs in force: as the last replanning refitted them, else those that the run was planned with.
scheduler::CostModel add_costs(Draft& draft) {
  constexpr double kAny = -std::numeric_limits<double>::infinity();  // it was accepted when the run began
  const char* file = draft.has("costs.textproto") ? "costs.textproto" : "profile.textproto";
  const bool measured = draft.has(file);
  if (!measured)
    draft.miss("measured costs", "weft profile CONFIG --out FILE, then weft train --set schedule.profile=FILE");
  scheduler::CostModel cost = measured ? costs_from_text(draft.read(file), draft.name(file), kAny) : nominal_costs();
  draft.report["costs"] = costs_json(cost);
  draft.report["costs"]["refitted"] = draft.has("costs.textproto");
  return cost;
}

/// What can be worked out anew from what the folder keeps. The plan's simulated step is returned.
std::vector<StepView> add_plan(Draft& draft, const parallel::RunConfig& config, const ordered_json& environment) {
  const scheduler::CostModel cost = add_costs(draft);
  if (!draft.has("plan.textproto") || environment.is_null()) {
    draft.miss("the plan in words", "a run folder with plan.textproto and env.json, which weft train writes");
    return {};
  }
  const int ranks = environment["ranks"].get<int>();
  const int ranks_per_node = environment.value("ranks_per_node", ranks);
  std::vector<StepView> steps;
  try {
    scheduler::Plan plan = plan_from_text(draft.read("plan.textproto"), draft.name("plan.textproto"));
    const Comparison comparison = compare_plan(config, ranks, ranks_per_node, cost, std::move(plan));
    draft.report["plan"] = plan_json(comparison);
    steps.push_back(simulated_step(config, comparison.plans.front().run, cost.machine));
  } catch (const Error& e) {
    draft.miss("the plan in words", e.message());
  }
  return steps;
}

void add_traffic(Draft& draft) {
  const ordered_json traffic = read_json(draft, "traffic.json");
  if (traffic.is_null())
    draft.miss("bytes sent from rank to rank", "weft train writes them when a run ends or is stopped on request");
  else
    draft.report["traffic"] = traffic_json(traffic, draft.name("traffic.json"));
}

}  // namespace

ordered_json make_report(const fs::path& run_dir) {
  Draft draft{run_dir, {{"schema", 1}, {"format", "weft.report"}}};
  for (const char* part : {"run", "missing", "curves", "stages", "timeline", "router", "traffic", "costs", "plan",
                           "environment", "replans", "config"})
    draft.report[part] = nullptr;
  draft.report["missing"] = ordered_json::array();
  draft.report["timeline"] = ordered_json::array();
  if (!draft.has("metrics.jsonl"))
    throw Error(ErrorCode::kIo, str(run_dir.string(), " holds no metrics.jsonl"),
                "give the folder of a run, as weft train made it");
  draft.report["config"] = draft.read("config.textproto");
  const parallel::RunConfig config =
      parse_config(draft.report["config"].get<std::string>(), draft.name("config.textproto"));
  draft.report["environment"] = read_json(draft, "env.json", check_environment);
  add_run(draft, config);
  add_metrics(draft, config);
  add_steps(draft, add_plan(draft, config, draft.report["environment"]));
  add_traffic(draft);
  draft.report["replans"] = read_replans(run_dir);
  return std::move(draft.report);
}

}  // namespace weft::tools
