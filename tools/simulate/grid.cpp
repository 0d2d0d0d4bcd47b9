#include "tools/simulate/grid.h"

#include <algorithm>
#include <iostream>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <tuple>
#include <vector>

#include "core/error.h"
#include "scheduler/policy.h"
#include "scheduler/simulator.h"
#include "scheduler/unequal_chunks.h"
#include "tools/exit_status.h"
#include "tools/simulate/policies.h"
#include "tools/simulate/schedule_json.h"
#include "tools/simulate/testbed.h"
#include "tools/train/text.h"

namespace weft::tools {
namespace {

using scheduler::LayerEmitter;
using scheduler::Phase;
using scheduler::PolicyKind;
using scheduler::PolicyPlan;

constexpr int kMaxChunks = 32;

/// Both directions of one layer under one policy.
struct LayerPlans {
  PolicyPlan forward, backward;
  [[nodiscard]] double total_ms() const { return (forward.price.total_us + backward.price.total_us) / 1e3; }
};

struct CaseResult {
  std::array<LayerPlans, scheduler::kNumPolicies> policies;
  double bound_ms = 0.0;
  struct Unequal {
    scheduler::UnequalPlan forward, backward;
    double bound_ms = 0.0;
    [[nodiscard]] double total_ms() const { return (forward.total_us + backward.total_us) / 1e3; }
  };
  std::optional<Unequal> unequal;
};

class Layer {
 public:
  Layer(const TestbedModel& testbed, const GridCase& c, bool gradients)
      : cost_(testbed.cost(c)),
        forward_(make(testbed, c, Phase::kForward, false)),
        backward_(make(testbed, c, Phase::kBackward, gradients)) {}

  [[nodiscard]] CaseResult solve(const std::vector<PolicyKind>& wanted) const {
    CaseResult out;
    out.bound_ms = (forward_.bound_us(cost_) + backward_.bound_us(cost_)) / 1e3;
    std::vector<scheduler::Plan> forward_plans, backward_plans;
    const bool all = std::find(wanted.begin(), wanted.end(), PolicyKind::kWeft) != wanted.end();
    for (int p = 0; p < scheduler::kNumPolicies; ++p) {
      const auto policy = static_cast<PolicyKind>(p);
      const bool named = std::find(wanted.begin(), wanted.end(), policy) != wanted.end();
      const bool base = wanted.size() > 1 && (policy == PolicyKind::kSequential || policy == PolicyKind::kFsMoe);
      if (policy == PolicyKind::kWeft || !(all || named || base)) continue;
      out.policies[p] = solve_other(policy);
      forward_plans.push_back(out.policies[p].forward.plan);
      backward_plans.push_back(out.policies[p].backward.plan);
    }
    if (all) {
      const auto search = [&](const LayerEmitter& emitter, const std::vector<scheduler::Plan>& incumbents) {
        scheduler::SearchResult r = scheduler::search_plan(emitter, cost_, incumbents, {1e6, 0, 1});
        return PolicyPlan{std::move(r.plan), r.price, r.num_candidates};
      };
      out.policies[static_cast<int>(PolicyKind::kWeft)] = {search(forward_, forward_plans),
                                                           search(backward_, backward_plans)};
    }
    return out;
  }

  /// Chunks of unequal sizes, from weft's plans.
  [[nodiscard]] CaseResult::Unequal solve_unequal(const LayerPlans& weft) const {
    return {scheduler::unequal_chunks(forward_, cost_, weft.forward.plan),
            scheduler::unequal_chunks(backward_, cost_, weft.backward.plan),
            (forward_.unequal_bound_us(cost_) + backward_.unequal_bound_us(cost_)) / 1e3};
  }

  [[nodiscard]] nlohmann::ordered_json tasks(const LayerPlans& plans) const {
    nlohmann::ordered_json out = nlohmann::ordered_json::array();
    const auto timeline = [&](const scheduler::Graph& graph, const PolicyPlan& plan) {
      return scheduler::simulate(graph, plan.plan, scheduler::assign_slots(graph, plan.plan), cost_, false);
    };
    const scheduler::Graph forward = forward_.emit(plans.forward.plan.shape),
                           backward = backward_.emit(plans.backward.plan.shape);
    append_tasks(out, forward, timeline(forward, plans.forward));
    std::vector<std::int64_t> ends;  // the backward starts when the forward is done
    for (scheduler::TaskId t = 0; t < forward.num_tasks(); ++t)
      if (forward.tasks[t].stage == scheduler::Stage::kCombine) ends.push_back(t);
    append_tasks(out, backward, timeline(backward, plans.backward), forward.num_tasks(), plans.forward.price.total_us,
                 ends);
    return out;
  }

