// parallel/train/plan_run.cpp - planning without running.
#include <algorithm>
#include <cmath>
#include <optional>
#include <utility>

#include "core/error.h"
#include "parallel/step/moe_gate_emission.h"
#include "parallel/train/run_setup.h"
#include "scheduler/order.h"
#include "scheduler/simulator.h"

namespace weft::parallel {

MeshOptions mesh_options(const RunConfig& config, int ranks_per_node) {
  const ParallelConfig& p = config.parallel;
  return {p.expert, p.expert_shard, p.sequence_heads, p.sequence_ring, ranks_per_node};
}

StepSpec training_spec(const RunConfig& config, const Mesh& mesh, const scheduler::Machine& machine) {
  const TrainConfig& t = config.train;
  const int micro_batches = t.global_batch / (mesh.dp_size() * t.micro_batch);
  return {config.model,
          mesh,
          {micro_batches, t.micro_batch, t.sequence_length, config.model.moe.group_sequences, mesh.sp_size()},
          StepMode::kTrain,
          config.parallel.zero,
          config.parallel.dispatcher,
          0,
          machine.host_apart};
}

scheduler::CostModel costs_on(Device device, scheduler::CostModel cost) {
  if (device.kind != DeviceKind::kCpu) cost.machine.host_apart = true;
  return cost;
}

StepSpec validation_spec(const RunConfig& config, const Mesh& mesh, const scheduler::Machine& machine) {
  StepSpec spec = training_spec(config, mesh, machine);
  spec.geometry.num_micro_batches = 1;
  spec.mode = StepMode::kEvaluate;
  return spec;
}

scheduler::Shape training_shape(const RunConfig& config) {
  const ScheduleConfig& s = config.schedule;
  scheduler::Shape shape = uniform_shape(
      config.model.layers,
      {s.forward_chunks, s.backward_chunks, s.weight_grad_pieces, config.train.recompute, 1, s.gradient_slices});
  shape.padded = s.pad_capacity == CapacityPadding::kAlways;
  if (s.executor == ExecutorChoice::kAuto || s.executor == ExecutorChoice::kInline) shape.stream_of_resource.fill(0);
  return shape;
}

std::vector<StepEmitter> step_emitters(const RunConfig& config, const StepSpec& spec,
                                       const scheduler::CostModel& cost) {
  const CapacityPadding choice = config.schedule.pad_capacity;
  std::vector<StepEmitter> out;
  for (const bool padded : {false, true}) {
    if (choice == (padded ? CapacityPadding::kNever : CapacityPadding::kAlways) || (padded && !can_pad(spec))) continue;
    StepEmitter emitter(spec, config.train.recompute, config.train.dtype, padded);
    if (padded && choice == CapacityPadding::kAuto && cost.measured &&
        !scheduler::unpriced(emitter.emit(emitter.space().base), cost).empty())
      continue;
    out.push_back(std::move(emitter));
  }
  WEFT_CHECK(!out.empty(), "schedule.pad_capacity leaves no step to plan");
  return out;
}

scheduler::PolicyKind policy_of(SchedulePolicy policy) {
  WEFT_CHECK(policy != SchedulePolicy::kManual, "schedule.policy MANUAL is no scheduler::PolicyKind");
  return static_cast<scheduler::PolicyKind>(static_cast<int>(policy) - 1);
}

namespace {

std::int64_t memory_limit_bytes(const RunConfig& config) {
  return std::llround(config.schedule.memory_limit_mib * 1024.0 * 1024.0);
}

}  // namespace

scheduler::PolicyOptions policy_options(const RunConfig& config) {
  scheduler::PolicyOptions options;
  options.search.memory_limit_bytes = memory_limit_bytes(config);
  return options;
}

scheduler::ExecutorKind executor_of(const RunConfig& config, const scheduler::Plan& plan, Device device) {
  using scheduler::ExecutorKind;
  switch (config.schedule.executor) {
    case ExecutorChoice::kInline:
      return ExecutorKind::kInline;
    case ExecutorChoice::kStreams:
      return ExecutorKind::kStreams;
    case ExecutorChoice::kCudaGraph:
      return ExecutorKind::kRecorded;
    case ExecutorChoice::kAuto:
      break;
  }
  if (device.kind != DeviceKind::kCpu) return ExecutorKind::kRecorded;
  return scheduler::has_one_stream(plan.shape) ? ExecutorKind::kInline : ExecutorKind::kStreams;
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

/// Lines of `wanted` that `given` does not have, with what stands in their place. Empty when equal, or without `given`.
std::string changed_lines(const std::vector<std::string>& given, const std::vector<std::string>& wanted) {
  std::string out;
  if (given.empty()) return out;
  for (std::size_t i = 0; i < std::max(given.size(), wanted.size()); ++i) {
    const std::string have = i < given.size() ? given[i] : "nothing", want = i < wanted.size() ? wanted[i] : "nothing";
    if (have != want) out += (out.empty() ? "" : "; ") + have + ", and this is " + want;
  }
  return out;
}

/// A profile prices what its ranks had; a task that it does not know is not free.
void require_priced(const scheduler::Graph& graph, const scheduler::CostModel& cost) {
  if (!cost.measured) return;
  const std::vector<std::string> missing = scheduler::unpriced(graph, cost);
  if (missing.empty()) return;
  throw Error(ErrorCode::kInvalidArgument,
              str(cost.source, " has no family for ", missing.front(),
                  missing.size() > 1 ? str(" and ", missing.size() - 1, " more") : std::string()),
              "measure this layout with weft profile");
}

RunPlan price(const RunConfig& config, const Mesh& mesh, const scheduler::CostModel& cost,
              const scheduler::Graph& graph, scheduler::Plan plan) {
  RunPlan out;
  out.mesh = mesh;
  out.plan = std::move(plan);
  require_priced(graph, cost);
  const scheduler::SlotMap slots = scheduler::assign_slots(graph, out.plan);
  out.memory = scheduler::memory_use(graph, slots);
  out.num_tasks = graph.num_tasks();
  out.num_micro_batches = training_spec(config, mesh, cost.machine).geometry.num_micro_batches;
  const bool single_stream = config.schedule.executor == ExecutorChoice::kInline;
  out.predicted = scheduler::simulate(graph, out.plan, slots, cost, single_stream);
  out.predicted_ms = out.predicted.total_us / 1e3;
  out.num_host_waits = scheduler::num_host_waits(graph);
  const double free_us = scheduler::simulate_with_free_host(graph, out.plan, slots, cost, single_stream).total_us;
  out.exposed_host_ms = std::max(0.0, out.predicted_ms - free_us / 1e3);
  for (scheduler::TaskId t = 0; t < graph.num_tasks(); ++t)
    out.predicted_stage_ms[static_cast<std::size_t>(graph.tasks[t].stage)] +=
        (out.predicted.end_us[t] - out.predicted.start_us[t]) / 1e3;
  out.cost_source = cost.source;
  if (config.data.val.empty()) return out;
  const scheduler::Graph validation =
      emit_step(validation_spec(config, mesh, cost.machine), out.plan.shape, config.train.dtype);
  const scheduler::Plan order = scheduler::sequential_plan(validation, out.plan.shape);
  for (const std::int64_t bytes : scheduler::assign_slots(validation, order).slot_bytes) out.validation_bytes += bytes;
  return out;
}

}  // namespace

namespace {

/// Throws what the last of them does when no plan of any fits the memory limit.
scheduler::Plan fastest_plan(const std::vector<StepEmitter>& emitters, scheduler::PolicyKind policy,
                             const scheduler::CostModel& cost, const scheduler::PolicyOptions& options) {
  std::optional<scheduler::PolicyPlan> best;
  std::optional<Error> failure;
  for (const StepEmitter& emitter : emitters) try {
      scheduler::PolicyPlan plan = scheduler::make_plan(policy, emitter, cost, options);
      if (!best || plan.price.total_us < best->price.total_us) best = std::move(plan);
    } catch (const Error& e) {
      if (e.code() != ErrorCode::kInvalidArgument) throw;
      failure = e;
    }
  if (!best) throw *failure;
  return std::move(best->plan);
}

}  // namespace

scheduler::Plan make_plan(const RunConfig& config, const Mesh& mesh, const scheduler::CostModel& cost) {
  const StepSpec spec = training_spec(config, mesh, cost.machine);
  scheduler::Plan plan;
  if (config.schedule.policy == SchedulePolicy::kManual) {
    const scheduler::Shape shape = training_shape(config);
    plan = scheduler::sequential_plan(emit_step(spec, shape, config.train.dtype), shape);
    plan.policy = "manual";
  } else {
    plan = fastest_plan(step_emitters(config, spec, cost), policy_of(config.schedule.policy), cost,
                        policy_options(config));
  }
  plan.made_for = describe(spec, config.train.dtype);
  return plan;
}

RunPlan plan_run(const RunConfig& config, int world_size, int world_rank, int ranks_per_node,
                 const scheduler::CostModel& cost) {
  const Mesh mesh = make_mesh(world_size, world_rank, mesh_options(config, ranks_per_node));
  return take_plan(config, mesh, cost, make_plan(config, mesh, cost));
}

RunPlan take_plan(const RunConfig& config, const Mesh& mesh, const scheduler::CostModel& cost, scheduler::Plan plan) {
  const StepSpec spec = training_spec(config, mesh, cost.machine);
  const std::string differences = changed_lines(plan.made_for, describe(spec, config.train.dtype));
  if (!differences.empty())
    throw Error(ErrorCode::kInvalidArgument, "the plan was made for another step: " + differences,
                "plan again for this model, layout and batch (weft plan)");
  const scheduler::Graph graph = emit_step(spec, plan.shape, config.train.dtype);
  const std::vector<std::string> problems = scheduler::validate(graph, plan);
  if (!problems.empty())
    throw Error(ErrorCode::kInvalidArgument,
                str("the plan does not fit this step (", problems.size(), " problems): ", problems.front()),
                "plan again for this model, layout and batch (weft plan)");
  return price(config, mesh, cost, graph, std::move(plan));
}

std::string overridden_settings(const RunConfig& config, const scheduler::Plan& plan) {
  const scheduler::Shape& shape = plan.shape;
  const CapacityPadding choice = config.schedule.pad_capacity;
  std::string out;
  const auto add = [&](const std::string& what) { out += (out.empty() ? "the plan overrides " : ", and ") + what; };
  if (choice == CapacityPadding::kNever && shape.padded) add("schedule.pad_capacity = NEVER: it pads");
  if (choice == CapacityPadding::kAlways && !shape.padded) add("schedule.pad_capacity = ALWAYS: it does not pad");
  const auto other = std::ranges::find_if(
      shape.layers, [&](const scheduler::LayerShape& layer) { return layer.recompute != config.train.recompute; });
  if (other != shape.layers.end())
    add(str("train.recompute, which is ", to_string(config.train.recompute), ": it has ", to_string(other->recompute)));
  return out;
}

PeakMemory peak_memory(const RunConfig& config, const Mesh& mesh, const scheduler::Machine& machine,
                       const scheduler::Plan& plan) {
  PeakMemory peak;
  for (int rank = 0; rank < mesh.world_size; ++rank) {
    Mesh its = mesh;
    its.world_rank = rank;
    const scheduler::Graph graph = emit_step(training_spec(config, its, machine), plan.shape, config.train.dtype);
    const std::int64_t bytes = scheduler::memory_use(graph, scheduler::assign_slots(graph, plan)).total();
    if (bytes > peak.bytes) peak = {bytes, rank};
  }
  return peak;
}

PeakMemory peak_memory(comm::Communicator& world, const RunPlan& plan) {
  std::int64_t mine = plan.memory.total();
  std::vector<std::int64_t> all(static_cast<std::size_t>(world.size()));
  all_gather(world, comm::as_buffer(&mine, 1), comm::as_buffer(all.data(), world.size()), *make_inline_stream());
  const auto most = std::max_element(all.begin(), all.end());
  return {*most, static_cast<int>(most - all.begin())};
}

void require_memory(const RunConfig& config, const PeakMemory& peak, scheduler::Plan& plan) {
  plan.memory_limit_bytes = memory_limit_bytes(config);
  plan.peak_memory_bytes = peak.bytes;
  if (plan.memory_limit_bytes == 0 || peak.bytes <= plan.memory_limit_bytes) return;
  throw Error(ErrorCode::kInvalidArgument,
              str("the plan needs ", peak.bytes, " bytes on rank ", peak.rank, ", more than the ",
                  plan.memory_limit_bytes, " of schedule.memory_limit_mib"),
              "raise schedule.memory_limit_mib, plan again under it (weft plan), use a smaller train.micro_batch, or "
              "recompute (train.recompute)");
}

scheduler::Plan agree_on_plan(comm::Communicator& world, const std::function<scheduler::Plan()>& decide) {
  const auto stream = make_inline_stream();
  std::vector<std::int64_t> numbers;
  std::optional<Error> failure;
  std::int64_t header[2] = {0, -1};  // how many numbers follow, and the code of a failure: then they are its text
  if (world.rank() == 0) {
    try {
      numbers = scheduler::pack(decide());
    } catch (const Error& e) {
      failure = e;
      header[1] = static_cast<std::int64_t>(e.code());
      const std::string text = e.message() + '\n' + e.hint();
      numbers.assign(text.begin(), text.end());
    }
    header[0] = static_cast<std::int64_t>(numbers.size());
  }
  world.broadcast(comm::as_buffer(header, 2), 0, *stream);
  numbers.resize(static_cast<std::size_t>(header[0]));
  world.broadcast(comm::as_buffer(numbers.data(), header[0]), 0, *stream);
  if (failure) throw *failure;
  if (header[1] >= 0) {  // rank 0's words, so that the job shows one error
    const std::string text(numbers.begin(), numbers.end());
    const std::size_t cut = text.find('\n');
    throw Error(static_cast<ErrorCode>(header[1]), text.substr(0, cut), text.substr(cut + 1));
  }
  return scheduler::unpack(numbers);
}

}  // namespace weft::parallel
