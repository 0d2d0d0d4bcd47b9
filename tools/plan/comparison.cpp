#include "tools/plan/comparison.h"

#include <algorithm>
#include <chrono>
#include <iostream>
#include <set>

#include "core/error.h"
#include "parallel/train/run_setup.h"
#include "scheduler/bound.h"
#include "tools/simulate/policies.h"
#include "tools/train/text.h"

namespace weft::tools {
namespace {

using scheduler::PolicyKind;
using scheduler::Resource;

ComparedPlan compared(PolicyKind policy, const parallel::RunConfig& config, const parallel::Mesh& mesh,
                      const parallel::StepEmitter& emitter, const scheduler::CostModel& cost, scheduler::Plan plan) {
  ComparedPlan out;
  out.policy = policy;
  out.run = parallel::take_plan(config, mesh, cost, std::move(plan));
  const scheduler::Graph graph = emitter.emit(out.run.plan.shape);
  const scheduler::Timeline& timeline = out.run.predicted;
  out.exposed_comm_ms = scheduler::exposed_comm_us(graph, timeline) / 1e3;
  out.exposed_stage_ms = scheduler::exposed_stage_us(graph, timeline);
  for (double& us : out.exposed_stage_ms) us /= 1e3;
  for (scheduler::TaskId t = 0; t < graph.num_tasks(); ++t)
    for (int r = 0; r < 3; ++r)
      if (graph.tasks[t].resources.has(static_cast<Resource>(r)) && timeline.total_us > 0)
        out.busy[static_cast<std::size_t>(r)] += (timeline.end_us[t] - timeline.start_us[t]) / timeline.total_us;
  return out;
}

const ComparedPlan* find(const Comparison& c, PolicyKind policy) {
  for (const ComparedPlan& plan : c.plans)
    if (plan.policy == policy) return &plan;
  return nullptr;
}

std::string range(const std::vector<int>& values) {
  const auto [low, high] = std::minmax_element(values.begin(), values.end());
  return *low == *high ? str(*low) : str(*low, " to ", *high);
}

/// How the step is cut: "forward in 2 chunks, ...".
std::string cut_in_words(const scheduler::Shape& shape, int micro_batches) {
  std::vector<int> forward, backward, pieces, slices, subs;
  for (const scheduler::LayerShape& l : shape.layers) {
    forward.push_back(l.forward_chunks);
    backward.push_back(l.backward_chunks);
    pieces.push_back(std::min(l.weight_grad_pieces, l.backward_chunks));
    slices.push_back(static_cast<int>(std::max<std::size_t>(1, l.gradient_shares.size())));
  }
  for (int m = 0; m < micro_batches; ++m) subs.push_back(scheduler::sub_batches_of(shape, m));
  std::string out = str("chunks of a MoE layer: ", range(forward), " forward, ", range(backward), " backward; ");
  out += *std::max_element(pieces.begin(), pieces.end()) == 0
             ? std::string("expert dW together with dX")
             : str("expert dW apart from dX, pieces of it: ", range(pieces));
  out += str("; sub-batches of a micro-batch: ", range(subs), "; pieces of a gradient reduction: ", range(slices));
  if (shape.padded) out += "; rows padded to capacities, so nobody exchanges counts";
  if (micro_batches == 1) return out;
  out += shape.micro_batches_in_flight == 1 ? "; one micro-batch at a time"
                                            : "; forward and backward of several micro-batches side by side";
  return out;
}

/// Of each policy, the fastest plan of all emitters.
std::vector<scheduler::PolicyPlan> fastest_plans(const std::vector<PolicyKind>& policies,
                                                 const std::vector<parallel::StepEmitter>& emitters,
                                                 const scheduler::CostModel& cost,
                                                 const scheduler::PolicyOptions& options) {
  std::vector<scheduler::PolicyPlan> best = plans_of(policies, emitters.front(), cost, options);
  for (std::size_t e = 1; e < emitters.size(); ++e) {
    std::vector<scheduler::PolicyPlan> others = plans_of(policies, emitters[e], cost, options);
    for (std::size_t i = 0; i < best.size(); ++i)
      if (others[i].price.total_us < best[i].price.total_us) best[i] = std::move(others[i]);
  }
  return best;
}

/// Over the shapes of all emitters.
double lower_bound_ms(const std::vector<parallel::StepEmitter>& emitters, const scheduler::CostModel& cost) {
  double bound_us = scheduler::lower_bound_us(emitters.front(), cost);
  for (std::size_t e = 1; e < emitters.size(); ++e)
    bound_us = std::min(bound_us, scheduler::lower_bound_us(emitters[e], cost));
  return bound_us / 1e3;
}

}  // namespace

const ComparedPlan& Comparison::fastest() const {
  return *std::min_element(plans.begin(), plans.end(), [](const ComparedPlan& a, const ComparedPlan& b) {
    return a.run.predicted_ms < b.run.predicted_ms;
  });
}

Comparison compare_plans(const parallel::RunConfig& config, int world_size, int ranks_per_node,
                         const scheduler::CostModel& cost, const std::vector<PolicyKind>& policies) {
  const auto start = std::chrono::steady_clock::now();
  const parallel::Mesh mesh = make_mesh(world_size, 0, parallel::mesh_options(config, ranks_per_node));
  const parallel::StepSpec spec = parallel::training_spec(config, mesh, cost.machine);
  const std::vector<parallel::StepEmitter> emitters = parallel::step_emitters(config, spec, cost);
  std::vector<scheduler::PolicyPlan> all = fastest_plans(policies, emitters, cost, parallel::policy_options(config));
  Comparison out;
  for (std::size_t i = 0; i < policies.size(); ++i) {
    if (all[i].plan.issue_order.empty()) {
      out.left_out.emplace_back(to_string(policies[i]));
      continue;
    }
    all[i].plan.made_for = parallel::describe(spec, config.train.dtype);
    out.plans.push_back(compared(policies[i], config, mesh, emitters.front(), cost, std::move(all[i].plan)));
  }
  out.bound_ms = lower_bound_ms(emitters, cost);
  out.planning_s = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return out;
}

Comparison compare_plan(const parallel::RunConfig& config, int world_size, int ranks_per_node,
                        const scheduler::CostModel& cost, scheduler::Plan plan) {
  const parallel::Mesh mesh = make_mesh(world_size, 0, parallel::mesh_options(config, ranks_per_node));
  const std::vector<parallel::StepEmitter> emitters =
      parallel::step_emitters(config, parallel::training_spec(config, mesh, cost.machine), cost);
  const std::string name = plan.policy;
  Comparison out;
  out.plans.push_back(compared(PolicyKind::kWeft, config, mesh, emitters.front(), cost, std::move(plan)));
  for (const PolicyKind other : {PolicyKind::kSequential, PolicyKind::kFsMoe}) {
    if (name == to_string(other)) {
      out.plans.front().policy = other;
      continue;
    }
    scheduler::Plan made = fastest_plans({other}, emitters, cost, {}).front().plan;  // whatever memory it takes
    out.plans.push_back(compared(other, config, mesh, emitters.front(), cost, std::move(made)));
  }
  out.bound_ms = lower_bound_ms(emitters, cost);
  return out;
}

std::vector<std::string> reasons(const Comparison& c, const ComparedPlan& best) {
  std::vector<std::string> out;
  const auto percent = [](double share) { return fixed(100.0 * share, 0) + " %"; };
  out.push_back(str(best.run.plan.policy, ": ", cut_in_words(best.run.plan.shape, best.run.num_micro_batches)));
  out.push_back(str("compute is in use ", percent(best.busy[0]), " of the step, links inside nodes ",
                    percent(best.busy[1]), ", links between nodes ", percent(best.busy[2])));
  for (const PolicyKind other : {PolicyKind::kFsMoe, PolicyKind::kSequential})
    if (const ComparedPlan* plan = find(c, other); plan != nullptr && plan != &best) {
      out.push_back(str("communication without computation beside it: ", fixed(best.exposed_comm_ms, 2), " ms, where ",
                        to_string(other), " has ", fixed(plan->exposed_comm_ms, 2), " ms; computation takes ",
                        fixed(best.busy[0] * best.run.predicted_ms, 2), " ms, there ",
                        fixed(plan->busy[0] * plan->run.predicted_ms, 2), " ms"));
      break;
    }
  if (best.run.exposed_host_ms > 0.0 || best.run.num_host_waits > 0)
    out.push_back(str("the host waits ", best.run.num_host_waits,
                      " times for the counts of routed rows; with issuing, ", "that adds ",
                      fixed(best.run.exposed_host_ms, 2), " ms"));
  const double factor = best.run.predicted_ms / c.bound_ms;
  out.push_back(str("no plan can take less than ", fixed(c.bound_ms, 2), " ms on these costs",
                    factor < 1.01 ? ", and this one is within 1 % of it"
                                  : str(": a faster one is at most ", fixed(factor, 2), " times as fast")));
  return out;
}

nlohmann::ordered_json to_json(const Comparison& c) {
  nlohmann::ordered_json out{{"cost_source", c.plans.front().run.cost_source},
                             {"ranks", c.plans.front().run.mesh.world_size},
                             {"ranks_per_node", c.plans.front().run.mesh.ranks_per_node},
                             {"lower_bound_ms", c.bound_ms},
                             {"planning_s", c.planning_s}};
  const ComparedPlan* sequential = find(c, PolicyKind::kSequential);
  const ComparedPlan* fsmoe = find(c, PolicyKind::kFsMoe);
  for (const ComparedPlan& plan : c.plans) {
    nlohmann::ordered_json row{{"predicted_ms", plan.run.predicted_ms}};
    if (sequential != nullptr) row["over_sequential"] = sequential->run.predicted_ms / plan.run.predicted_ms;
    if (fsmoe != nullptr) row["over_fsmoe"] = fsmoe->run.predicted_ms / plan.run.predicted_ms;
    row["gap"] = plan.run.predicted_ms / c.bound_ms - 1.0;
    row["memory_bytes"] = plan.run.memory.total();
    row["tasks"] = plan.run.num_tasks;
    row["exposed_comm_ms"] = plan.exposed_comm_ms;
    row["host_waits"] = plan.run.num_host_waits;
    row["exposed_host_ms"] = plan.run.exposed_host_ms;
    for (int s = 0; s < scheduler::kNumStages; ++s)
      if (plan.exposed_stage_ms[static_cast<std::size_t>(s)] > 0)
        row["exposed_stage_ms"][std::string(to_string(static_cast<scheduler::Stage>(s)))] =
            plan.exposed_stage_ms[static_cast<std::size_t>(s)];
    out["policies"][std::string(to_string(plan.policy))] = std::move(row);
  }
  if (!c.left_out.empty()) out["over_memory_limit"] = c.left_out;
  out["chosen"] = std::string(to_string(c.fastest().policy));
  out["reasons"] = reasons(c, c.fastest());
  return out;
}

void print_table(const nlohmann::ordered_json& facts) {
  const auto right = [](const std::string& text, std::size_t width) {
    return std::string(width - std::min(width, text.size()), ' ') + text;
  };
  std::cout << counted(facts["ranks"], "rank") << ", " << facts["ranks_per_node"] << " a node; costs from "
            << facts["cost_source"].get<std::string>() << "\n"
            << "policy          predicted ms   over sequential   over fsmoe   gap to bound   peak memory   exposed ms  "
               " host waits   host ms\n";
  for (const auto& [name, row] : facts["policies"].items()) {
    const auto ratio = [&](const char* key) {
      return row.contains(key) ? fixed(row[key].get<double>(), 3) : std::string("-");
    };
    std::cout << name << right(fixed(row["predicted_ms"].get<double>(), 2), 28 - name.size())
              << right(ratio("over_sequential"), 18) << right(ratio("over_fsmoe"), 13)
              << right(fixed(100 * row["gap"].get<double>(), 1) + " %", 15)
              << right(human_bytes(row["memory_bytes"].get<double>()), 14)
              << right(fixed(row["exposed_comm_ms"].get<double>(), 2), 13)
              << right(str(row["host_waits"].get<std::int64_t>()), 13)
              << right(fixed(row["exposed_host_ms"].get<double>(), 2), 10) << "\n";
  }
  if (facts.contains("over_memory_limit"))
    for (const auto& name : facts["over_memory_limit"])
      std::cout << name.get<std::string>() << ": no plan fits schedule.memory_limit_mib\n";
  std::cout << "lower bound " << fixed(facts["lower_bound_ms"].get<double>(), 2) << " ms; planned in "
            << fixed(facts["planning_s"].get<double>(), 2) << " s\n";
  for (const auto& reason : facts["reasons"]) std::cout << "  " << reason.get<std::string>() << "\n";
}

}  // namespace weft::tools
