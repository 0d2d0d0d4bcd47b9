// core/cuda/no_cuda.cpp - the CUDA backend of builds without CUDA.
#include "core/cuda/backend.h"
#include "core/error.h"
#include "core/gpu_info.h"

namespace weft::cuda {
namespace {

[[noreturn]] void unavailable() { throw Error(ErrorCode::kUnavailable, why_unavailable(), "use the CPU backend"); }

}  // namespace

bool is_available() noexcept { return false; }
std::string why_unavailable() { return "this build of Weft has no CUDA backend"; }
int num_devices() noexcept { return 0; }
std::string device_id(Device) { unavailable(); }
void* allocate(Device, std::int64_t, MemoryPlace) { unavailable(); }
void deallocate(Device, void*, MemoryPlace) noexcept {}
void copy(Stream&, void*, const void*, std::int64_t) { unavailable(); }
std::unique_ptr<Stream> make_stream(Device, std::string_view, StreamPriority) { unavailable(); }
std::unique_ptr<StreamClock> make_stream_clock(Device, std::size_t) { unavailable(); }
std::unique_ptr<Recording> record(std::span<Stream* const>, const std::function<void()>&) { unavailable(); }
void open_range(const char*) noexcept {}
void close_range() noexcept {}

}  // namespace weft::cuda

namespace weft {

GpuInfo gpu_info(Device) { cuda::unavailable(); }
std::int64_t available_bytes(Device) { cuda::unavailable(); }
PeerLink peer_link(Device, Device) { cuda::unavailable(); }
CudaVersions cuda_versions() { return {}; }

}  // namespace weft
