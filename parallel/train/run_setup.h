// parallel/train/run_setup.h - from a config to the steps that it describes.
#pragma once

#include <vector>

#include "parallel/data/batch.h"
#include "parallel/step/step_emitter.h"
#include "parallel/train/trainer.h"
#include "scheduler/policy.h"

namespace weft::parallel {

[[nodiscard]] MeshOptions mesh_options(const RunConfig& config, int ranks_per_node);
/// machine: what the step runs on; its host may be apart from the streams.
[[nodiscard]] StepSpec training_spec(const RunConfig& config, const Mesh& mesh, const scheduler::Machine& machine);
/// Beside a GPU the host is apart from the streams, whatever the costs were measured on.
[[nodiscard]] scheduler::CostModel costs_on(Device device, scheduler::CostModel cost);
/// One micro-batch, forward alone.
[[nodiscard]] StepSpec validation_spec(const RunConfig& config, const Mesh& mesh, const scheduler::Machine& machine);
[[nodiscard]] scheduler::Shape training_shape(const RunConfig& config);  ///< Of SchedulePolicy::kManual.
/// The step's emitters that schedule.pad_capacity allows: without padding, with it, or both. Under kAuto, padding is
/// left out when measured costs do not know its kinds of work.
[[nodiscard]] std::vector<StepEmitter> step_emitters(const RunConfig& config, const StepSpec& spec,
                                                     const scheduler::CostModel& cost);
/// policy: not kManual.
[[nodiscard]] scheduler::PolicyKind policy_of(SchedulePolicy policy);
[[nodiscard]] scheduler::PolicyOptions policy_options(const RunConfig& config);
[[nodiscard]] scheduler::ExecutorKind executor_of(const RunConfig& config, const scheduler::Plan& plan, Device device);

[[nodiscard]] TokenDatasetOptions dataset_options(const RunConfig& config, const std::vector<std::string>& paths);
[[nodiscard]] AttendAcrossDocuments attend_mode(const RunConfig& config);

}  // namespace weft::parallel
