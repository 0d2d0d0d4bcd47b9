#include "parallel/step/step_scalars.h"

#include "core/rng.h"
#include "parallel/step/step_state.h"

namespace weft::parallel {
namespace {

/// How they lie in memory; behind it the keys, [layers].
struct Head {
  kernels::AdamWFactors decayed, other;
  double grad_scale;
};

PhiloxKey* keys(const Memory& memory) { return reinterpret_cast<PhiloxKey*>(memory.as<Head>() + 1); }

}  // namespace

StepScalars::StepScalars(int num_layers, Device device)
    : num_layers_(num_layers),
      device_(device,
              static_cast<std::int64_t>(sizeof(Head)) + num_layers * static_cast<std::int64_t>(sizeof(PhiloxKey))) {
  if (device.kind != DeviceKind::kCpu) host_ = Memory(device, device_.bytes(), MemoryPlace::kPinned);
}

void StepScalars::start(Stream& stream, const StepState& state) {
  const bool apart = host_.data() != nullptr;
  const Memory& image = apart ? host_ : device_;
  kernels::AdamWOptions options = state.optimizer;
  options.step = state.step;
  Head& head = *image.as<Head>();
  head.decayed = kernels::adamw_factors(options);
  options.weight_decay = 0.0;
  head.other = kernels::adamw_factors(options);
  head.grad_scale = 1.0 / state.num_valid_tokens;
  for (int layer = 0; layer < num_layers_; ++layer)
    keys(image)[layer] = Rng(state.seed, RngPurpose::kGateNoise, static_cast<std::uint64_t>(state.step),
                             static_cast<std::uint64_t>(layer))
                             .key();
  if (apart) copy_bytes(stream, device_.data(), image.data(), image.bytes());
}

const double* StepScalars::grad_scale() const { return &device_.as<Head>()->grad_scale; }
const kernels::AdamWFactors* StepScalars::adamw(bool decay) const {
  const Head* head = device_.as<Head>();
  return decay ? &head->decayed : &head->other;
}
const PhiloxKey* StepScalars::noise_key(int layer) const { return keys(device_) + layer; }

}  // namespace weft::parallel
