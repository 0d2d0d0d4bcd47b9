#include "core/recording.h"

#include "core/cuda/backend.h"
#include "core/error.h"

namespace weft {

std::unique_ptr<Recording> record(std::span<Stream* const> streams, const std::function<void()>& work) {
  WEFT_CHECK(!streams.empty(), "record: no streams");
  for (const Stream* stream : streams) {
    if (stream->device().kind == DeviceKind::kCpu)
      throw Error(ErrorCode::kUnavailable, "record: streams of the CPU are not recorded", "run the work on them");
    WEFT_CHECK(stream->device() == streams.front()->device(), "record: streams of different devices");
  }
  return cuda::record(streams, work);
}

}  // namespace weft
