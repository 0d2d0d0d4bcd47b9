#include "tools/simulate/testbed.h"

#include <cmath>

#include "configs/testbed.pb.h"
#include "core/atomic_file.h"
#include "core/error.h"
#include "tools/config/loader.h"

namespace weft::tools {
namespace {

using scheduler::WorkKind;

constexpr double kElementBytes = 4.0;

[[noreturn]] void refuse(const std::string& path, const std::string& what) {
  throw Error(ErrorCode::kInvalidArgument, str(path, ": ", what), "see configs/testbed.proto and configs/clusters/");
}

void require_not_negative(const std::string& path, const char* name, double value) {
  if (!(value >= 0.0) || std::isinf(value)) refuse(path, str(name, " is ", value, ", not a time"));
}

scheduler::LinearCost line(const std::string& path, const char* name, bool given, const config::Testbed::Line& line) {
  if (!given || !line.has_alpha_us() || !line.has_beta_us()) refuse(path, str("no ", name, " { alpha_us, beta_us }"));
  require_not_negative(path, name, line.alpha_us());
  require_not_negative(path, name, line.beta_us());
  return {line.alpha_us(), line.beta_us()};
}

const config::Testbed::Expert& expert(const std::string& path, const config::Testbed& message, const std::string& ffn) {
  const config::Testbed::Expert* found = nullptr;
  for (const auto& e : message.expert()) {
    if (e.ffn() != ffn) continue;
    if (found != nullptr) refuse(path, str("two experts with ffn \"", ffn, "\""));
    found = &e;
  }
  if (found == nullptr) refuse(path, str("no expert with ffn \"", ffn, "\""));
  if (!found->has_alpha_us() || !found->has_beta_us() || !(found->operations() > 0.0))
    refuse(path, str("expert \"", ffn, "\" lacks alpha_us, beta_us or operations"));
  require_not_negative(path, "expert.alpha_us", found->alpha_us());
  require_not_negative(path, "expert.beta_us", found->beta_us());
  return *found;
}

scheduler::StageTimes times(const std::string& path, const config::StageTable::Times& t) {
  const scheduler::StageTimes out{t.all_to_all(), t.all_reduce(), t.all_gather(), t.reduce_scatter(),
                                  t.expert(),     t.routing(),    t.order(),      t.attention()};
  for (const double ms : {out.all_to_all, out.all_reduce, out.all_gather, out.reduce_scatter, out.expert, out.routing,
                          out.order, out.attention})
    require_not_negative(path, "a stage", ms);
  return out;
}

}  // namespace

scheduler::LayerWork TestbedModel::work(const GridCase& c, bool gradients) const {
  const double rows = c.rows_per_token * c.batch * c.sequence_length, m = c.model_dim;
  const double flops = 2.0 * (c.gated ? 3.0 : 2.0) * rows * m * c.hidden_dim / gpus_per_node;
  scheduler::LayerWork work;
  work.all_to_all = {WorkKind::kAllToAll, rows * m / gpus_per_node * kElementBytes, 1.0};
  work.all_gather = {WorkKind::kAllGather, rows * m * kElementBytes, 1.0};
  work.reduce_scatter = {WorkKind::kReduceScatter, rows * m * kElementBytes, 1.0};
  work.expert = {WorkKind::kGroupedGemm, flops, c.gated ? operations_gated : operations_simple};
  const double elements = c.gated ? 2.5 * m * m / gpus_per_node : (4.0 * m * m + 3.0 * m) / gpus_per_node + m;
  if (gradients) work.gradient = {WorkKind::kAllReduce, elements * kElementBytes, 1.0};
  return work;
}

TestbedModel load_testbed(const std::string& path) {
  config::Testbed message;
  parse_text_proto(read_file(path), path, message);
  TestbedModel out;
  out.source = message.has_source() ? message.source() : path;
  out.nodes = message.nodes();
  out.gpus_per_node = message.gpus_per_node();
  if (out.nodes < 1 || out.gpus_per_node < 1) refuse(path, "nodes and gpus_per_node must be at least 1");
  out.sequence_lengths.assign(message.sequence_length().begin(), message.sequence_length().end());
  if (out.sequence_lengths.empty()) refuse(path, "no sequence_length");
  scheduler::CostModel cost;
  cost.source = out.source;
  const auto set = [](std::array<scheduler::LinearCost, scheduler::kNumWorkKinds>& table, WorkKind kind,
                      scheduler::LinearCost c) { table[static_cast<std::size_t>(kind)] = c; };
  set(cost.inter, WorkKind::kAllToAll, line(path, "all_to_all", message.has_all_to_all(), message.all_to_all()));
  set(cost.inter, WorkKind::kAllReduce, line(path, "all_reduce", message.has_all_reduce(), message.all_reduce()));
  set(cost.intra, WorkKind::kAllGather, line(path, "all_gather", message.has_all_gather(), message.all_gather()));
  set(cost.intra, WorkKind::kReduceScatter,
      line(path, "reduce_scatter", message.has_reduce_scatter(), message.reduce_scatter()));
  const auto with_expert = [&](const char* ffn, double& operations) {
    const config::Testbed::Expert& e = expert(path, message, ffn);
    operations = e.operations();
    scheduler::CostModel own = cost;
    set(own.intra, WorkKind::kGroupedGemm, {e.alpha_us(), e.beta_us()});
    return own;
  };
  out.cost_simple = with_expert("simple", out.operations_simple);
  out.cost_gated = with_expert("mixtral", out.operations_gated);
  return out;
}

scheduler::StageTable load_stage_table(const std::string& path) {
  config::StageTable message;
  parse_text_proto(read_file(path), path, message);
  if (!message.has_forward() || !message.has_backward() || !message.has_alpha())
    refuse(path, "forward, backward and alpha are needed");
  scheduler::StageTable out;
  out.name = message.has_name() ? message.name() : path;
  out.forward = times(path, message.forward());
  out.backward = times(path, message.backward());
  require_not_negative(path, "rows_per_token", message.rows_per_token());
  out.expert_shard_share = message.rows_per_token() / (1.0 + message.rows_per_token());
  const auto& a = message.alpha();
  for (const double alpha : {a.all_to_all(), a.all_gather(), a.reduce_scatter(), a.all_reduce(), a.expert()})
    require_not_negative(path, "alpha", alpha);
  out.alpha_all_to_all = a.all_to_all();
  out.alpha_all_gather = a.all_gather();
  out.alpha_reduce_scatter = a.reduce_scatter();
  out.alpha_all_reduce = a.all_reduce();
  out.alpha_expert = a.expert();
  if (message.all_reduce_ms_per_byte() > 0.0)
    out.gradient_bytes =
        std::max(0.0, out.backward.all_reduce - out.alpha_all_reduce) / message.all_reduce_ms_per_byte();
  return out;
}

std::vector<GridCase> grid_cases(const TestbedModel& testbed) {
  std::vector<GridCase> cases;
  for (const int batch : {1, 2, 4})
    for (const int heads : {8, 16, 32})
      for (const int length : testbed.sequence_lengths)
        for (const int width : {1024, 2048, 4096})
          for (const int multiple : {2, 3, 4})
            for (const double rows : {1.2, 2.4, 1.0})
              for (const bool gated : {false, true})
                cases.push_back({batch, heads, length, width, multiple * width, rows, gated});
  return cases;
}

}  // namespace weft::tools
