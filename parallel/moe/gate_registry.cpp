#include "parallel/moe/gate_registry.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <set>

#include "core/error.h"

namespace weft::parallel {

// The list of gates: a new one is its file in gates/, which defines GateEntry <name>_gate(), and a line here.
#define WEFT_GATES(GATE) \
  GATE(softmax_top_k)    \
  GATE(gshard)           \
  GATE(sigmoid)          \
  GATE(xmoe)             \
  GATE(expert_choice)    \
  GATE(soft_moe)

#define WEFT_DECLARE(name) GateEntry name##_gate();
WEFT_GATES(WEFT_DECLARE)
#undef WEFT_DECLARE

namespace {

std::deque<GateEntry>& entries() {
#define WEFT_ENTRY(name) name##_gate(),
  static std::deque<GateEntry> all{WEFT_GATES(WEFT_ENTRY)};
#undef WEFT_ENTRY
  return all;
}

const GateEntry* find(std::string_view name) {
  const auto at = std::find_if(entries().begin(), entries().end(), [&](const GateEntry& e) { return e.name == name; });
  return at == entries().end() ? nullptr : &*at;
}

const GateOption* find_option(const GateEntry& entry, std::string_view name) {
  const auto at =
      std::find_if(entry.options.begin(), entry.options.end(), [&](const GateOption& o) { return o.name == name; });
  return at == entry.options.end() ? nullptr : &*at;
}

/// "name=value" of model.moe.gate_options.
struct Assignment {
  explicit Assignment(std::string_view text)
      : name(text.substr(0, text.find('='))), value(text.substr(std::min(text.size(), name.size() + 1))) {}
  [[nodiscard]] bool number(double& out) const {
    const char* end = value.data() + value.size();
    const auto [stop, error] = std::from_chars(value.data(), end, out);
    return error == std::errc{} && stop == end && !value.empty();
  }
  std::string_view name, value;
};

std::string option_names(const GateEntry& entry) {
  std::string out;
  for (const GateOption& o : entry.options) out.append(out.empty() ? "" : ", ").append(o.name);
  return out.empty() ? str("gate ", entry.name, " has none") : str("gate ", entry.name, " has: ", out);
}

std::string option_problem(const GateEntry& entry, const Assignment& given) {
  const GateOption* option = find_option(entry, given.name);
  if (option == nullptr) return str("no such option; ", option_names(entry));
  double value = 0.0;
  if (!given.number(value)) return "must be of the form name=number";
  if (option->whole && value != std::floor(value)) return "must be a whole number";
  if (!(value >= option->smallest && value <= option->largest))
    return str("must be in [", option->smallest, ", ", option->largest, "]");
  return "";
}

}  // namespace

const std::deque<GateEntry>& gate_registry() { return entries(); }

const GateEntry& register_gate(GateEntry entry) {
  if (find(entry.name) != nullptr)
    throw Error(ErrorCode::kInvalidArgument, str("there is a gate '", entry.name, "' already"), "choose another name");
  return entries().emplace_back(std::move(entry));
}

const GateEntry& gate_entry(std::string_view name) {
  if (const GateEntry* entry = find(name)) return *entry;
  throw Error(ErrorCode::kInvalidArgument, str("there is no gate '", name, "'"), "the gates are " + gate_names());
}

std::string gate_names() {
  std::string out;
  for (const GateEntry& entry : entries()) out.append(out.empty() ? "" : ", ").append(entry.name);
  return out;
}

double gate_option(const MoeConfig& config, std::string_view option) {
  const GateEntry& entry = gate_entry(config.gate);
  const GateOption* known = find_option(entry, option);
  WEFT_CHECK(known != nullptr, "option '", option, "': ", option_names(entry));
  double value = known->default_value;
  for (const std::string& text : config.gate_options)
    if (const Assignment given(text); given.name == option)
      WEFT_CHECK(given.number(value), "model.moe.gate_options: '", text, "' must be of the form name=number");
  return value;
}

std::vector<std::string> gate_problems(const ModelConfig& model) {
  const GateEntry* entry = find(model.moe.gate);
  if (entry == nullptr)
    return {str("model.moe.gate = ", model.moe.gate, ": no such gate; choose one of ", gate_names())};
  std::vector<std::string> out;
  std::set<std::string_view> seen;
  for (const std::string& text : model.moe.gate_options) {
    const Assignment given(text);
    std::string problem = option_problem(*entry, given);
    if (problem.empty() && !seen.insert(given.name).second) problem = "is given twice; keep one of the two";
    if (!problem.empty()) out.push_back(str("model.moe.gate_options = ", text, ": ", problem));
  }
  if (out.empty() && entry->check != nullptr) out = entry->check(model);
  return out;
}

GateNeeds gate_needs(const ModelConfig& model) {
  GateOptions options;
  options.model = model;
  return make_gate<double>(options)->needs();
}

double gate_rows_per_token(const ModelConfig& model, std::int64_t sequence_length) {
  GateOptions options;
  options.model = model;
  options.group_rows = options.group_tokens = model.moe.group_sequences * sequence_length;
  const TableShape table = make_gate<double>(options)->table(options.group_rows);
  return static_cast<double>(table.rows * table.width) / static_cast<double>(options.group_rows);
}

kernels::RoutingGroups shared_groups(Stream& stream, std::int32_t* order, const GateOptions& options, const RowIds& ids,
                                     std::int64_t rows) {
  WEFT_CHECK(ids.places != nullptr, "ranks share sequences, and no places of their rows are known");
  const Matrix<const std::int32_t> places(ids.places + ids.first_row, options.layout.sequence_ranks, rows,
                                          ids.micro_batch_rows);
  kernels::order_rows(stream, order, places, ids.rows_per_sequence);
  return {options.group_tokens, order, ids.sp_rank * rows, rows};
}

std::int64_t gate_capacity(double factor, const MoeConfig& config, std::int64_t group_tokens) {
  const double even = static_cast<double>(group_tokens) * config.top_k / config.experts;
  return std::clamp<std::int64_t>(static_cast<std::int64_t>(std::ceil(factor * even - 1e-9)), 1, group_tokens);
}

}  // namespace weft::parallel
