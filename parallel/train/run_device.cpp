#include "parallel/train/run_device.h"

#include "core/error.h"
#include "core/log.h"

namespace weft::parallel {

Device run_device(const RunConfig& config, comm::Communicator& world) {
  return run_device(config.parallel.device, "parallel.device", world);
}

Device run_device(DeviceChoice choice, const char* setting, comm::Communicator& world) {
  if (choice == DeviceChoice::kCpu) return {};
  std::string why = is_available(DeviceKind::kCuda) ? "" : why_unavailable(DeviceKind::kCuda);
  std::int32_t without = why.empty() ? 0 : 1;
  world.all_reduce(comm::as_buffer(&without, 1), comm::as_buffer(&without, 1), comm::ReduceOp::kSum,
                   *make_inline_stream());
  if (without == 0) {
    if (world.rank() == 0) log()->info("computing on GPUs");
    return comm::choose_device(world, DeviceKind::kCuda);
  }
  if (why.empty()) why = str(without, " of ", world.size(), " ranks see no GPU");
  if (choice == DeviceChoice::kCuda)
    throw Error(ErrorCode::kUnavailable, str(setting, " = CUDA: ", why), str("set ", setting, " to AUTO or CPU"));
  // where this rank sees no GPU, asking has logged why
  if (world.rank() == 0 && is_available(DeviceKind::kCuda)) log()->info("{}; computing on the CPU", why);
  return {};
}

comm::CtaBudgets cta_budgets(const RunConfig& config) {
  return {config.parallel.intra_node_ctas, config.parallel.inter_node_ctas};
}

}  // namespace weft::parallel
