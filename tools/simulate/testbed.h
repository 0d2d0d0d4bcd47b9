// tools/simulate/testbed.h - the published clusters and stage tables, from their files.
#pragma once

#include <string>
#include <vector>

#include "scheduler/cost_model.h"
#include "scheduler/layer_emitter.h"
#include "scheduler/stage_emitter.h"

namespace weft::tools {

/// One configuration of FSMoE's grid (arXiv:2501.10714, Table 4).
struct GridCase {
  int batch = 1;                ///< B
  int heads = 8;                ///< Of attention: no part of the MoE layer's time.
  int sequence_length = 0;      ///< L
  int model_dim = 0;            ///< M
  int hidden_dim = 0;           ///< H
  double rows_per_token = 1.0;  ///< k f; 1 for "no dropping".
  bool gated = false;           ///< Mixtral's feed-forward (three products) instead of two.
};

/// A cluster of FSMoE's evaluation.
struct TestbedModel {
  std::string source;
  int nodes = 1, gpus_per_node = 1;
  std::vector<int> sequence_lengths;
  scheduler::CostModel cost_simple, cost_gated;            ///< They differ in the line of the experts.
  double operations_simple = 1.0, operations_gated = 1.0;  ///< Start-ups of an expert's forward.

  [[nodiscard]] const scheduler::CostModel& cost(const GridCase& c) const { return c.gated ? cost_gated : cost_simple; }
  /// What one direction of the layer moves and computes. Source: arXiv:2501.10714, section 2.2, and the authors'
  /// scheduler: n_a2a = k f B L M / N_ESP, n_ag = n_rs = k f B L M elements of 4 bytes; attention's gradients, (4 M^2 +
  /// 3 M) / N_MP + M (simple) or 2.5 M^2 / N_MP (gated) elements, when `gradients`.
  [[nodiscard]] scheduler::LayerWork work(const GridCase& c, bool gradients) const;
};

/// Throws kIo for a file that cannot be read, kInvalidArgument for what is missing or not positive in it.
[[nodiscard]] TestbedModel load_testbed(const std::string& path);
[[nodiscard]] scheduler::StageTable load_stage_table(const std::string& path);

/// All 3^6 x 2 cases of the grid on `testbed`, in a fixed order.
[[nodiscard]] std::vector<GridCase> grid_cases(const TestbedModel& testbed);

}  // namespace weft::tools
