// parallel/moe/gate.h - the Gate: which experts each token goes to, and with what weight. An interface; the gates stand
// in gates/, one file each, and gate_registry.h knows them by name. Source of the six sub-modules: FSMoE,
// arXiv:2501.10714, section 3.1.
//
// A gate is a list of phases, each a task of its own: local ones compute, collective ones talk to other ranks. It says
// which tensors it keeps, and which of them each phase reads and writes; the emission makes buffers and edges of that.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <span>
#include <string_view>
#include <vector>

#include "core/matrix.h"
#include "core/memory.h"
#include "core/stream.h"
#include "kernels/gemm.h"
#include "kernels/router.h"
#include "parallel/mesh.h"
#include "parallel/model/parameter_store.h"
#include "parallel/moe/routing.h"
#include "parallel/step/step_state.h"
#include "scheduler/graph.h"

namespace weft::parallel {

/// Tensors that the emission knows by name; a gate's own follow from kGateOwn on.
enum GateTensorId : int {
  kGateKept,    ///< [D, K] i32, expert of each entry; -1: the entry does not travel.
  kGateWeight,  ///< Lists: [D, K], factor on the expert's output, before drops. kSlotMatrix: [T, E * C], slots to
                ///< tokens, stored as rows are.
  kGateChoice,  ///< kTokenList: [T, K] i32, choices before drops, best first, distinct in a row.
  kGateSource,  ///< kSlotList: [D, K] i32, the token of each slot.
  kGateMix,     ///< kSlotMatrix: [T, E * C], tokens to slots, stored as rows are.
  kGateOwn
};
inline constexpr int kMaxGateTensors = 30;  ///< The last four are those of parallel/moe/padded_gate.h.

/// How long a tensor lives. kFirstPass: written by the first forward pass alone and kept, so that a recomputation in
/// the backward finds it.
enum class GateTensorLife : std::uint8_t { kSaved, kForward, kBackward, kFirstPass };
/// kReal: what a router computes in, F32 at least. kRow: the type of the step's rows.
enum class GateElement : std::uint8_t { kReal, kRow, kI32, kF64 };

struct GateTensor {
  int id = 0;
  const char* label = "";
  std::int64_t count = 0;
  GateElement element = GateElement::kReal;
  GateTensorLife life = GateTensorLife::kSaved;
};

/// Which sequence each row belongs to, where in it it stands, and its token: the same on every layout. The arrays lie
/// on the step's device: token(), sample() and position() are for the CPU.
struct RowIds {
  const std::int32_t* tokens = nullptr;   ///< [micro_batch_rows], as MicroBatch::tokens.
  const std::int64_t* samples = nullptr;  ///< [B] of the micro-batch; null: numbered from 0.
  const std::int32_t* places = nullptr;   ///< [SP, micro_batch_rows], as MicroBatch::places; null: rows in order.
  std::int64_t micro_batch_rows = 0;
  std::int64_t first_row = 0;          ///< Of the unit in the micro-batch.
  std::int64_t rows_per_sequence = 1;  ///< On this rank.
  int sp_rank = 0;
  /// The same, as the kernel that draws noise has it.
  [[nodiscard]] kernels::NoiseRows noise_rows() const {
    return {samples, places != nullptr ? places + sp_rank * micro_batch_rows : nullptr, first_row, rows_per_sequence};
  }
  [[nodiscard]] std::int32_t token(std::int64_t t) const { return tokens[first_row + t]; }
  [[nodiscard]] std::int64_t sample(std::int64_t t) const {
    const std::int64_t sequence = (first_row + t) / rows_per_sequence;
    return samples != nullptr ? samples[sequence] : sequence;
  }
  [[nodiscard]] std::int64_t position(std::int64_t t) const {
    return places != nullptr ? places[sp_rank * micro_batch_rows + first_row + t] : (first_row + t) % rows_per_sequence;
  }
};

/// Balance of one unit over all layers so far, for BalanceForm::kHuggingFace, on the step's device.
struct PooledBalance {
  PooledBalance(std::int64_t cells_, Device device)
      : cells(cells_), sums(device, 2 * cells_ * std::int64_t{sizeof(double)}) {}
  [[nodiscard]] double* fraction() const { return sums.as<double>(); }           ///< [G * E] sum over layers.
  [[nodiscard]] double* mean_prob() const { return sums.as<double>() + cells; }  ///< Likewise.