  [[nodiscard]] int forward_chunks(const LayerPlans& p) const { return forward_.chunks(p.forward.plan.shape); }
  [[nodiscard]] int backward_chunks(const LayerPlans& p) const { return backward_.chunks(p.backward.plan.shape); }

 private:
  static LayerEmitter make(const TestbedModel& testbed, const GridCase& c, Phase phase, bool gradients) {
    return {testbed.work(c, gradients), phase, kMaxChunks};
  }

  /// Tutel and its kin, and FlowMoE, have one degree for both directions.
  [[nodiscard]] LayerPlans solve_other(PolicyKind policy) const {
    const auto both = [&](const scheduler::PolicyOptions& options) {
      return LayerPlans{scheduler::make_plan(policy, forward_, cost_, options),
                        scheduler::make_plan(policy, backward_, cost_, options)};
    };
    const bool joint = policy != PolicyKind::kFsMoe && policy != PolicyKind::kFsMoeNoIio;
    if (!joint) return both({});
    LayerPlans best;
    best.forward.price.total_us = std::numeric_limits<double>::infinity();
    for (const int r : {1, 2, 4, 8}) {
      scheduler::PolicyOptions options;
      options.degrees = {r};
      LayerPlans plans = both(options);
      if (plans.total_ms() < best.total_ms()) best = std::move(plans);
    }
    return best;
  }

  const scheduler::CostModel& cost_;
  LayerEmitter forward_, backward_;
};

struct Statistics {
  std::array<double, scheduler::kNumPolicies> sum_over_fsmoe{}, sum_over_sequential{};
  double sum_gap = 0.0, max_gap = 0.0;
  double sum_unequal_gain = 0.0, max_unequal_gain = 0.0, sum_unequal_over_fsmoe = 0.0, sum_unequal_gap = 0.0;
  int cases = 0;

