#include "scheduler/arena.h"

#include <memory>
#include <utility>

#include "core/error.h"

namespace weft::scheduler {

Arena::Arena(Device device, const Graph& graph, SlotMap slots) : device_(device), map_(std::move(slots)) {
  blocks_.reserve(map_.slot_bytes.size());
  for (const std::int64_t bytes : map_.slot_bytes) blocks_.emplace_back(device, bytes);
  labels_.reserve(graph.buffers.size());
  for (const BufferSpec& spec : graph.buffers) labels_.push_back(spec.label);
}

void Arena::reserve(Stream& stream, BufferId b, std::int64_t bytes) {
  Memory& block = blocks_[map_.slot_of_buffer[b]];
  if (block.bytes() >= bytes) return;
  // What it held is dead, so free it before taking more; but where tasks only launch, the last of its users may still
  // run. This stream waits for them.
  if (device_.kind != DeviceKind::kCpu) stream.keep_alive(std::make_shared<Memory>(std::move(block)));
  block = Memory();
  try {
    block = Memory(device_, bytes + bytes / 8);
  } catch (const Error& e) {
    throw Error(
        e.code(), str("buffer '", labels_[b], "' needs ", bytes, " bytes this step: ", e.message()),
        "routing is more unbalanced than the plan allowed for: use a capacity factor, a larger balance loss, or a "
        "smaller micro_batch");
  }
  ++num_grows_;
}

std::int64_t Arena::bytes() const noexcept {
  std::int64_t total = 0;
  for (const Memory& block : blocks_) total += block.bytes();
  return total;
}

}  // namespace weft::scheduler