  std::int64_t cells;
  Memory sums;
  int layers = 0;  ///< None: the sums are not there yet.
};

/// All that a phase sees when it runs. Rows are of type T; a router computes in Wide<T>, so that rounding rows does not
/// change choices further.
template <class T>
struct GateCall {
  Stream& stream;
  Matrix<const T> x;                              ///< [T, M] hidden states, normalised.
  std::array<void*, kMaxGateTensors> tensors{};   ///< By id; null: not there.
  std::span<const Parameter<T>> parameters = {};  ///< In the order of the gate's specs.
  StepState* state = nullptr;
  int layer = 0;
  RowIds ids = {};
  const MeshComms* comms = nullptr;  ///< For collective phases.
  RouterFigures statistics = {};     ///< Where counts and losses of the unit go; null: they are not counted.
  PooledBalance* pooled = nullptr;   ///< Of the unit, over the layers so far.
  // Backward:
  Matrix<T> dx = {};  ///< [T, M]
  kernels::Accumulate dx_accumulate = kernels::Accumulate::kOverwrite;
  kernels::Accumulate accumulate = kernels::Accumulate::kOverwrite;  ///< Of the parameters' gradients.
  const Wide<T>* d_weight = nullptr;                                 ///< As kGateWeight.
  const Wide<T>* d_mix = nullptr;                                    ///< As kGateMix.

  template <class U = Wide<T>>
  [[nodiscard]] U* tensor(int id) const {
    return static_cast<U*>(tensors[static_cast<std::size_t>(id)]);
  }
};

enum class GateGroup : std::uint8_t { kNone, kSequence, kWorld };  ///< Who takes part in a phase.

/// `run` may be called once and its launches repeated (parallel/step/recorded_step.h), unless the phase waits for the
/// host: of the state it may read on the host `seed`, `gate_noise`, `num_tokens` and `num_groups`; the numbers of a
/// step lie in `scalars`, on the device.
template <class T>
struct GatePhase {
  const char* label = "";
  scheduler::Work work;
  GateGroup group = GateGroup::kNone;
  bool reads_hidden = true;  ///< Reads x and the gate's parameters.
  std::vector<int> reads, writes;
  std::function<void(GateCall<T>&)> run;
};

/// The value of an option of the config's gate. Throws kInvalidArgument when the gate has none of that name, or its
/// text is no number.
[[nodiscard]] double gate_option(const MoeConfig& config, std::string_view option);

/// What a gate is made from.
struct GateOptions {
  ModelConfig model;
  std::int64_t group_rows = 1;    ///< Rows of a routing group on this rank.
  std::int64_t group_tokens = 1;  ///< Tokens of a routing group, over all ranks that share it.
  bool training = true;
  GateLayout layout;
};

/// Routing groups that several ranks share, in a table with the rows of all of them, [SP, T]: in order of position,
/// with results for the rows of this rank. order: [SP * rows] i32, filled in the stream's order.
[[nodiscard]] kernels::RoutingGroups shared_groups(Stream& stream, std::int32_t* order, const GateOptions& options,
                                                   const RowIds& ids, std::int64_t rows);

/// Stateless: the same inputs, keys and parameters give the same routing, bit for bit.
template <class T>
class Gate {
 public:
  explicit Gate(const GateOptions& options) : options_(options) {}
  virtual ~Gate() = default;
  Gate(const Gate&) = delete;
  Gate& operator=(const Gate&) = delete;

  /// For the layout in the options; the emission follows from this alone.
  [[nodiscard]] virtual GateNeeds needs() const = 0;
  [[nodiscard]] virtual TableShape table(std::int64_t rows) const = 0;
  [[nodiscard]] virtual std::vector<GateTensor> tensors(std::int64_t rows) const = 0;
  /// counted: the pass whose figures enter the step's statistics and losses; a recomputation or evaluation is not.
  [[nodiscard]] virtual std::vector<GatePhase<T>> forward(std::int64_t rows, bool counted) const = 0;
  /// Gradients of x and of the parameters, from d_weight (and d_mix). For kSlotMatrix it runs after Order's backward.
  [[nodiscard]] virtual std::vector<GatePhase<T>> backward(std::int64_t rows) const = 0;
  /// The most rows that one expert gets from a unit of `rows` rows; 0: no bound but the rows themselves.
  [[nodiscard]] virtual std::int64_t max_rows_per_expert(std::int64_t rows) const {
    static_cast<void>(rows);
    return 0;
  }
  /// Writes probabilities that BalanceScope and the balance losses apply to.
  [[nodiscard]] virtual bool balances() const { return false; }

 protected:
  [[nodiscard]] const GateOptions& options() const { return options_; }
  [[nodiscard]] const MoeConfig& moe() const { return options_.model.moe; }
  [[nodiscard]] double option(std::string_view name) const { return gate_option(moe(), name); }

 private:
  GateOptions options_;
};

/// ceil(f * K * n / E), at least 1 and at most n: GShard's capacity, arXiv:2006.16668, for the n tokens of a routing
/// group.
[[nodiscard]] std::int64_t gate_capacity(double factor, const MoeConfig& config, std::int64_t group_tokens);

}  // namespace weft::parallel
