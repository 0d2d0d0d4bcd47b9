#include "scheduler/arena.h"

#include <memory>
#include <utility>

#include "core/error.h"

namespace weft::scheduler {
namespace {

/// "activations ('logits')": of the slot's first buffer.
std::string contents_of(const Graph& graph, const SlotMap& slots, std::size_t slot) {
  for (std::size_t b = 0; b < graph.buffers.size(); ++b)
    if (!graph.buffers[b].persistent && slots.slot_of_buffer[b] == static_cast<int>(slot))
      return str(to_string(graph.buffers[b].memory), " ('", graph.buffers[b].label, "')");
  return str("slot ", slot);
}

Memory block_of(Device device, const Graph& graph, const SlotMap& slots, std::size_t slot) {
  try {
    return {device, slots.slot_bytes[slot]};
  } catch (const Error& e) {
    throw Error(e.code(), str(contents_of(graph, slots, slot), ": ", e.message()), e.hint());
  }
}

}  // namespace

Arena::Arena(Device device, const Graph& graph, SlotMap slots) : device_(device), map_(std::move(slots)) {
  blocks_.reserve(map_.slot_bytes.size());
  for (std::size_t slot = 0; slot < map_.slot_bytes.size(); ++slot)
    blocks_.push_back(block_of(device, graph, map_, slot));
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
