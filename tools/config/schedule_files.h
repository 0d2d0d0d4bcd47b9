// tools/config/schedule_files.h - plans and cluster costs as text files.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "core/device.h"
#include "core/dtype.h"
#include "parallel/train/run_config.h"
#include "scheduler/cost_model.h"
#include "scheduler/plan.h"

namespace weft::tools {

/// How a profile came about, stored with it.
struct Measurement {
  std::string version = {}, date = {};
  std::vector<std::string> hosts = {};
  int ranks = 1, ranks_per_node = 1;
  double stretch = 1.0;
  int runs = 0;
  DeviceKind device = DeviceKind::kCpu;
  std::string device_name = {};  ///< Of rank 0's device; empty: not known.
  DType dtype = DType::kF32;     ///< train.dtype.
};
/// Costs as text (configs/cluster.proto). `measured`: of a profile; nothing: costs that price every kind of work.
/// layer_imbalance, which is of a simulation, is left out.
[[nodiscard]] std::string costs_to_text(const scheduler::CostModel& costs, const std::vector<double>& rank_loads,
                                        const std::optional<Measurement>& measured);

/// A fit that explains too little of what was measured to plan with.
struct PoorFit {
  std::string name;  ///< Of the family or kind of work.
  double r_squared = 0.0;
};
/// Those under `min_r_squared`, the worst first. Lines through tasks that do different things are not judged.
[[nodiscard]] std::vector<PoorFit> poor_fits(const scheduler::CostModel& costs, double min_r_squared);
/// What to do about them: a --set that is low enough for all.
[[nodiscard]] std::string hint_for(const std::vector<PoorFit>& poor);

/// Costs of configs/cluster.proto. Throws Error{kIo} for a missing file; Error{kInvalidArgument}, naming the family,
/// for bad text, a negative cost, poor_fits, a family or kind of work given twice, and, in a file that was not
/// measured, a kind of work that is missing.
[[nodiscard]] scheduler::CostModel load_costs(const std::string& path, double min_r_squared = scheduler::kMinRSquared);
[[nodiscard]] scheduler::CostModel costs_from_text(const std::string& text, const std::string& origin,
                                                   double min_r_squared = scheduler::kMinRSquared);
/// configs/clusters/nominal_cpu.textproto, as it was when weft was built.
[[nodiscard]] scheduler::CostModel nominal_costs();

/// What `config` is planned with: schedule.profile, or nominal_costs().
[[nodiscard]] scheduler::CostModel costs_of(const parallel::RunConfig& config);

/// The kind of device that parallel.device names; nothing for AUTO, which is what the job will find.
[[nodiscard]] std::optional<DeviceKind> chosen_device(const parallel::RunConfig& config);

/// One line when schedule.profile was measured on other ranks than these, on another kind of device, or in another
/// train.dtype; empty otherwise. device: what the step runs on; nothing: not known yet, and any will do.
[[nodiscard]] std::string profile_warning(const parallel::RunConfig& config, int ranks, int ranks_per_node,
                                          std::optional<DeviceKind> device);

/// A plan as text (configs/plan.proto), and back. plan_from_text throws Error{kInvalidArgument} for bad text or a
/// digest that does not hold.
[[nodiscard]] std::string plan_to_text(const scheduler::Plan& plan);
[[nodiscard]] scheduler::Plan plan_from_text(const std::string& text, const std::string& origin);
/// schedule.plan of `config`, when there is one. Throws kIo as well.
[[nodiscard]] std::optional<scheduler::Plan> plan_of(const parallel::RunConfig& config);

}  // namespace weft::tools
