// parallel/moe/gate_registry.cpp - the list of gates. A new one: its file in gates/, a GateKind, and a line here.
#include <algorithm>
#include <array>
#include <cmath>

#include "core/error.h"
#include "parallel/moe/gate.h"

namespace weft::parallel {

GateEntry softmax_top_k_gate();
GateEntry gshard_gate();
GateEntry sigmoid_gate();
GateEntry xmoe_gate();
GateEntry expert_choice_gate();
GateEntry soft_moe_gate();

std::span<const GateEntry> gate_registry() {
  static const std::array entries{softmax_top_k_gate(), gshard_gate(),        sigmoid_gate(),
                                  xmoe_gate(),          expert_choice_gate(), soft_moe_gate()};
  return entries;
}

const GateEntry& gate_entry(GateKind kind) {
  const auto entries = gate_registry();
  const auto at = std::find_if(entries.begin(), entries.end(), [&](const GateEntry& e) { return e.kind == kind; });
  if (at == entries.end()) throw Error(ErrorCode::kInternal, str("no gate of kind ", static_cast<int>(kind)));
  return *at;
}

GateNeeds gate_needs(const ModelConfig& model) {
  GateOptions options;
  options.model = model;
  return make_gate<double>(options)->needs();
}

std::vector<GroupRow> rows_of_group(const GateOptions& options, const RowIds& ids, std::int64_t group) {
  const std::int64_t sequence_tokens = ids.rows_per_sequence * options.layout.sequence_ranks;
  std::vector<GroupRow> out(static_cast<std::size_t>(options.group_tokens));
  for (int rank = 0; rank < options.layout.sequence_ranks; ++rank)
    for (std::int64_t i = 0; i < options.group_rows; ++i) {
      const std::int64_t row = group * options.group_rows + i;
      const std::int64_t at = i / ids.rows_per_sequence * sequence_tokens + ids.position(row, rank);
      out[static_cast<std::size_t>(at)] = {rank, row};
    }
  return out;
}

std::int64_t gate_capacity(double factor, const MoeConfig& config, std::int64_t group_tokens) {
  const double even = static_cast<double>(group_tokens) * config.top_k / config.experts;
  return std::clamp<std::int64_t>(static_cast<std::int64_t>(std::ceil(factor * even - 1e-9)), 1, group_tokens);
}

}  // namespace weft::parallel
