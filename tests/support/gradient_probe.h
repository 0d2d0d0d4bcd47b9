// tests/support/gradient_probe.h - the gradients of a whole model on made-up tokens.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "core/rng.h"
#include "parallel/step/step_builder.h"
#include "scheduler/order.h"

namespace weft::test {

/// A model with its step in kGradients mode, and the scalar that the step differentiates.
template <class T>
class GradientProbe {
 public:
  GradientProbe(const parallel::ModelConfig& model, comm::Communicator& world,
                const parallel::ShapeOptions& shape_options)
      : model_(model),
        mesh_(parallel::make_mesh(1, 0, {})),
        comms_(world, mesh_),
        table_(model, mesh_),
        store_(table_, Device{}, false) {
    parallel::initialize_weights(store_, model, 7);
    const Rng rng(3, RngPurpose::kTest);
    for (int i = 0; i < kSequences * kLength; ++i) {
      tokens_.push_back(static_cast<std::int32_t>(
          rng.below(static_cast<std::uint64_t>(model.vocab_size), static_cast<std::uint64_t>(i))));
      targets_.push_back(i % 5 == 4 ? -1
                                    : static_cast<std::int32_t>(rng.below(static_cast<std::uint64_t>(model.vocab_size),
                                                                          static_cast<std::uint64_t>(1000 + i))));
      positions_.push_back(i % kLength);
      segments_.push_back(i / kLength);
      valid_ += targets_.back() >= 0;
    }
    state_.previous_choices.assign(static_cast<std::size_t>(model.layers),
                                   std::vector<double>(static_cast<std::size_t>(model.moe.experts), 0.0));
    state_.num_valid_tokens = valid_;
    state_.num_tokens = kSequences * kLength;
    state_.num_groups = kSequences;
    state_.gate_noise = true;
    state_.batches = {{tokens_.data(), targets_.data(), positions_.data(), segments_.data()}};
    const parallel::StepSpec spec{model, mesh_, {1, kSequences, kLength, 1}, parallel::StepMode::kGradients, false};
    const scheduler::Shape shape = parallel::uniform_shape(model.layers, shape_options);
    const auto graph = parallel::emit_step(spec, shape, dtype_of<T>);
    step_ = std::make_unique<parallel::BoundStep<T>>(spec, scheduler::sequential_plan(graph, shape),
                                                     parallel::Runtime<T>{&store_, &comms_, &state_, nullptr});
  }
  /// The loss that training minimises: cross-entropy, balance loss and z-loss.
  double loss() {
    step_->run();
    const parallel::StepResult r = parallel::unpack(state_.sums, model_, valid_);
    return r.loss + r.balance_loss + r.z_loss;
  }
  [[nodiscard]] parallel::ParameterStore<T>& store() { return store_; }

 private:
  static constexpr int kSequences = 2, kLength = 6;
  parallel::ModelConfig model_;
  parallel::Mesh mesh_;
  parallel::MeshComms comms_;
  parallel::ParameterTable table_;
  parallel::ParameterStore<T> store_;
  parallel::StepState state_;
  std::vector<std::int32_t> tokens_, targets_, positions_, segments_;
  double valid_ = 0;
  std::unique_ptr<parallel::BoundStep<T>> step_;
};

}  // namespace weft::test
