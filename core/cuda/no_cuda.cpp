// core/cuda/no_cuda.cpp - the CUDA backend of builds without CUDA.
#include "core/cuda/backend.h"
#include "core/error.h"

namespace weft::cuda {
namespace {

[[noreturn]] void unavailable() {
  throw Error(ErrorCode::kUnavailable, "this build of Weft has no CUDA backend", "use the CPU backend");
}

}  // namespace

bool is_available() noexcept { return false; }
void* allocate(Device, std::int64_t) { unavailable(); }
void deallocate(Device, void*) noexcept {}
std::unique_ptr<Stream> make_stream(Device, std::string_view, StreamPriority) { unavailable(); }

}  // namespace weft::cuda
