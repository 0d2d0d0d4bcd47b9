// parallel/train/plan_run.cpp - planning without running.
#include <algorithm>
#include <utility>

#include "core/error.h"
#include "parallel/train/run_setup.h"
#include "scheduler/policy.h"
#include "scheduler/simulator.h"

namespace weft::parallel {

MeshOptions mesh_options(const RunConfig& config, int ranks_per_node) {
  const ParallelConfig& p = config.parallel;
  return {p.expert, p.expert_shard, p.sequence_heads, p.sequence_ring, ranks_per_node};
}

StepSpec training_spec(const RunConfig& config, const Mesh& mesh) {
  const TrainConfig& t = config.train;
  const int micro_batches = t.global_batch / (mesh.dp_size() * t.micro_batch);
  return {config.model,
          mesh,
          {micro_batches, t.micro_batch, t.sequence_length, config.model.moe.group_sequences, mesh.sp_size()},
          StepMode::kTrain,
          config.parallel.zero,
          config.parallel.dispatcher};
}

StepSpec validation_spec(const RunConfig& config, const Mesh& mesh) {
  StepSpec spec = training_spec(config, mesh);
  spec.geometry.num_micro_batches = 1;
  spec.mode = StepMode::kEvaluate;
  return spec;
}

scheduler::Shape training_shape(const RunConfig& config) {
  const ScheduleConfig& s = config.schedule;
  return uniform_shape(config.model.layers, {s.forward_chunks, s.backward_chunks, s.weight_grad_pieces,
                                             config.train.recompute, 1, s.gradient_slices});
}

TokenDatasetOptions dataset_options(const RunConfig& config, const std::vector<std::string>& paths) {
  TokenDatasetOptions options{paths, config.train.sequence_length, config.model.vocab_size, std::nullopt};
  if (config.data.end_of_text >= 0) options.end_of_text = config.data.end_of_text;
  return options;
}

AttendAcrossDocuments attend_mode(const RunConfig& config) {
  return config.data.attend_across_documents ? AttendAcrossDocuments::kYes : AttendAcrossDocuments::kNo;
}

namespace {

RunPlan price(const RunConfig& config, const Mesh& mesh, const scheduler::CostModel& cost,
              const scheduler::Graph& graph, scheduler::Plan plan) {
  RunPlan out;
  out.mesh = mesh;
  out.plan = std::move(plan);
  const scheduler::SlotMap slots = scheduler::assign_slots(graph, out.plan.issue_order);
  out.memory = scheduler::memory_use(graph, slots);
  out.num_tasks = graph.num_tasks();
  const scheduler::Timeline timeline =
      scheduler::simulate(graph, out.plan, slots, cost, config.schedule.executor == ExecutorKind::kInline);
  out.predicted_ms = timeline.total_us / 1e3;
  for (scheduler::TaskId t = 0; t < graph.num_tasks(); ++t)
    out.predicted_stage_ms[static_cast<std::size_t>(graph.tasks[t].stage)] +=
        (timeline.end_us[t] - timeline.start_us[t]) / 1e3;
  out.cost_source = cost.source;
  if (config.data.val.empty()) return out;
  const scheduler::Graph validation = emit_step(validation_spec(config, mesh), out.plan.shape, config.train.dtype);
  const scheduler::Plan order = scheduler::sequential_plan(validation, out.plan.shape);
  for (const std::int64_t bytes : scheduler::assign_slots(validation, order.issue_order).slot_bytes)
    out.validation_bytes += bytes;
  return out;
}

}  // namespace

RunPlan plan_run(const RunConfig& config, int world_size, int world_rank, int ranks_per_node,
                 const scheduler::CostModel& cost) {
  const Mesh mesh = make_mesh(world_size, world_rank, mesh_options(config, ranks_per_node));
  const scheduler::Shape shape = training_shape(config);
  const scheduler::Graph graph = emit_step(training_spec(config, mesh), shape, config.train.dtype);
  return price(config, mesh, cost, graph,
               config.schedule.policy == PolicyKind::kList ? scheduler::list_plan(graph, shape, cost)
                                                           : scheduler::sequential_plan(graph, shape));
}

RunPlan take_plan(const RunConfig& config, const Mesh& mesh, const scheduler::CostModel& cost, scheduler::Plan plan) {
  const scheduler::Graph graph = emit_step(training_spec(config, mesh), plan.shape, config.train.dtype);
  const std::vector<std::string> problems = scheduler::validate(graph, plan);
  if (!problems.empty())
    throw Error(ErrorCode::kInvalidArgument, str("the plan is for another step: ", problems.front()),
                "plan again for this model, layout and batch");
  return price(config, mesh, cost, graph, std::move(plan));
}

}  // namespace weft::parallel
