#include "parallel/train/run_device.h"

#include "comm/for_device.h"
#include "core/error.h"
#include "core/log.h"

namespace weft::parallel {

Device run_device(const RunConfig& config, comm::Communicator& world) {
  if (config.parallel.device == DeviceChoice::kCpu) return {};
  std::string why = is_available(DeviceKind::kCuda) ? "" : why_unavailable(DeviceKind::kCuda);
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
