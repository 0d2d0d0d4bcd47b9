#include "comm/for_device.h"

#include <algorithm>
#include <cstdint>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "comm/nccl/backend.h"
#include "comm/staged_communicator.h"
#include "comm/topology.h"
#include "core/error.h"
#include "core/log.h"
#include "core/rng.h"

namespace weft::comm {
namespace {

std::vector<std::uint64_t> gather(Communicator& world, std::uint64_t mine) {
  std::vector<std::uint64_t> all(static_cast<std::size_t>(world.size()));
  all_gather(world, {&mine, 1, DType::kI64}, {all.data(), world.size(), DType::kI64}, *make_inline_stream());
  return all;
}

/// True on all ranks when it is on one.
bool on_any(Communicator& world, bool here) {
  std::int32_t any = here ? 1 : 0;
  world.all_reduce(as_buffer(&any, 1), as_buffer(&any, 1), ReduceOp::kMax, *make_inline_stream());
  return any != 0;
}

/// The lowest pair of ranks with one GPU; {-1, -1} when all have their own.
std::pair<int, int> first_shared(const std::vector<std::uint64_t>& gpus) {
  for (auto b = gpus.begin(); b != gpus.end(); ++b)
    if (const auto a = std::find(gpus.begin(), b, *b); a != b)
      return {static_cast<int>(a - gpus.begin()), static_cast<int>(b - gpus.begin())};
  return {-1, -1};
}

/// Why NCCL cannot connect these ranks; empty when it can. Empty on all ranks or on none.
std::string why_no_nccl_between(Communicator& world, Device device) {
  const auto [a, b] = first_shared(gather(world, hash_name(device_id(device))));
  if (a >= 0) return str("ranks ", a, " and ", b, " share a GPU, which NCCL does not allow");
  const std::string mine = nccl::why_unavailable();
  if (on_any(world, !mine.empty())) return mine.empty() ? "another rank has no NCCL" : mine;
  return {};
}

}  // namespace

std::string why_no_nccl() { return nccl::why_unavailable(); }
std::string nccl_version() { return nccl::version(); }

Device choose_device(Communicator& world, DeviceKind kind) {
  if (kind == DeviceKind::kCpu) return {};
  const bool here = is_available(kind);
  if (on_any(world, !here))
    throw Error(ErrorCode::kUnavailable, here ? "another rank sees no GPU" : why_unavailable(kind),
                "start ranks on machines with a GPU only, or compute on the CPU");
  const int place = place_on_machine(world, *make_inline_stream());
  return {kind, place % num_devices(kind)};
}

Transport find_transport(Communicator& world, Device device) {
  const bool can_travel = device.kind != DeviceKind::kCpu && world.size() > 1;
  return can_travel && why_no_nccl_between(world, device).empty() ? Transport::kNccl : Transport::kHost;
}

std::unique_ptr<Communicator> for_device(Communicator& world, Device device, const DeviceGroupOptions& options) {
  const bool on_cpu = device.kind == DeviceKind::kCpu;
  std::unique_ptr<Communicator> host = world.split(0, world.rank(), on_cpu ? "cpu" : "gpu");
  if (on_cpu) return host;
  bool use_nccl = options.transport != Transport::kHost;
  if (options.transport == Transport::kAuto && world.size() == 1) use_nccl = false;  // nothing travels
  if (use_nccl) {
    if (const std::string problem = why_no_nccl_between(*host, device); !problem.empty()) {
      if (options.transport == Transport::kNccl)
        throw Error(ErrorCode::kUnavailable, problem, "let collectives go through the host");
      static std::once_flag said;  // of a job's many groups
      std::call_once(said, [&] { log()->info("collectives go through host memory: {}", problem); });
      use_nccl = false;
    }
  }
  if (use_nccl) return nccl::make_communicator(std::move(host), device, options);
  return make_staged_communicator(std::move(host), device);
}

}  // namespace weft::comm
