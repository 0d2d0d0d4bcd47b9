// parallel/moe/gate_registry.h - the gates by name: what a config calls each of them, what it takes, how it is made. A
// gate is one file in gates/, with the gate and a function that returns its GateEntry, and one line in the list of
// gate_registry.cpp. What the rest of the system knows of a gate, it asks here.
#pragma once

#include <deque>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "parallel/moe/gate.h"

namespace weft::parallel {

/// A number that a gate takes from model.moe.gate_options, "name=value".
struct GateOption {
  std::string_view name;
  double default_value = 0.0;
  double smallest = 0.0, largest = 0.0;  ///< Allowed values, both ends among them.
  bool whole = false;                    ///< A whole number.
  std::string_view summary;              ///< One line.
};

struct GateEntry {
  std::string_view name;     ///< As in configs: "softmax_top_k".
  std::string_view summary;  ///< One line, for `weft config explain`.
  std::vector<GateOption> options = {};
  /// Tensors, named below "layers.N.": in this order GateCall::parameters has them.
  std::vector<ParameterSpec> (*parameters)(const ModelConfig& config) = nullptr;
  /// What of a config does not suit the gate, "path = value: why, and what to change" each; null: all does.
  std::vector<std::string> (*check)(const ModelConfig& config) = nullptr;
  std::unique_ptr<Gate<float>> (*make_f32)(const GateOptions& options) = nullptr;
  std::unique_ptr<Gate<double>> (*make_f64)(const GateOptions& options) = nullptr;
  std::unique_ptr<Gate<BF16>> (*make_bf16)(const GateOptions& options) = nullptr;
};

/// Names and makers of a gate class template; the rest is the caller's to fill in.
template <template <class> class Class>
[[nodiscard]] GateEntry gate_entry_of(std::string_view name, std::string_view summary) {
  GateEntry entry;
  entry.name = name;
  entry.summary = summary;
  entry.make_f32 = [](const GateOptions& o) -> std::unique_ptr<Gate<float>> {
    return std::make_unique<Class<float>>(o);
  };
  entry.make_f64 = [](const GateOptions& o) -> std::unique_ptr<Gate<double>> {
    return std::make_unique<Class<double>>(o);
  };
  entry.make_bf16 = [](const GateOptions& o) -> std::unique_ptr<Gate<BF16>> {
    return std::make_unique<Class<BF16>>(o);
  };
  return entry;
}

/// All gates; entries stay where they are.
[[nodiscard]] const std::deque<GateEntry>& gate_registry();
/// Adds a gate from outside the list. Not while another thread looks at the registry. Throws kInvalidArgument for a
/// name that is taken.
const GateEntry& register_gate(GateEntry entry);
/// Throws kInvalidArgument for an unknown name, with the known ones as its hint.
[[nodiscard]] const GateEntry& gate_entry(std::string_view name);
[[nodiscard]] std::string gate_names();  ///< Comma-separated.

/// Everything about gate and gate_options that cannot run, in words for a user. Empty: a gate can be made.
[[nodiscard]] std::vector<std::string> gate_problems(const ModelConfig& model);

template <class T>
[[nodiscard]] std::unique_ptr<Gate<T>> make_gate(const GateOptions& options) {
  const GateEntry& entry = gate_entry(options.model.moe.gate);
  if constexpr (std::is_same_v<T, float>)
    return entry.make_f32(options);
  else if constexpr (std::is_same_v<T, BF16>)
    return entry.make_bf16(options);
  else
    return entry.make_f64(options);
}

/// needs() of a model's gate where no sequence is shared.
[[nodiscard]] GateNeeds gate_needs(const ModelConfig& model);
/// Rows of the experts that a token pays for, of sequences of `sequence_length` tokens: its K choices, or its part of
/// the slots that its routing group fills.
[[nodiscard]] double gate_rows_per_token(const ModelConfig& model, std::int64_t sequence_length);

}  // namespace weft::parallel
