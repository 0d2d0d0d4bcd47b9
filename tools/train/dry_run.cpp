#include "tools/train/dry_run.h"

#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "parallel/train/run_setup.h"
#include "tools/config/loader.h"
#include "tools/config/schedule_files.h"
#include "tools/exit_status.h"
#include "tools/launcher.h"
#include "tools/train/process.h"
#include "tools/train/text.h"

namespace weft::tools {
namespace {

/// Rank 0's plan, which is everybody's, with the memory of the fullest rank: they differ by a few elements of sharded
/// state.
parallel::RunPlan plan_of_job(const parallel::RunConfig& config, int ranks, int ranks_per_node,
                              const scheduler::CostModel& costs) {
  const auto mesh_of = [&](int rank) {
    return parallel::make_mesh(ranks, rank, parallel::mesh_options(config, ranks_per_node));
  };
  std::optional<scheduler::Plan> given = plan_of(config);
  parallel::RunPlan first = given ? parallel::take_plan(config, mesh_of(0), costs, *std::move(given))
                                  : parallel::plan_run(config, ranks, 0, ranks_per_node, costs);
  parallel::PeakMemory peak{first.memory.total(), 0};
  const parallel::RunPlan last = parallel::take_plan(config, mesh_of(ranks - 1), costs, first.plan);
  if (last.memory.total() > peak.bytes) {
    peak = {last.memory.total(), ranks - 1};
    first.memory = last.memory;
    first.validation_bytes = last.validation_bytes;
  }
  parallel::require_memory(config, peak, first.plan);
  return first;
}

/// Token files are mapped: their pages count as the process's while they are in use.
std::int64_t mapped_bytes(const parallel::RunConfig& config) {
  std::int64_t bytes = 0;
  for (const auto* files : {&config.data.train, &config.data.val})
    for (const std::string& file : *files)
      for (const std::string& path : {file, file + ".bin"}) {
        std::error_code missing;
        if (const auto size = std::filesystem::file_size(path, missing); !missing)
          bytes += static_cast<std::int64_t>(size);
      }
  return bytes;
}

nlohmann::ordered_json to_json(const parallel::RunConfig& config, const parallel::RunPlan& plan) {
  const parallel::ParameterCount count = parallel::count_parameters(config.model);
  nlohmann::ordered_json out{
      {"ranks", plan.mesh.world_size},
      {"parameters", count.total},
      {"active_parameters", count.active},
      {"tokens_per_step", std::int64_t{config.train.global_batch} * config.train.sequence_length},
      {"flops_per_token", parallel::flops_per_token(config.model, config.train.sequence_length)},
      {"tasks", plan.num_tasks},
      {"policy", plan.plan.policy},
      {"predicted_ms", plan.predicted_ms},
      {"cost_source", plan.cost_source}};
  for (int c = 0; c < scheduler::kNumMemoryClasses; ++c)
    out["memory_bytes"][std::string(to_string(static_cast<scheduler::MemoryClass>(c)))] = plan.memory.bytes[c];
  out["memory_bytes"]["validation"] = plan.validation_bytes;
  const std::int64_t process = peak_memory_bytes(), mapped = mapped_bytes(config);
  out["memory_bytes"]["token_files"] = mapped;
  out["memory_bytes"]["process"] = process;  // libraries and program: this process has little else
  out["memory_bytes"]["total"] = plan.memory.total() + plan.validation_bytes + mapped + process;
  for (int s = 0; s < scheduler::kNumStages; ++s)
    if (plan.predicted_stage_ms[static_cast<std::size_t>(s)] > 0)
      out["predicted_stage_ms"][std::string(to_string(static_cast<scheduler::Stage>(s)))] =
          plan.predicted_stage_ms[static_cast<std::size_t>(s)];
  return out;
}

void print_table(const nlohmann::ordered_json& facts) {
  std::cout << "model            " << human_count(facts["parameters"].get<double>()) << " parameters, "
            << human_count(facts["active_parameters"].get<double>()) << " active per token\n"
            << "step             " << facts["tokens_per_step"] << " tokens, "
            << human_count(facts["flops_per_token"].get<double>() * facts["tokens_per_step"].get<double>())
            << " model FLOPs, " << facts["tasks"] << " tasks a rank\n"
            << "memory per rank  (" << counted(facts["ranks"], "rank") << ")\n";
  for (const auto& [name, bytes] : facts["memory_bytes"].items())
    std::cout << "  " << name << std::string(15 - name.size(), ' ') << human_bytes(bytes.get<double>()) << "\n";
  std::cout << "predicted step   " << fixed(facts["predicted_ms"].get<double>(), 1) << " ms, policy "
            << facts["policy"].get<std::string>() << ", costs from " << facts["cost_source"].get<std::string>() << "\n";
  for (const auto& [name, ms] : facts["predicted_stage_ms"].items())
    std::cout << "  " << name << std::string(19 - name.size(), ' ') << fixed(ms.get<double>(), 2) << " ms\n";
}

}  // namespace

int dry_run(const parallel::RunConfig& config, const DryRunOptions& options) {
  const Launch launch = find_launch().value_or(Launch{});
  const int ranks = options.ranks > 0 ? options.ranks : launch.num_ranks;
  const int ranks_per_node = options.ranks_per_node > 0 ? options.ranks_per_node : ranks;
  require_valid(config, ranks);
  if (launch.rank != 0) return kExitDone;
  const std::optional<DeviceKind> device = chosen_device(config);
  const std::string warning = profile_warning(config, ranks, ranks_per_node, device);
  if (!warning.empty()) std::cerr << "warning: " << warning << "\n";
  scheduler::CostModel costs = costs_of(config);
  if (device) costs = parallel::costs_on({*device, 0}, std::move(costs));
  const parallel::RunPlan plan = plan_of_job(config, ranks, ranks_per_node, costs);
  if (const std::string overridden = parallel::overridden_settings(config, plan.plan); !overridden.empty())
    std::cerr << "warning: " << overridden << "\n";
  const nlohmann::ordered_json facts = to_json(config, plan);
  if (options.json)
    std::cout << facts.dump(2) << "\n";
  else
    print_table(facts);
  return kExitDone;
}

}  // namespace weft::tools
