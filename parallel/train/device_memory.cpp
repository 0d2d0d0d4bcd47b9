#include "parallel/train/device_memory.h"

#include <algorithm>
#include <cctype>
#include <cmath>
#include <cstdio>
#include <vector>

#include "core/gpu_info.h"
#include "core/rng.h"
#include "parallel/train/run_setup.h"

namespace weft::parallel {
namespace {

constexpr double kMib = 1024.0 * 1024.0;

std::string mib(std::int64_t bytes) {
  char text[40];
  std::snprintf(text, sizeof text, "%.2f MiB", static_cast<double>(bytes) / kMib);
  return text;
}

/// A limit in whole hundredths of a MiB, rounded down, so that what fits it fits `bytes`.
double limit_mib(std::int64_t bytes) { return std::floor(static_cast<double>(bytes) / kMib * 100.0) / 100.0; }
std::string limit_text(double mib) {
  char text[40];
  std::snprintf(text, sizeof text, "%.2f", mib);
  return text;
}

std::string upper(std::string_view name) {
  std::string out(name);
  std::transform(out.begin(), out.end(), out.begin(), [](unsigned char c) { return std::toupper(c); });
  return out;
}

std::int64_t need_of(const RunPlan& plan) { return plan.memory.total() + plan.validation_bytes; }

/// "parameters 1.00 MiB, gradients 1.00 MiB, ..."
std::string by_class(const scheduler::MemoryUse& memory, std::int64_t validation_bytes) {
  std::string out;
  const auto add = [&](std::string_view name, std::int64_t bytes) {
    if (bytes > 0) out += str(out.empty() ? "" : ", ", name, " ", mib(bytes));
  };
  for (int c = 0; c < scheduler::kNumMemoryClasses; ++c)
    add(to_string(static_cast<scheduler::MemoryClass>(c)), memory.bytes[c]);
  add("validation", validation_bytes);
  return out;
}

struct FittingPlan {
  RunPlan plan;
  double limit_mib = 0.0;  ///< schedule.memory_limit_mib that it was made with.
};
/// A step of `config` that with its validation pass needs no more than `limit_bytes`; nothing when there is none.
std::optional<FittingPlan> plan_within(RunConfig config, const Mesh& mesh, const scheduler::CostModel& cost,
                                       std::int64_t limit_bytes) {
  const double own = config.schedule.memory_limit_mib;
  try {
    std::int64_t validation_bytes = 0;  // beside the step: known once there is a plan
    for (int attempt = 0; attempt < 2; ++attempt) {
      const double room = limit_mib(limit_bytes - validation_bytes);
      config.schedule.memory_limit_mib = own > 0.0 ? std::min(own, room) : room;
      RunPlan plan = take_plan(config, mesh, cost, make_plan(config, mesh, cost));
      if (need_of(plan) <= limit_bytes) return FittingPlan{std::move(plan), config.schedule.memory_limit_mib};
      validation_bytes = plan.validation_bytes;
    }
  } catch (const Error& e) {
    if (e.code() != ErrorCode::kInvalidArgument) throw;
  }
  return std::nullopt;
}

std::string hint_for(const RunConfig& config, const Mesh& mesh, const scheduler::CostModel& cost,
                     std::int64_t limit_bytes) {
  if (const std::optional<SmallerStep> step = find_smaller_step(config, mesh, cost, limit_bytes))
    return str("this fits, with ", mib(step->bytes), ": ", step->sets);
  return str("no plan that was tried fits ", mib(limit_bytes),
             ", with everything recomputed and micro-batches of one routing group: share the model among more ranks "
             "(parallel.expert, parallel.expert_shard, parallel.zero) or use a smaller one");
}

/// What one rank says of itself and of its device.
struct Record {
  std::int64_t device = 0;  ///< The same number for ranks that share one.
  std::int64_t available_bytes = 0;
  std::int64_t need_bytes = 0;
  std::int64_t validation_bytes = 0;
  std::int64_t class_bytes[scheduler::kNumMemoryClasses] = {};
};

std::vector<Record> gather_records(comm::Communicator& world, const Record& mine) {
  constexpr auto kNumbers = static_cast<std::int64_t>(sizeof(Record) / sizeof(std::int64_t));
  std::vector<Record> all(static_cast<std::size_t>(world.size()));
  comm::all_gather(world, {&mine, kNumbers, DType::kI64}, {all.data(), kNumbers * world.size(), DType::kI64},
                   *make_inline_stream());
  return all;
}

/// The fullest rank of the first GPU that lacks memory, and what it may use of it; -1: all fit.
struct Lack {
  int rank = -1, num_sharing = 1;
  std::int64_t limit_bytes = 0;
};
Lack find_lack(const std::vector<Record>& records) {
  for (const Record& first : records) {
    Lack lack;
    lack.num_sharing = 0;
    std::int64_t need = 0, most = -1, available = first.available_bytes;
    for (std::size_t r = 0; r < records.size(); ++r) {
      if (records[r].device != first.device) continue;
      ++lack.num_sharing;
      need += records[r].need_bytes;
      available = std::min(available, records[r].available_bytes);
      if (records[r].need_bytes > most) lack.rank = static_cast<int>(r);
      most = std::max(most, records[r].need_bytes);
    }
    const std::int64_t beyond = std::max<std::int64_t>(0, available - lack.num_sharing * kProductWorkspaceBytes);
    const auto room = static_cast<std::int64_t>(static_cast<double>(beyond) * (1.0 - kDeviceMemoryMargin));
    lack.limit_bytes = room / lack.num_sharing;
    if (need > room) return lack;
  }
  return {};
}

}  // namespace

std::optional<SmallerStep> find_smaller_step(const RunConfig& config, const Mesh& mesh,
                                             const scheduler::CostModel& cost, std::int64_t limit_bytes) {
  std::vector<SchedulePolicy> policies{config.schedule.policy};
  if (config.schedule.policy != SchedulePolicy::kWeft) policies.push_back(SchedulePolicy::kWeft);
  RunConfig tried = config;
  tried.schedule.plan.clear();
  const int group = std::max(1, config.model.moe.group_sequences);
  for (; tried.train.micro_batch >= group; tried.train.micro_batch -= group) {
    if (!validate(tried, mesh.world_size).empty()) continue;
    for (int kind = static_cast<int>(config.train.recompute); kind <= static_cast<int>(scheduler::Recompute::kFull);
         ++kind)
      for (const SchedulePolicy policy : policies) {
        tried.train.recompute = static_cast<scheduler::Recompute>(kind);
        tried.schedule.policy = policy;
        const std::optional<FittingPlan> fitting = plan_within(tried, mesh, cost, limit_bytes);
        if (!fitting) continue;
        SmallerStep out{{}, fitting->plan.plan, need_of(fitting->plan)};
        const auto set = [&](const char* path, const std::string& value) {
          out.sets += str(out.sets.empty() ? "" : " ", "--set ", path, "=", value);
        };
        if (policy != config.schedule.policy) set("schedule.policy", upper(to_string(policy_of(policy))));
        if (tried.train.recompute != config.train.recompute)
          set("train.recompute", upper(to_string(tried.train.recompute)));
        if (tried.train.micro_batch != config.train.micro_batch) set("train.micro_batch", str(tried.train.micro_batch));
        if (!config.schedule.plan.empty()) set("schedule.plan", "");
        if (policy != SchedulePolicy::kManual) set("schedule.memory_limit_mib", limit_text(fitting->limit_mib));
        return out;
      }
  }
  return std::nullopt;
}

void require_device_memory(const RunConfig& config, comm::Communicator& world, const RunPlan& plan,
                           const scheduler::CostModel& cost, Device device) {
  if (device.kind == DeviceKind::kCpu) return;
  Record mine{static_cast<std::int64_t>(hash_name(device_id(device))),
              available_bytes(device),
              need_of(plan),
              plan.validation_bytes,
              {}};
  std::copy(std::begin(plan.memory.bytes), std::end(plan.memory.bytes), std::begin(mine.class_bytes));
  const std::vector<Record> records = gather_records(world, mine);
  const Lack lack = find_lack(records);
  if (lack.rank < 0) return;
  static_cast<void>(agree_on_plan(world, [&]() -> scheduler::Plan {
    const Record& fullest = records[static_cast<std::size_t>(lack.rank)];
    scheduler::MemoryUse memory;
    std::copy(std::begin(fullest.class_bytes), std::end(fullest.class_bytes), std::begin(memory.bytes));
    Mesh its = plan.mesh;
    its.world_rank = lack.rank;
    throw Error(ErrorCode::kOutOfMemory,
                str("a step needs ", mib(fullest.need_bytes), " on rank ", lack.rank, " (",
                    by_class(memory, fullest.validation_bytes), "), whose GPU has ", mib(fullest.available_bytes),
                    " free", lack.num_sharing > 1 ? str(" for ", lack.num_sharing, " ranks") : std::string(),
                    ": plans get ", mib(lack.limit_bytes), " a rank"),
                hint_for(config, its, cost, lack.limit_bytes));
  }));
}

std::int64_t room_for_plans(comm::Communicator& world, const RunPlan& plan, Device device) {
  if (device.kind == DeviceKind::kCpu) return 0;
  Record mine;
  mine.device = static_cast<std::int64_t>(hash_name(device_id(device)));
  mine.available_bytes = available_bytes(device);
  mine.need_bytes = plan.memory.total();
  const std::vector<Record> records = gather_records(world, mine);
  std::int64_t least = 0;
  for (const Record& r : records) {
    const auto sharing =
        std::count_if(records.begin(), records.end(), [&](const Record& o) { return o.device == r.device; });
    const auto room =
        r.need_bytes + static_cast<std::int64_t>(double(r.available_bytes) * (1.0 - kDeviceMemoryMargin)) / sharing;
    if (least == 0 || room < least) least = room;
  }
  return least;
}

Error explain_out_of_memory(const RunConfig& config, const RunPlan& plan, const scheduler::CostModel& cost,
                            const Error& failure) {
  const std::int64_t need = need_of(plan);
  const auto limit = static_cast<std::int64_t>(static_cast<double>(need) * (1.0 - kDeviceMemoryMargin));
  return {ErrorCode::kOutOfMemory,
          str(failure.message(), "; the plan was for ", mib(need), " on rank ", plan.mesh.world_rank, " (",
              by_class(plan.memory, plan.validation_bytes), ")"),
          hint_for(config, plan.mesh, cost, limit)};
}

}  // namespace weft::parallel
