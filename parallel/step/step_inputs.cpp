#include "parallel/step/step_inputs.h"

#include <cstring>

#include "core/error.h"

namespace weft::parallel {
namespace {

/// Packs arrays behind one another into host memory, and says where they will be on the device.
class Packer {
 public:
  Packer(const Memory& host, const Memory& device) : host_(host.as<std::byte>()), device_(device.as<std::byte>()) {}

  /// Null stays null.
  template <class U>
  void move(const U*& array, std::int64_t count) {
    if (array == nullptr) return;
    const auto bytes = static_cast<std::size_t>(count) * sizeof(U);
    std::memcpy(host_ + used_, array, bytes);
    array = reinterpret_cast<const U*>(device_ + used_);
    used_ += (bytes + kAlignment - 1) / kAlignment * kAlignment;
  }
  [[nodiscard]] std::int64_t used() const { return static_cast<std::int64_t>(used_); }
  static constexpr std::size_t kAlignment = 64;

 private:
  std::byte *host_, *device_;
  std::size_t used_ = 0;
};

}  // namespace

StepInputs::StepInputs(const StepSpec& spec, Device device) {
  if (device.kind == DeviceKind::kCpu) return;
  const StepGeometry& g = spec.geometry;
  num_micro_batches_ = g.num_micro_batches;
  sequences_ = g.micro_batch;
  rows_ = sequences_ * g.rows_per_sequence();
  places_ = g.sequence_ranks * rows_;
  core_rows_ = std::int64_t{spec.mesh.sequence_ring} * spec.mesh.sequence_heads * rows_;
  const std::int64_t of_rows = (4 * rows_ + places_ + 2 * core_rows_) * std::int64_t{sizeof(std::int32_t)};
  constexpr std::int64_t kArrays = 8;
  const std::int64_t bytes = of_rows + sequences_ * std::int64_t{sizeof(std::int64_t)} +
                             kArrays * static_cast<std::int64_t>(Packer::kAlignment);
  host_ = Memory(device, g.num_micro_batches * bytes, MemoryPlace::kPinned);
  device_ = Memory(device, g.num_micro_batches * bytes);
}

std::vector<MicroBatch> StepInputs::upload(const std::vector<MicroBatch>& batches, Stream& stream) {
  std::vector<MicroBatch> out = batches;
  if (device_.data() == nullptr) return out;
  WEFT_CHECK(static_cast<int>(batches.size()) <= num_micro_batches_, batches.size(), " micro-batches for a step of ",
             num_micro_batches_);
  Packer packer(host_, device_);
  for (MicroBatch& b : out) {
    for (const std::int32_t** array : {&b.tokens, &b.targets, &b.positions, &b.segments}) packer.move(*array, rows_);
    for (const std::int32_t** array : {&b.core_positions, &b.core_segments}) packer.move(*array, core_rows_);
    packer.move(b.places, places_);
    packer.move(b.samples, sequences_);
  }
  copy_bytes(stream, device_.data(), host_.data(), packer.used());
  return out;
}

}  // namespace weft::parallel
