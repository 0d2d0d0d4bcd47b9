// parallel/step/step_state.h - what changes from step to step. Tasks read it when they run, so nothing of it is
// captured by value, and a bound step can run again and again.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "core/memory.h"
#include "core/stream.h"
#include "kernels/adamw.h"
#include "parallel/mesh.h"
#include "parallel/model/model_config.h"
#include "parallel/step/step_scalars.h"
#include "scheduler/plan.h"

namespace weft::parallel {

/// One micro-batch of this rank, T rows: its part of B sequences of S tokens, sequence after sequence, in the order of
/// its layout (parallel/attention/layout.h). Not owned.
struct MicroBatch {
  const std::int32_t* tokens = nullptr;     ///< [T]
  const std::int32_t* targets = nullptr;    ///< [T]; kernels::kIgnoreTarget where there is none.
  const std::int32_t* positions = nullptr;  ///< [T]
  const std::int32_t* segments = nullptr;  ///< [T]: rows of one segment attend to one another (kernels::AttentionRows).
  /// [ring, T * heads]: positions and segments of the rows that each ring rank works on in the attention core, after
  /// the exchange of heads for tokens. Null where no sequence is shared: then these are `positions` and `segments`.
  const std::int32_t* core_positions = nullptr;
  const std::int32_t* core_segments = nullptr;
  const std::int64_t* samples = nullptr;  ///< [B]: the sequences' ids, the key of their noise; null: numbered from 0.
  /// [SP, T]: the place in its sequence of each row, of every rank that shares the sequences. Null: none is shared, and
  /// rows stand in order.
  const std::int32_t* places = nullptr;
  friend bool operator==(const MicroBatch&, const MicroBatch&) = default;
};

/// How the rank's share of a step is cut.
struct StepGeometry {
  int num_micro_batches = 1;
  int micro_batch = 1;      ///< Sequences of one micro-batch.
  int sequence_length = 1;  ///< S
  int group_sequences = 1;  ///< Sequences of a routing group.
  int sequence_ranks = 1;   ///< SP: ranks that share each sequence evenly.
  /// Rows of one sequence on this rank, S / SP.
  [[nodiscard]] std::int64_t rows_per_sequence() const { return sequence_length / sequence_ranks; }
  friend bool operator==(const StepGeometry&, const StepGeometry&) = default;
};

/// A sub-batch: the rows that one pass through the layers carries.
struct Unit {
  int index = 0;  ///< Over all micro-batches.
  int micro_batch = 0;
  int sub_batch = 0;
  std::int64_t first_row = 0;  ///< In the micro-batch.
  std::int64_t rows = 0;       ///< T
};
/// sub_batches_of(shape, m) units of each micro-batch m, cut between routing groups. Throws kInvalidArgument when there
/// are fewer groups.
[[nodiscard]] std::vector<Unit> make_units(const StepGeometry& geometry, const scheduler::Shape& shape);

/// What the router of one layer did with the rows of the whole step, over all ranks.
struct RouterStatistics {
  std::vector<double> choices;  ///< [E] choices before drops.
  std::vector<double> kept;     ///< [E] choices after drops.
  double balance_loss = 0.0;    ///< Already times its coefficient and over the step's groups.
  double z_loss = 0.0;          ///< Likewise.
};

/// The same of one unit, on the step's device, where its gate puts them. Null: they are not counted.
struct RouterFigures {
  double* balance_loss = nullptr;  ///< [1]
  double* z_loss = nullptr;        ///< [1]
  double* choices = nullptr;       ///< [E]
  double* kept = nullptr;          ///< [E]
  explicit operator bool() const { return choices != nullptr; }
};

/// Everything a step adds up over units, layers and ranks, on the step's device: nothing waits for it before the step's
/// end. Kept per unit, and added up in the order of the units, so that the sums do not depend on the order in which
/// tasks ran. One all-reduce makes the sums global.
class StepStatistics {
 public:
  StepStatistics() = default;
  StepStatistics(const ModelConfig& model, int num_units, int world_size, Device device = {});

  /// All figures to zero, and the choices of the last step, [layers][E], to the device.
  void start(Stream& stream, const std::vector<std::vector<double>>& previous_choices);
  [[nodiscard]] double* loss_sum(int unit) const { return at(unit, 0); }  ///< [1] sum of cross-entropies.
  [[nodiscard]] RouterFigures router(int unit, int layer) const;
  /// Rows that its experts took in: known to the host.
  double& received_rows(int unit) { return received_rows_[static_cast<std::size_t>(unit)]; }
  void forget_received_rows() { std::fill(received_rows_.begin(), received_rows_.end(), 0.0); }
  [[nodiscard]] const double* previous_choices(int layer) const;  ///< [E] of the last step.
  [[nodiscard]] double* running_choices(int layer) const;         ///< [E] of this step so far, all ranks.

