// scheduler/cost_model.h - what a task costs: alpha * operations + beta * amount, from the finest fit that knows it.
// Source: FSMoE (arXiv:2501.10714), section 4.1: t(n) = alpha + n * beta for each collective and for GEMM; fitted to
// the modules that run, not to bare products, which miss them by factors.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "scheduler/fit.h"
#include "scheduler/graph.h"
#include "scheduler/timeline.h"

namespace weft::scheduler {

/// The links that a task's price depends on. Compute is priced as kIntra.
enum class LinkClass : std::uint8_t { kIntra, kInter, kBoth };
inline constexpr int kNumLinkClasses = 3;
[[nodiscard]] std::string_view to_string(LinkClass link) noexcept;
[[nodiscard]] constexpr LinkClass link_class(ResourceSet resources) {
  if (!resources.has(Resource::kInter)) return LinkClass::kIntra;
  return resources.has(Resource::kIntra) ? LinkClass::kBoth : LinkClass::kInter;
}
[[nodiscard]] constexpr bool is_collective(WorkKind kind) { return kind >= WorkKind::kAllToAll; }

/// What is priced alike: tasks of one stage, phase and label, with one kind of work over one class of links.
struct FamilyKey {
  WorkKind work = WorkKind::kNothing;
  LinkClass link = LinkClass::kIntra;
  Stage stage = Stage::kNorm;
  Phase phase = Phase::kForward;
  std::string label;
  friend auto operator<=>(const FamilyKey&, const FamilyKey&) = default;
};
[[nodiscard]] FamilyKey family_of(const TaskSpec& task);
/// "expert(backward) dW, grouped_gemm": for tables and messages.
[[nodiscard]] std::string name_of(const FamilyKey& key);

struct Family {
  FamilyKey key;
  Fit fit;
};

/// What prices tasks of a kind of work that no family knows.
struct KindFit {
  WorkKind work = WorkKind::kNothing;
  LinkClass link = LinkClass::kIntra;
  /// The line goes through tasks that do different things, so its R squared says nothing about how well they were
  /// measured. False: through probes of the bare collective.
  bool pooled = false;
  Fit fit;
};

using TaskSample = std::pair<FamilyKey, Sample>;

/// What tasks do to one another, and what it costs to issue them.
struct Machine {
  /// Slow-down of a task of the row's resource while one of the column's runs: [compute, intra, inter], each at
  /// least 1. Symmetric where streams share something evenly (memory); not so where threads share cores, and one of
  /// them sleeps and wakes. See simulator.h for more than two tasks.
  std::array<std::array<double, 3>, 3> contention{{{1, 1, 1}, {1, 1, 1}, {1, 1, 1}}};
  double issue_us = 0.0;  ///< Host time to issue one task.
  /// Streams run apart from the host that issues their tasks (a GPU), so it knows routed counts only by waiting for
  /// them. False: tasks run on threads of the host, which read the counts themselves.
  bool host_apart = false;
  /// Cores of a rank, where its streams are threads: more tasks at once than cores share them. Costs are those of a
  /// task alone on its rank with all ranks busy, so less than one core counts as one. 0: no limit (a GPU).
  double cores_per_rank = 0.0;
  /// Ranks that share a core, where there are more ranks than cores; 1: none do. Costs of computation are those of a
  /// task whose core is its own.
  double ranks_per_core = 1.0;
  friend bool operator==(const Machine&, const Machine&) = default;
};

/// What a budget of CTAs of NCCL's groups costs: of a chunk of a MoE layer, rows there and back and the experts
/// between.
struct CtaSample {
  LinkClass link = LinkClass::kIntra;  ///< kIntra: groups inside a node; kInter: all others.
  int ctas = 0;                        ///< 0: NCCL's own choice.
  double collective_us = 0.0;          ///< The two all-to-alls alone.
  double product_us = 0.0;             ///< The products alone.
  double overlapped_us = 0.0;          ///< Both at once, until both are done.
  friend bool operator==(const CtaSample&, const CtaSample&) = default;
};

struct CostModel {
  std::string source;     ///< Where the constants are from: a profile, or the name of a nominal cluster file.
  bool measured = false;  ///< By weft profile: what is not in it is unknown, not free.
  std::array<LinearCost, kNumWorkKinds> intra;                ///< By WorkKind; compute kinds are read from here.
  std::array<LinearCost, kNumWorkKinds> inter;                ///< Collectives between nodes.
  std::optional<std::array<LinearCost, kNumWorkKinds>> both;  ///< Collectives over both links; nothing: as `inter`.
  Machine machine;
  /// Load of the busiest rank over the mean: multiplies the amounts of dispatch, expert and combine tasks (and those of
  /// expert shards), which the emission gives for balanced routing.
  double imbalance = 1.0;
  std::vector<double> layer_imbalance;  ///< [layers] Goes before `imbalance`; empty: all layers are alike.
  std::vector<CtaSample> cta_samples;   ///< For choose_ctas (scheduler/cta_budget.h); empty: not measured.

  /// A fit for a kind of work: keeps it and enters it into the tables above.
  void add(KindFit fit);
  [[nodiscard]] const std::vector<KindFit>& kinds() const noexcept { return kinds_; }
  /// A fit for one family, which then goes before the tables above. Replaces an older one of the same key.
  void add(Family family);
  [[nodiscard]] const std::vector<Family>& families() const noexcept { return families_; }
  /// The fit's constants, or the table's entry.
  [[nodiscard]] const LinearCost& constants(const TaskSpec& task) const;
  /// A few table look-ups: a search calls it millions of times.
  [[nodiscard]] double cost_us(const TaskSpec& task) const;

 private:
  static constexpr std::size_t kNumCells = std::size_t{kNumWorkKinds} * kNumLinkClasses * kNumStages * kNumPhases;
  [[nodiscard]] double load_of(const TaskSpec& task) const;
  static std::size_t cell(WorkKind work, LinkClass link, Stage stage, Phase phase);

  std::vector<KindFit> kinds_;
  std::vector<Family> families_;
  std::vector<std::int16_t> first_;  // [kNumCells] first family of a cell, or kNoId; empty: no families
  std::vector<std::int16_t> next_;   // [families] the next one of the same cell, which differs by label
};

/// A model from measurements: a family per key of `tasks`, and behind them a line per kind of work and link class, for
/// tasks that were not measured: through `probes` (stage, phase and label are ignored) where there are some of the
/// kind, else through all its tasks. A family of one size takes its alpha from that line.
[[nodiscard]] CostModel fit_cost_model(const std::vector<TaskSample>& tasks,
                                       const std::vector<TaskSample>& probes = {});

/// `prior` with the families of `graph` brought to measured times: both constants of a family are multiplied by the
/// time its tasks took over the time they took on the simulated `timeline` (so that what contention added there is not
/// counted twice). A step has few sizes of a family, so its measured tasks say how fast, not how alpha and beta share
/// the time; a family that cost nothing so far is fitted anew. Of tasks of one size the fit keeps one sample, their
/// mean. measured_us: [tasks].
[[nodiscard]] CostModel refit(const CostModel& prior, const Graph& graph, const Timeline& timeline,
                              const std::vector<double>& measured_us);

/// Families of `graph` that the model prices at nothing though they have work: what a profile lacks. Names, once each.
[[nodiscard]] std::vector<std::string> unpriced(const Graph& graph, const CostModel& cost);

/// The load that `share` of the observed steps stay under: the quantile of `loads` (busiest rank over mean, each >= 1).
[[nodiscard]] double imbalance_quantile(const std::vector<double>& loads, double share);

}  // namespace weft::scheduler