  void add(const CaseResult& r, const std::vector<PolicyKind>& wanted) {
    ++cases;
    const auto ms = [&](PolicyKind p) { return r.policies[static_cast<std::size_t>(p)].total_ms(); };
    for (const PolicyKind p : wanted) {
      const auto i = static_cast<std::size_t>(p);
      if (wanted.size() > 1) {
        sum_over_fsmoe[i] += ms(PolicyKind::kFsMoe) / ms(p);
        sum_over_sequential[i] += ms(PolicyKind::kSequential) / ms(p);
      }
    }
    const double gap = ms(wanted.back()) / r.bound_ms - 1.0;
    sum_gap += gap;
    max_gap = std::max(max_gap, gap);
    if (!r.unequal) return;
    const double unequal = r.unequal->total_ms(), gain = ms(PolicyKind::kWeft) / unequal;
    sum_unequal_gain += gain;
    max_unequal_gain = std::max(max_unequal_gain, gain);
    sum_unequal_gap += unequal / r.unequal->bound_ms - 1.0;
    if (wanted.size() > 1) sum_unequal_over_fsmoe += ms(PolicyKind::kFsMoe) / unequal;
  }
  [[nodiscard]] nlohmann::ordered_json json(const std::vector<PolicyKind>& wanted) const {
    nlohmann::ordered_json out{{"cases", cases}};
    for (const PolicyKind p : wanted) {
      if (wanted.size() == 1) break;
      const auto i = static_cast<std::size_t>(p);
      out["mean_speedup_over_fsmoe"][std::string(to_string(p))] = sum_over_fsmoe[i] / cases;
      out["mean_speedup_over_sequential"][std::string(to_string(p))] = sum_over_sequential[i] / cases;
    }
    out["gap_policy"] = std::string(to_string(wanted.back()));
    out["mean_gap"] = sum_gap / cases;
    out["max_gap"] = max_gap;
    if (sum_unequal_gain == 0.0) return out;
    auto& unequal = out["weft_unequal"];
    unequal["mean_speedup_over_weft"] = sum_unequal_gain / cases;
    unequal["max_speedup_over_weft"] = max_unequal_gain;
    if (wanted.size() > 1) unequal["mean_speedup_over_fsmoe"] = sum_unequal_over_fsmoe / cases;
    unequal["mean_gap"] = sum_unequal_gap / cases;
    return out;
  }
};

nlohmann::ordered_json case_json(const GridCase& c, const Layer& layer, const CaseResult& r,
                                 const std::vector<PolicyKind>& wanted) {
  nlohmann::ordered_json out{{"B", c.batch},
                             {"heads", c.heads},
                             {"L", c.sequence_length},
                             {"M", c.model_dim},
                             {"H", c.hidden_dim},
                             {"kf", c.rows_per_token},
                             {"ffn", c.gated ? "mixtral" : "simple"},
                             {"lower_bound_ms", r.bound_ms}};
  for (const PolicyKind p : wanted) {
    const LayerPlans& plans = r.policies[static_cast<std::size_t>(p)];
    out["policies"][std::string(to_string(p))] = {{"forward_ms", plans.forward.price.total_us / 1e3},
                                                  {"backward_ms", plans.backward.price.total_us / 1e3},
                                                  {"total_ms", plans.total_ms()},
                                                  {"r_forward", layer.forward_chunks(plans)},
                                                  {"r_backward", layer.backward_chunks(plans)}};
  }
  if (r.unequal)
    out["weft_unequal"] = {{"forward_ms", r.unequal->forward.total_us / 1e3},
                           {"backward_ms", r.unequal->backward.total_us / 1e3},
                           {"total_ms", r.unequal->total_ms()},
                           {"lower_bound_ms", r.unequal->bound_ms},
                           {"shares_forward", r.unequal->forward.shares},
                           {"shares_backward", r.unequal->backward.shares}};
  return out;
}

void print(const nlohmann::ordered_json& document, const std::vector<PolicyKind>& wanted) {
  const auto& summary = document["summary"];
  std::cout << document["cluster"].get<std::string>() << ": " << summary["cases"] << " layers, forward + backward\n";
  if (wanted.size() > 1) {
    std::cout << "policy          speedup over sequential   over fsmoe (means)\n";
    for (const PolicyKind p : wanted) {
      const std::string name(to_string(p));
      std::cout << name << std::string(18 - name.size(), ' ')
                << fixed(summary["mean_speedup_over_sequential"][name].get<double>(), 3) << std::string(22, ' ')
                << fixed(summary["mean_speedup_over_fsmoe"][name].get<double>(), 3) << "\n";
    }
  }
  std::cout << "gap of " << summary["gap_policy"].get<std::string>() << " to the lower bound: mean "
            << fixed(100 * summary["mean_gap"].get<double>(), 2) << " %, worst "
            << fixed(100 * summary["max_gap"].get<double>(), 2) << " %\n";
  if (!summary.contains("weft_unequal")) return;
  const auto& unequal = summary["weft_unequal"];
  std::cout << "chunks of unequal sizes over weft: mean " << fixed(unequal["mean_speedup_over_weft"].get<double>(), 3)
            << ", best " << fixed(unequal["max_speedup_over_weft"].get<double>(), 3)
            << "; mean gap to their own lower bound " << fixed(100 * unequal["mean_gap"].get<double>(), 2) << " %\n";
}

}  // namespace

int simulate_grid(const GridOptions& options) {
  const TestbedModel testbed = load_testbed(options.cluster);
  const std::vector<PolicyKind> wanted = policies_named(options.policy);
  const std::vector<GridCase> cases = grid_cases(testbed);
  if (options.only_case && (*options.only_case < 0 || *options.only_case >= static_cast<int>(cases.size())))
    throw Error(ErrorCode::kInvalidArgument,
                str("--case ", *options.only_case, ": the grid has cases 0 to ", cases.size() - 1));
  if (!options.schedule_out.empty() && !options.only_case)
    throw Error(ErrorCode::kInvalidArgument, "--schedule_out with --grid needs --case N", "a schedule is of one layer");
  if (options.unequal && wanted.back() != PolicyKind::kWeft)
    throw Error(ErrorCode::kInvalidArgument, "--unequal starts from weft's plan", "use --policy weft or all");

  nlohmann::ordered_json document{{"cluster", testbed.source}, {"cases", nlohmann::ordered_json::array()}};
  Statistics statistics;
  using Key = std::tuple<int, int, int, int, double, bool>;  // heads are no part of the layer's time
  std::map<Key, CaseResult> known;
  for (std::size_t i = 0; i < cases.size(); ++i) {
    if (options.only_case && static_cast<std::size_t>(*options.only_case) != i) continue;
    const GridCase& c = cases[i];
    const Layer layer(testbed, c, options.gradients);
    const Key key{c.batch, c.sequence_length, c.model_dim, c.hidden_dim, c.rows_per_token, c.gated};
    auto at = known.find(key);
    if (at == known.end()) {
      at = known.emplace(key, layer.solve(wanted)).first;
      if (options.unequal)
        at->second.unequal = layer.solve_unequal(at->second.policies[static_cast<std::size_t>(PolicyKind::kWeft)]);
    }
    statistics.add(at->second, wanted);
    document["cases"].push_back(case_json(c, layer, at->second, wanted));
    if (!options.schedule_out.empty()) {
      const LayerPlans& plans = at->second.policies[static_cast<std::size_t>(wanted.back())];
      write_schedule(options.schedule_out, std::string(to_string(wanted.back())), plans.total_ms(), layer.tasks(plans));
    }
  }
  document["summary"] = statistics.json(wanted);
  if (options.json)
    std::cout << document.dump(1) << "\n";
  else
    print(document, wanted);
  return kExitDone;
}

}  // namespace weft::tools