  /// sums = all of it for one rank, added up over units: [loss, gradient norm squared, per layer: balance, z, choices,
  /// kept, per rank of the world: rows received]. The second entry is the caller's.
  void pack(Stream& stream, int world_rank) const;
  [[nodiscard]] double* sums() const;  ///< [num_sums()]
  [[nodiscard]] std::int64_t num_sums() const { return width_ + world_size_; }
  [[nodiscard]] double* clip_factor() const;  ///< [1]

  /// Brings loss sums and sums to the host; what follows reads them there, once the stream is done.
  void fetch(Stream& stream) const;
  [[nodiscard]] double loss_sum_on_host(int unit) const { return on_host()[unit * width_]; }
  [[nodiscard]] std::vector<double> sums_on_host() const;

 private:
  [[nodiscard]] double* at(int unit, std::int64_t place) const { return device_.as<double>() + unit * width_ + place; }
  [[nodiscard]] const double* on_host() const { return (host_.data() != nullptr ? host_ : device_).as<double>(); }
  [[nodiscard]] std::int64_t first_sum() const { return num_units_ * width_; }
  [[nodiscard]] double* choices_of(int step, int layer) const;

  int num_layers_ = 0, num_experts_ = 0, num_units_ = 0, world_size_ = 1;
  std::int64_t width_ = 0;  ///< Figures of a unit: loss, a place for the gradient's squares, per layer 2 + 2 E.
  std::vector<double> received_rows_;
  /// [units, width], sums, clip factor, choices of the last step and of this one, [2, layers, E].
  Memory device_;
  Memory
      host_;  ///< Pinned: the figures on their way to the host, the choices on theirs to the device; none on the CPU.
};

/// A step's figures over all ranks.
struct StepResult {
  double loss = 0.0;           ///< Mean cross-entropy, nats per valid token.
  double gradient_norm = 0.0;  ///< Before clipping; every parameter counted once.
  double balance_loss = 0.0;
  double z_loss = 0.0;
  double drop_fraction = 0.0;            ///< Dropped choices over all choices.
  double max_violation = 0.0;            ///< Largest over layers of max_i n_i / mean - 1, n_i choices of expert i.
  double rank_imbalance = 1.0;           ///< Rows received by the busiest rank over the mean.
  int dead_experts = 0;                  ///< Experts of all layers without a choice in this step.
  std::vector<RouterStatistics> router;  ///< [layers]; empty vectors for dense layers.
};
[[nodiscard]] StepResult unpack(const std::vector<double>& sums, const ModelConfig& model, double num_valid_tokens);

/// [MoE layers][E]: what each expert took in, after drops; dense layers are left out.
[[nodiscard]] std::vector<std::vector<std::int64_t>> expert_tokens(const StepResult& result);

struct StepState {
  std::int64_t step = 1;            ///< Number of the update, from 1.
  std::uint64_t seed = 1;           ///< Of the run: the key of the router's noise.
  bool gate_noise = false;          ///< Training: gates that draw noise do. Evaluation: none.
  double num_valid_tokens = 1.0;    ///< Targets of the step over all ranks: the divisor of loss and gradient.
  double num_tokens = 1.0;          ///< Rows of the step over all ranks: the divisor of the z-loss.
  double num_groups = 1.0;          ///< Routing groups of the step over all ranks: the divisor of the balance loss.
  std::vector<MicroBatch> batches;  ///< [micro-batches]
  kernels::AdamWOptions optimizer;  ///< weight_decay is that of decayed parameters.
  double clip_norm = 0.0;           ///< 0: no clipping.
  std::vector<std::vector<double>>
      previous_choices;  ///< [layers][E] of the last step, for BalanceScope::kGlobalPrevious; empty: zero.

  // Set by the step (BoundStep):
  std::vector<MicroBatch> inputs;  ///< `batches` on the step's device.
  StepStatistics statistics;
  StepScalars scalars;
  std::vector<double> sums;  ///< StepStatistics::pack, over all ranks, once the step has run.
  bool finite = true;        ///< False when loss or gradient norm are not: the update is left out.
};

}  // namespace weft::parallel
