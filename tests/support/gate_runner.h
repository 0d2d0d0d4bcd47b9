// tests/support/gate_runner.h - a gate by itself, without a step: its tensors in plain arrays, its phases one after the
// other.
#pragma once

#include <algorithm>
#include <set>
#include <vector>

#include "core/rng.h"
#include "tests/support/gates.h"
#include "tests/support/generators.h"

namespace weft::test {

/// Random parameters and hidden states for one gate, and the memory of one pass.
template <class T>
class GateRunner {
 public:
  GateRunner(const parallel::ModelConfig& model, std::int64_t group_rows, std::int64_t groups, std::uint64_t seed)
      : pooled(groups * model.moe.experts, Device{}),
        model_(model),
        rows_(group_rows * groups),
        stream_(make_inline_stream()) {
    parallel::GateOptions options;
    options.model = model;
    options.group_rows = options.group_tokens = group_rows;
    gate_ = parallel::make_gate<T>(options);
    const Rng rng(seed, RngPurpose::kTest);
    std::uint64_t n = 0;
    const auto draw = [&](std::vector<T>& out, std::int64_t count, double scale) {
      for (std::int64_t i = 0; i < count; ++i) out.push_back(static_cast<T>(scale * rng.normal(n++)));
    };
    draw(x, rows_ * model.model_dim, 1.0);
    for (const parallel::ParameterSpec& spec : parallel::gate_entry(model.moe.gate).parameters(model)) {
      draw(weights.emplace_back(), spec.count(), 0.5);
      gradients.emplace_back(static_cast<std::size_t>(spec.count()));
    }
    state.step = 3;
    state.seed = 11;
    state.gate_noise = true;
    state.num_tokens = static_cast<double>(rows_);
    state.num_groups = static_cast<double>(groups);
    state.previous_choices.assign(1, std::vector<double>(static_cast<std::size_t>(model.moe.experts)));
    state.statistics = parallel::StepStatistics(model, 1, 1);
    state.statistics.start(*stream_, state.previous_choices);
    state.scalars = parallel::StepScalars(1, {});
    statistics.choices.resize(static_cast<std::size_t>(model.moe.experts));
    statistics.kept = statistics.choices;
    for (const parallel::GateTensor& tensor : gate_->tensors(rows_)) {
      auto& memory = memory_[static_cast<std::size_t>(tensor.id)];
      memory.assign(static_cast<std::size_t>(tensor.count), Cell{});  // room for any element type
    }
    ids.rows_per_sequence = group_rows;
    for (std::int64_t t = 0; t < rows_; ++t)
      tokens_.push_back(static_cast<std::int32_t>(rng.below(50, static_cast<std::uint64_t>(t))));
    ids.tokens = tokens_.data();
  }

  [[nodiscard]] const parallel::Gate<T>& gate() const { return *gate_; }
  [[nodiscard]] parallel::TableShape table() const { return gate_->table(rows_); }
  [[nodiscard]] std::int64_t rows() const { return rows_; }
  template <class U>
  [[nodiscard]] U* tensor(int id) {
    auto& memory = memory_[static_cast<std::size_t>(id)];
    return memory.empty() ? nullptr : reinterpret_cast<U*>(memory.data());
  }
  template <class U>
  [[nodiscard]] std::vector<U> values(int id) {
    const U* data = tensor<U>(id);
    return std::vector<U>(data, data + memory_[static_cast<std::size_t>(id)].size());
  }

  void forward() {
    statistics.choices.assign(statistics.choices.size(), 0.0);
    statistics.kept = statistics.choices;
    statistics.balance_loss = statistics.z_loss = 0.0;
    pooled.layers = 0;
    parallel::GateCall<T> c = call();
    c.statistics = {&statistics.balance_loss, &statistics.z_loss, statistics.choices.data(), statistics.kept.data()};
    for (const auto& phase : gate_->forward(rows_, true)) phase.run(c);
  }
  /// Gradients of `gradients` and dx from those of the weights (and of the mix).
  void backward(const std::vector<T>& d_weight, const std::vector<T>& d_mix) {
    parallel::GateCall<T> c = call();
    dx.assign(x.size(), T(0));
    c.dx = {dx.data(), rows_, model_.model_dim};
    c.d_weight = d_weight.data();
    c.d_mix = d_mix.data();
    for (const auto& phase : gate_->backward(rows_)) phase.run(c);
  }

  std::vector<T> x, dx;
  std::vector<std::vector<T>> weights, gradients;  ///< Of each parameter.
  parallel::StepState state;
  parallel::RowIds ids;
  parallel::RouterStatistics statistics;
  parallel::PooledBalance pooled;  ///< Of all routing groups.

 private:
  struct alignas(8) Cell {
    unsigned char bytes[8] = {};
  };
  [[nodiscard]] parallel::GateCall<T> call() {
    parallel::GateCall<T> c{*stream_, Matrix<const T>(x.data(), rows_, model_.model_dim)};
    for (std::size_t id = 0; id < memory_.size(); ++id)
      if (!memory_[id].empty()) c.tensors[id] = memory_[id].data();
    parameters_.clear();
    for (std::size_t i = 0; i < weights.size(); ++i) parameters_.push_back({weights[i].data(), gradients[i].data()});
    c.parameters = parameters_;
    state.scalars.start(*stream_, state);
    c.state = &state;
    c.ids = ids;
    c.pooled = &pooled;
    return c;
  }

  parallel::ModelConfig model_;
  std::int64_t rows_;
  std::unique_ptr<Stream> stream_;
  std::unique_ptr<parallel::Gate<T>> gate_;
  std::array<std::vector<Cell>, parallel::kMaxGateTensors> memory_;
  std::vector<parallel::Parameter<T>> parameters_;
  std::vector<std::int32_t> tokens_;
};

/// A model for gates alone, with one of the gates.
[[nodiscard]] inline parallel::ModelConfig gate_model(const std::string& gate) {
  parallel::ModelConfig m;
  m.layers = 1;
  m.model_dim = 6;
  m.moe.experts = 4;
  m.moe.top_k = 2;
  m.moe.balance_loss_coef = 0.1;
  choose_gate(m, gate);
  return m;
}

}  // namespace weft::test
