// tests/support/gates.h - all gates of the registry, in models that suit them.
#pragma once

#include <string>
#include <vector>

#include "parallel/moe/gate_registry.h"

namespace weft::test {

/// Their names; gates that test files register are among them.
[[nodiscard]] inline std::vector<std::string> all_gates() {
  std::vector<std::string> out;
  for (const parallel::GateEntry& entry : parallel::gate_registry()) out.emplace_back(entry.name);
  return out;
}

/// Makes `gate` the model's: allowed, with two slots of each expert where it has slots, without losses that it refuses.
inline void choose_gate(parallel::ModelConfig& model, const std::string& gate) {
  model.moe.gate = gate;
  model.moe.allow_noncausal = true;
  for (const parallel::GateOption& option : parallel::gate_entry(gate).options)
    if (option.name == "slots_per_expert") model.moe.gate_options = {"slots_per_expert=2"};
  if (!parallel::gate_problems(model).empty()) model.moe.z_loss_coef = 0.0;
}

}  // namespace weft::test
