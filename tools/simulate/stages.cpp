#include "tools/simulate/stages.h"

#include <algorithm>
#include <iostream>
#include <nlohmann/json.hpp>
#include <vector>

#include "scheduler/bound.h"
#include "scheduler/policy.h"
#include "scheduler/simulator.h"
#include "tools/exit_status.h"
#include "tools/simulate/policies.h"
#include "tools/simulate/schedule_json.h"
#include "tools/simulate/testbed.h"
#include "tools/train/text.h"

namespace weft::tools {
namespace {

using scheduler::PolicyKind;
using scheduler::PolicyPlan;

void print(const nlohmann::ordered_json& document) {
  std::cout << document["table"].get<std::string>() << ": " << document["layers"] << " layers, "
            << document["micro_batches"] << " micro-batches\n"
            << "policy              ms   over sequential   over fsmoe   gap to the bound\n";
  const auto& policies = document["policies"];
  const auto ratio = [&](const char* base, double ms) {
    return policies.contains(base) ? fixed(policies[base]["total_ms"].get<double>() / ms, 3) : std::string("-");
  };
  const auto right = [](const std::string& text, std::size_t width) {
    return std::string(width - std::min(width, text.size()), ' ') + text;
  };
  for (const auto& [name, figures] : policies.items()) {
    const double ms = figures["total_ms"].get<double>();
    std::cout << name << right(fixed(ms, 2), 22 - name.size()) << right(ratio("sequential", ms), 18)
              << right(ratio("fsmoe", ms), 13)
              << right(fixed(100 * (ms / figures["lower_bound_ms"].get<double>() - 1), 1) + " %", 19) << "\n";
  }
}

}  // namespace

int simulate_stages(const StagesOptions& options) {
  const scheduler::StageEmitter emitter(load_stage_table(options.stages), options.layers, options.micro_batches);
  const scheduler::CostModel cost = emitter.costs();
  const std::vector<PolicyKind> wanted = policies_named(options.policy);
  const std::vector<PolicyPlan> plans = plans_of(wanted, emitter, cost);

  const double bound_ms = scheduler::lower_bound_us(emitter, cost) / 1e3;
  nlohmann::ordered_json document{
      {"table", emitter.table().name}, {"layers", options.layers}, {"micro_batches", options.micro_batches}};
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    double ms = plans[i].price.total_us / 1e3;
    // FSMoE's own figure, which counts gradients as hidden that no plan can hide, is what others are held against.
    if (wanted[i] == PolicyKind::kFsMoe)
      ms = scheduler::fsmoe_closed_form_ms(emitter.table(), options.layers, options.micro_batches);
    document["policies"][std::string(to_string(wanted[i]))] = {{"total_ms", ms}, {"lower_bound_ms", bound_ms}};
  }
  if (!options.schedule_out.empty()) {
    const PolicyPlan& chosen = plans.back();
    const scheduler::Graph graph = emitter.emit(chosen.plan.shape);
    const scheduler::Timeline timeline =
        scheduler::simulate(graph, chosen.plan, scheduler::assign_slots(graph, chosen.plan), cost, false);
    nlohmann::ordered_json tasks = nlohmann::ordered_json::array();
    append_tasks(tasks, graph, timeline);
    write_schedule(options.schedule_out, chosen.plan.policy, timeline.total_us / 1e3, std::move(tasks));
  }
  if (options.json)
    std::cout << document.dump(1) << "\n";
  else
    print(document);
  return kExitDone;
}

}  // namespace weft::tools
