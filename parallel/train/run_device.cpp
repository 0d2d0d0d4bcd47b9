#include "parallel/train/run_device.h"

#include "comm/for_device.h"
#include "core/error.h"
#include "core/log.h"
#include "parallel/moe/gate_registry.h"

namespace weft::parallel {
namespace {

/// Ranks that share routing groups put their tokens in order on the host, where a gate needs the group as a set.
bool orders_on_host(const RunConfig& config) {
  if (config.parallel.sequence_heads * config.parallel.sequence_ring == 1) return false;
  GateOptions options;
  options.model = config.model;
  options.layout.sequence_ranks = config.parallel.sequence_heads * config.parallel.sequence_ring;
  options.group_tokens = std::int64_t{config.model.moe.group_sequences} * config.train.sequence_length;
  options.group_rows = options.group_tokens / options.layout.sequence_ranks;
  BalanceScope& scope = options.model.moe.balance_scope;
  if (scope == BalanceScope::kGlobalRunning) scope = BalanceScope::kGlobalPrevious;  // sums alone are collective there
  const GateNeeds needs = make_gate<float>(options)->needs();
  return needs.collective && needs.form != RoutingForm::kSlotMatrix;
}

}  // namespace

std::string why_not_on_gpu(const RunConfig& config) {
  if (orders_on_host(config))
    return str("gate ", config.model.moe.gate,
               " needs whole routing groups, which parallel.sequence_heads and sequence_ring cut");
  return "";
}

Device run_device(const RunConfig& config, comm::Communicator& world) {
  if (config.parallel.device == DeviceChoice::kCpu) return {};
  std::string why = why_not_on_gpu(config);
  const bool can = why.empty();
  if (can && !is_available(DeviceKind::kCuda)) why = why_unavailable(DeviceKind::kCuda);
  std::int32_t without = why.empty() ? 0 : 1;
  world.all_reduce(comm::as_buffer(&without, 1), comm::as_buffer(&without, 1), comm::ReduceOp::kSum,
                   *make_inline_stream());
  if (without == 0) {
    if (world.rank() == 0) log()->info("computing on GPUs");
    return comm::choose_device(world, DeviceKind::kCuda);
  }
  if (why.empty()) why = str(without, " of ", world.size(), " ranks see no GPU");
  if (config.parallel.device == DeviceChoice::kCuda)
    throw Error(ErrorCode::kUnavailable, "parallel.device = CUDA: " + why, "set parallel.device to AUTO or CPU");
  // where this rank sees no GPU, asking has logged why
  if (world.rank() == 0 && is_available(DeviceKind::kCuda)) log()->info("{}; computing on the CPU", why);
  return {};
}

}  // namespace weft::parallel
