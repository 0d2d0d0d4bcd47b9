#include "scheduler/cost_model.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <utility>

#include "core/error.h"

namespace weft::scheduler {
namespace {

/// Stages whose amount follows the load of a rank's experts.
constexpr bool follows_load(Stage stage) {
  return stage >= Stage::kDispatch && stage <= Stage::kExpertDw && stage != Stage::kIOrder;
}
static_assert(!follows_load(Stage::kOrder) && follows_load(Stage::kExpert) && follows_load(Stage::kCombine));

/// One sample for those of the same operations and amount: their mean time.
std::vector<Sample> one_a_size(const std::vector<Sample>& samples) {
  std::map<std::pair<double, double>, std::pair<double, int>> sums;
  for (const Sample& s : samples) {
    auto& [time_us, count] = sums[{s.operations, s.amount}];
    time_us += s.time_us;
    ++count;
  }
  std::vector<Sample> out;
  for (const auto& [size, sum] : sums) out.push_back({size.first, size.second, sum.first / sum.second});
  return out;
}

}  // namespace

std::string_view to_string(LinkClass link) noexcept {
  constexpr std::array<std::string_view, kNumLinkClasses> kNames{"intra", "inter", "both"};
  return kNames[static_cast<std::size_t>(link)];
}

FamilyKey family_of(const TaskSpec& task) {
  const bool comm = is_collective(task.work.kind);
  return {task.work.kind, comm ? link_class(task.resources) : LinkClass::kIntra, task.stage, task.phase, task.label};
}

std::string name_of(const FamilyKey& key) {
  std::string out = str(to_string(key.stage), "(", to_string(key.phase), ")");
  if (!key.label.empty()) out += " " + key.label;
  out += str(", ", to_string(key.work));
  if (is_collective(key.work)) out += str(" ", to_string(key.link));
  return out;
}

std::size_t CostModel::cell(WorkKind work, LinkClass link, Stage stage, Phase phase) {
  std::size_t at = static_cast<std::size_t>(work);
  at = at * kNumLinkClasses + static_cast<std::size_t>(link);
  at = at * kNumStages + static_cast<std::size_t>(stage);
  return at * kNumPhases + static_cast<std::size_t>(phase);
}

void CostModel::add(KindFit fit) {
  const auto kind = static_cast<std::size_t>(fit.work);
  if (fit.link == LinkClass::kIntra) intra[kind] = fit.fit.cost;
  if (fit.link == LinkClass::kInter) inter[kind] = fit.fit.cost;
  if (fit.link == LinkClass::kBoth && !both) both.emplace(inter);
  if (fit.link == LinkClass::kBoth) (*both)[kind] = fit.fit.cost;
  kinds_.push_back(std::move(fit));
}

void CostModel::add(Family family) {
  if (first_.empty()) first_.assign(kNumCells, kNoId);
  const FamilyKey& key = family.key;
  std::int16_t& first = first_[cell(key.work, key.link, key.stage, key.phase)];
  for (std::int16_t f = first; f != kNoId; f = next_[static_cast<std::size_t>(f)])
    if (Family& known = families_[static_cast<std::size_t>(f)]; known.key.label == key.label) {
      known = std::move(family);
      return;
    }
  next_.push_back(first);
  first = static_cast<std::int16_t>(families_.size());
  families_.push_back(std::move(family));
}

const LinearCost& CostModel::constants(const TaskSpec& task) const {
  const WorkKind work = task.work.kind;
  const LinkClass link = is_collective(work) ? link_class(task.resources) : LinkClass::kIntra;
  if (!first_.empty())
    for (std::int16_t f = first_[cell(work, link, task.stage, task.phase)]; f != kNoId;
         f = next_[static_cast<std::size_t>(f)])
      if (const Family& family = families_[static_cast<std::size_t>(f)]; family.key.label == task.label)
        return family.fit.cost;
  const auto kind = static_cast<std::size_t>(work);
  if (link == LinkClass::kIntra) return intra[kind];
  return link == LinkClass::kBoth && both ? (*both)[kind] : inter[kind];
}

double CostModel::load_of(const TaskSpec& task) const {
  if (!follows_load(task.stage)) return 1.0;
  const auto layer = static_cast<std::size_t>(task.layer);  // kNoId is past the end
  return layer < layer_imbalance.size() ? layer_imbalance[layer] : imbalance;
}

double CostModel::cost_us(const TaskSpec& task) const {
  if (task.work.kind == WorkKind::kNothing) return 0.0;
  const LinearCost& c = constants(task);
  return c.at(task.work.operations, load_of(task) * task.work.amount);
}

CostModel fit_cost_model(const std::vector<TaskSample>& tasks, const std::vector<TaskSample>& probes) {
  using Kind = std::pair<LinkClass, WorkKind>;
  CostModel model;
  std::map<Kind, std::vector<Sample>> pooled, probed;
  std::map<FamilyKey, std::vector<Sample>> by_key;
  for (const auto& [key, sample] : probes) probed[{key.link, key.work}].push_back(sample);
  for (const auto& [key, sample] : tasks) {
    by_key[key].push_back(sample);
    pooled[{key.link, key.work}].push_back(sample);
  }
  std::map<Kind, double> alpha_us;
  const auto add = [&](const Kind& kind, const std::vector<Sample>& samples, bool is_pooled) {
    Fit fit = fit_linear(samples);
    alpha_us[kind] = fit.cost.alpha_us;
    model.add(KindFit{kind.second, kind.first, is_pooled, std::move(fit)});
  };
  for (const auto& [kind, samples] : probed) add(kind, samples, false);
  for (const auto& [kind, samples] : pooled)
    if (!probed.contains(kind)) add(kind, samples, true);
  for (const auto& [key, samples] : by_key) model.add(Family{key, fit_linear(samples, alpha_us[{key.link, key.work}])});
  return model;
}

CostModel refit(const CostModel& prior, const Graph& graph, const Timeline& timeline,
                const std::vector<double>& measured_us) {
  struct Seen {
    double measured_us = 0.0, simulated_us = 0.0;
    LinearCost cost;
    std::vector<Sample> samples;
  };
  std::map<FamilyKey, Seen> families;
  for (TaskId t = 0; t < graph.num_tasks(); ++t) {
    const Task& task = graph.tasks[t];
    if (task.work.kind == WorkKind::kNothing) continue;
    Seen& seen = families[family_of(task)];
    seen.measured_us += measured_us[t];
    seen.simulated_us += timeline.end_us[t] - timeline.start_us[t];
    seen.cost = prior.constants(task);
    seen.samples.push_back({task.work.operations, task.work.amount, measured_us[t]});
  }
  CostModel out = prior;
  for (auto& [key, seen] : families) {
    Fit fit;
    if (seen.simulated_us > 0.0) {
      const double ratio = seen.measured_us / seen.simulated_us;
      fit.cost = {seen.cost.alpha_us * ratio, seen.cost.beta_us * ratio};
    } else {
      fit = fit_linear(seen.samples);
    }
    fit.samples = one_a_size(seen.samples);  // a large step has thousands of tasks of a family
    out.add(Family{key, std::move(fit)});
  }
  return out;
}

std::vector<std::string> unpriced(const Graph& graph, const CostModel& cost) {
  std::vector<std::string> names;
  for (const Task& task : graph.tasks) {
    if (task.work.kind == WorkKind::kNothing || task.work.amount <= 0.0 || cost.constants(task) != LinearCost{})
      continue;
    std::string name = name_of(family_of(task));
    if (std::find(names.begin(), names.end(), name) == names.end()) names.push_back(std::move(name));
  }
  return names;
}

double imbalance_quantile(const std::vector<double>& loads, double share) {
  for (const double load : loads) WEFT_CHECK(load >= 1.0, "a busiest rank with ", load, " of the mean load");
  return quantile(loads, share);
}

}  // namespace weft::scheduler
