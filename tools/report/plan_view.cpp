#include "tools/report/plan_view.h"

#include <algorithm>
#include <set>

#include "core/error.h"
#include "parallel/step/step_emitter.h"
#include "parallel/train/run_setup.h"

namespace weft::tools {
namespace {

using nlohmann::ordered_json;

const ComparedPlan* other(const Comparison& c, scheduler::PolicyKind policy) {
  const auto at =
      std::find_if(c.plans.begin() + 1, c.plans.end(), [&](const ComparedPlan& p) { return p.policy == policy; });
  return at == c.plans.end() ? nullptr : &*at;
}

ordered_json fit_json(std::string name, scheduler::WorkKind work, scheduler::LinkClass link,
                      const scheduler::Fit& fit) {
  const bool bytes = work == scheduler::WorkKind::kMemory || scheduler::is_collective(work);
  ordered_json out{{"name", std::move(name)},
                   {"work", to_string(work)},
                   {"link", scheduler::is_collective(work) ? ordered_json(to_string(link)) : ordered_json()},
                   {"unit", bytes ? "bytes" : "FLOPs"},
                   {"alpha_us", fit.cost.alpha_us},
                   {"beta_us", fit.cost.beta_us},
                   {"r_squared", nullptr},
                   {"points", ordered_json::array()}};
  if (fit.r_squared) out["r_squared"] = *fit.r_squared;
  for (const scheduler::Sample& s : fit.samples)
    out["points"].push_back(ordered_json::array({s.operations, s.amount, s.time_us}));
  return out;
}

}  // namespace

ordered_json plan_json(const Comparison& c) {
  const ComparedPlan& mine = c.plans.front();
  const double predicted = mine.run.predicted_ms;
  ordered_json out{{"policy", mine.run.plan.policy},
                   {"words", reasons(c, mine)},
                   {"predicted_ms", predicted},
                   {"lower_bound_ms", c.bound_ms},
                   {"gap", predicted / c.bound_ms - 1.0},
                   {"over_sequential", nullptr},
                   {"over_fsmoe", nullptr},
                   {"memory_bytes", mine.run.memory.total()},
                   {"tasks", mine.run.num_tasks},
                   {"exposed_comm_ms", mine.exposed_comm_ms}};
  if (const ComparedPlan* plan = other(c, scheduler::PolicyKind::kSequential))
    out["over_sequential"] = plan->run.predicted_ms / predicted;
  if (const ComparedPlan* plan = other(c, scheduler::PolicyKind::kFsMoe))
    out["over_fsmoe"] = plan->run.predicted_ms / predicted;
  const auto& streams = mine.run.plan.shape.stream_of_resource;
  out["streams"] = std::set<int>(streams.begin(), streams.begin() + 3).size();  // the host issues, it is no stream
  return out;
}

StepView simulated_step(const parallel::RunConfig& config, const parallel::RunPlan& plan,
                        const scheduler::Machine& machine) {
  StepView out{"simulated",
               emit_step(parallel::training_spec(config, plan.mesh, machine), plan.plan.shape, config.train.dtype),
               plan.predicted,
               {}};
  for (const scheduler::Task& task : out.graph.tasks)
    out.label.push_back(
        str(to_string(task.stage), "(", to_string(task.phase), ")", *task.label != '\0' ? " " : "", task.label));
  return out;
}

ordered_json costs_json(const scheduler::CostModel& cost) {
  ordered_json out{{"source", cost.source}, {"measured", cost.measured}, {"families", ordered_json::array()}};
  for (const scheduler::Family& family : cost.families())
    out["families"].push_back(fit_json(name_of(family.key), family.key.work, family.key.link, family.fit));
  for (const scheduler::KindFit& kind : cost.kinds()) {
    ordered_json row = fit_json(str("any ", to_string(kind.work)), kind.work, kind.link, kind.fit);
    row["kind"] = true;
    out["families"].push_back(std::move(row));
  }
  return out;
}

}  // namespace weft::tools
