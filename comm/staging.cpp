#include "comm/staging.h"

#include <algorithm>
#include <exception>
#include <utility>

#include "comm/host_buffer.h"
#include "core/error.h"

namespace weft::comm {
namespace {

/// Errors of the stream's work are the stream's to report, except that nothing can be read from a device that is lost.
void wait_for_contents(const Event& fetched) {
  try {
    fetched.wait();
  } catch (const Error& e) {
    if (e.code() == ErrorCode::kDevice) throw;
  }
}

}  // namespace

Staging::~Staging() {
  try {
    free_.wait();
  } catch (const std::exception&) {
    // the streams have it; what matters here is that nothing reads the memory any more
  }
}

StagedTransfer::StagedTransfer(Staging& staging, Stream& worker, Stream& stream, std::int64_t bytes)
    : staging_(staging), worker_(worker), stream_(stream) {
  stream.wait(staging.free_);
  if (staging.memory_ && staging.memory_->bytes() >= bytes) return;
  constexpr std::int64_t kLeastBytes = 64 << 10;
  const std::int64_t before = staging.memory_ ? staging.memory_->bytes() : 0;
  auto larger =
      std::make_shared<const Memory>(staging.device_, std::max({bytes, 2 * before, kLeastBytes}), MemoryPlace::kPinned);
  if (staging.memory_) stream.keep_alive(staging.memory_);  // the stream has waited for its last user
  staging.memory_ = std::move(larger);
}

Buffer StagedTransfer::take(std::int64_t count, DType dtype) {
  const Buffer out{staging_.memory_->as<std::byte>() + taken_bytes_, count, dtype};
  taken_bytes_ += staged_bytes(bytes_of(out));
  if (taken_bytes_ > staging_.memory_->bytes()) throw Error(ErrorCode::kInternal, "staging memory is too small");
  return out;
}

void StagedTransfer::fetch(Buffer host, const void* device) { copy_bytes(stream_, host.data, device, bytes_of(host)); }

void StagedTransfer::run(Work work) {
  worker_.enqueue([fetched = stream_.record(), memory = staging_.memory_, work = std::move(work), &worker = worker_] {
    wait_for_contents(fetched);
    work(worker);
  });
  steps_.push_back({worker_.record(), {}});
}

void StagedTransfer::store(void* device, ConstBuffer host) { steps_.back().stores.push_back({device, host}); }

void StagedTransfer::finish() {
  for (const Step& step : steps_) {
    stream_.wait(step.done);
    for (const auto& [to, from] : step.stores) copy_bytes(stream_, to, from.data, bytes_of(from));
  }
  staging_.free_ = stream_.record();
}

}  // namespace weft::comm
