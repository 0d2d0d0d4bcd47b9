// tools/config/cost_files.cpp - cluster costs and profiles: configs/cluster.proto to and from scheduler::CostModel.
#include <google/protobuf/text_format.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <set>

#include "comm/for_device.h"
#include "configs/cluster.pb.h"
#include "core/atomic_file.h"
#include "core/error.h"
#include "tools/build_info.h"
#include "tools/config/loader.h"
#include "tools/config/schedule_files.h"
#include "tools/train/text.h"

namespace weft::tools {
namespace {

using namespace scheduler;

[[noreturn]] void refuse(const std::string& origin, const std::string& what, const std::string& hint) {
  throw Error(ErrorCode::kInvalidArgument, str(origin, ": ", what), hint);
}

/// The value whose name is `name`, of an enumeration with `count` values.
template <class E>
E named(const std::string& name, int count, const std::string& origin, const char* what) {
  for (int i = 0; i < count; ++i)
    if (to_string(static_cast<E>(i)) == name) return static_cast<E>(i);
  refuse(origin, str("a family's ", what, " is '", name, "'"), str("names are those that `weft profile` writes"));
}

/// Constants, points and R squared of a Cost or Family; `name` is for messages.
template <class Entry>
Fit fit_of(const Entry& entry, const std::string& origin, const std::string& name) {
  Fit fit;
  fit.cost = {entry.alpha_us(), entry.beta_us()};
  if (!(fit.cost.beta_us >= 0.0) || !(fit.cost.alpha_us >= 0.0))
    refuse(origin,
           str(name, ": ", fit.cost.beta_us >= 0.0 ? "alpha_us" : "beta_us", " is ",
               fit.cost.beta_us >= 0.0 ? fit.cost.alpha_us : fit.cost.beta_us, ", a negative cost"),
           "measure again with weft profile");
  if (entry.has_r_squared()) fit.r_squared = entry.r_squared();
  for (const auto& p : entry.point()) fit.samples.push_back({p.operations(), p.amount(), p.time_us()});
  return fit;
}

template <class Entry>
void put_fit(Entry& out, const Fit& fit) {
  out.set_alpha_us(fit.cost.alpha_us);
  out.set_beta_us(fit.cost.beta_us);
  if (fit.r_squared) out.set_r_squared(*fit.r_squared);
  for (const Sample& s : fit.samples) {
    config::ClusterCosts::Point& point = *out.add_point();
    point.set_operations(s.operations);
    point.set_amount(s.amount);
    point.set_time_us(s.time_us);
  }
}

void put_measurement(config::ClusterCosts::Measurement& out, const Measurement& measured) {
  out.set_version(measured.version);
  out.set_date(measured.date);
  for (const std::string& host : measured.hosts) out.add_host(host);
  out.set_ranks(measured.ranks);
  out.set_ranks_per_node(measured.ranks_per_node);
  out.set_stretch(measured.stretch);
  out.set_runs(measured.runs);
  out.set_device(static_cast<config::ClusterCosts::Device>(measured.device));
  out.set_device_name(measured.device_name);
  out.set_dtype(static_cast<config::ClusterCosts::DType>(measured.dtype));  // the first three of weft::DType
}

WorkKind work_of(config::ClusterCosts::Work work, const std::string& origin) {
  if (work == config::ClusterCosts::WORK_UNSET) refuse(origin, "a cost without its kind of work", "set work: ...");
  return static_cast<WorkKind>(work);
}

std::string kind_name(WorkKind work, LinkClass link) {
  return is_collective(work) ? str(to_string(work), " ", to_string(link)) : std::string(to_string(work));
}

void read_kinds(const config::ClusterCosts& message, const std::string& origin, CostModel& out) {
  std::set<std::pair<WorkKind, LinkClass>> seen;
  for (const auto& entry : message.cost()) {
    const WorkKind work = work_of(entry.work(), origin);
    const auto link = static_cast<LinkClass>(entry.link());
    const std::string name = kind_name(work, link);
    if (!seen.insert({work, link}).second) refuse(origin, str("two costs for ", name), "keep one of them");
    out.add(KindFit{work, link, entry.pooled(), fit_of(entry, origin, name)});
    if (link == LinkClass::kIntra && !is_collective(work))
      out.inter[static_cast<std::size_t>(work)] = out.intra[static_cast<std::size_t>(work)];
  }
  if (message.has_measured()) return;
  for (int kind = 1; kind < kNumWorkKinds; ++kind)
    for (const LinkClass link : {LinkClass::kIntra, LinkClass::kInter}) {
      const auto work = static_cast<WorkKind>(kind);
      if ((link == LinkClass::kIntra || is_collective(work)) && !seen.contains({work, link}))
        refuse(origin, str("no cost for ", kind_name(work, link)), "add a cost { work: ... } entry");
    }
}

void read_families(const config::ClusterCosts& message, const std::string& origin, CostModel& out) {
  std::set<FamilyKey> seen;
  for (const auto& entry : message.family()) {
    FamilyKey key{work_of(entry.work(), origin), static_cast<LinkClass>(entry.link()),
                  named<Stage>(entry.stage(), kNumStages, origin, "stage"),
                  named<Phase>(entry.phase(), kNumPhases, origin, "phase"), entry.label()};
    const std::string name = name_of(key);
    if (!seen.insert(key).second) refuse(origin, str("two entries for the family ", name), "keep one of them");
    Fit fit = fit_of(entry, origin, name);
    out.add(Family{std::move(key), std::move(fit)});
  }
}

void read_machine(const config::ClusterCosts& message, const std::string& origin, CostModel& out) {
  std::set<std::pair<std::size_t, std::size_t>> given;
  for (const auto& entry : message.contention()) {
    if (!(entry.factor() >= 1.0))
      refuse(origin, str("a contention factor of ", entry.factor()), "1 is: they do not slow one another");
    const auto a = static_cast<std::size_t>(entry.a()), b = static_cast<std::size_t>(entry.b());
    out.machine.contention[a][b] = entry.factor();
    if (!given.contains({b, a})) out.machine.contention[b][a] = entry.factor();
    if (!given.insert({a, b}).second) refuse(origin, "a contention factor is given twice", "keep one of them");
  }
  out.machine.issue_us = message.issue_us();
  out.machine.host_apart = message.host_apart();
  out.machine.cores_per_rank = message.cores_per_rank();
  if (message.has_ranks_per_core()) out.machine.ranks_per_core = message.ranks_per_core();
  if (!(out.machine.ranks_per_core >= 1.0)) refuse(origin, "ranks_per_core is under 1", "1 is: ranks share no cores");
  if (!(message.issue_us() >= 0.0) || !(message.cores_per_rank() >= 0.0))
    refuse(origin, "issue_us or cores_per_rank is negative", "0 is: none, no limit");
  if (message.has_imbalance()) out.imbalance = message.imbalance();
  if (message.has_imbalance_quantile()) {
    if (message.has_imbalance() || message.rank_load().empty())
      refuse(origin, "imbalance_quantile wants rank_load, and no imbalance", "set one of the two");
    const std::vector<double> loads(message.rank_load().begin(), message.rank_load().end());
    out.imbalance = imbalance_quantile(loads, message.imbalance_quantile()) / imbalance_quantile(loads, 0.5);
  }
  if (!(out.imbalance > 0.0)) refuse(origin, "imbalance is not positive", "1 is: balanced");
}

void read_ctas(const config::ClusterCosts& message, const std::string& origin, CostModel& out) {
  std::set<std::pair<LinkClass, int>> seen;
  for (const auto& entry : message.cta_budget()) {
    const auto link = static_cast<LinkClass>(entry.link());
    const std::string name = str("cta_budget of ", entry.ctas(), " CTAs, ", to_string(link));
    if (link == LinkClass::kBoth || entry.ctas() < 0 || entry.ctas() > comm::kMostCtas)
      refuse(origin, name, str("link is INTRA or INTER, ctas is 0 (NCCL's own) or at most ", comm::kMostCtas));
    if (!seen.insert({link, entry.ctas()}).second) refuse(origin, str(name, " is given twice"), "keep one of them");
    for (const double us : {entry.collective_us(), entry.product_us(), entry.overlapped_us()})
      if (!(us > 0.0 && std::isfinite(us)))
        refuse(origin, str(name, ": a time of ", us, " us"), "measure again with weft profile");
    out.cta_samples.push_back({link, entry.ctas(), entry.collective_us(), entry.product_us(), entry.overlapped_us()});
  }
}

void refuse_poor_fits(const CostModel& costs, const std::string& origin, double min_r_squared) {
  const std::vector<PoorFit> poor = poor_fits(costs, min_r_squared);
  if (poor.empty()) return;
  refuse(origin,
         str(poor.front().name, ": R squared is ", poor.front().r_squared, ", under ", min_r_squared,
             poor.size() > 1 ? str(" (and ", poor.size() - 1, " more)") : std::string()),
         hint_for(poor));
}

}  // namespace

std::vector<PoorFit> poor_fits(const CostModel& costs, double min_r_squared) {
  std::vector<PoorFit> out;
  const auto judge = [&](const std::string& name, const Fit& fit) {
    if (fit.r_squared && !(*fit.r_squared >= min_r_squared)) out.push_back({name, *fit.r_squared});
  };
  for (const Family& family : costs.families()) judge(name_of(family.key), family.fit);
  for (const KindFit& kind : costs.kinds())
    if (!kind.pooled) judge(kind_name(kind.work, kind.link), kind.fit);
  const auto badness = [](const PoorFit& fit) { return std::isnan(fit.r_squared) ? -HUGE_VAL : fit.r_squared; };
  std::ranges::stable_sort(out, {}, badness);
  return out;
}

std::string hint_for(const std::vector<PoorFit>& poor) {
  const std::string again = "measure again while nothing else runs (weft profile)";
  if (!std::isfinite(poor.front().r_squared)) return again;
  char limit[32];
  std::snprintf(limit, sizeof limit, "%.2f", std::floor(100.0 * poor.front().r_squared) / 100.0);
  return again + str(", or use the profile as it is with --set schedule.profile_min_r_squared=", limit);
}

CostModel costs_from_text(const std::string& text, const std::string& origin, double min_r_squared) {
  config::ClusterCosts message;
  parse_text_proto(text, origin, message);
  CostModel out;
  out.source = message.has_source() ? message.source() : origin;
  out.measured = message.has_measured();
  read_kinds(message, origin, out);
  read_families(message, origin, out);
  read_machine(message, origin, out);
  read_ctas(message, origin, out);
  refuse_poor_fits(out, origin, min_r_squared);
  return out;
}

CostModel load_costs(const std::string& path, double min_r_squared) {
  return costs_from_text(read_file(path), path, min_r_squared);
}

CostModel nominal_costs() { return costs_from_text(nominal_costs_text(), "configs/clusters/nominal_cpu.textproto"); }

std::string profile_warning(const parallel::RunConfig& config, int ranks, int ranks_per_node,
                            std::optional<DeviceKind> device) {
  const std::string& path = config.schedule.profile;
  if (path.empty()) return {};
  config::ClusterCosts message;
  parse_text_proto(read_file(path), path, message);
  if (!message.has_measured()) return {};
  const auto& m = message.measured();
  const auto of = static_cast<DeviceKind>(m.device());
  const DType here = config.train.dtype, dtype = m.has_dtype() ? static_cast<DType>(m.dtype()) : here;
  const bool same_ranks = m.ranks() == ranks && m.ranks_per_node() == ranks_per_node;
  if (same_ranks && of == device.value_or(of) && dtype == here) return {};
  const auto describe = [](int num_ranks, int a_node, DeviceKind kind, DType in) {
    return str(counted(num_ranks, "rank"), ", ", a_node, " a node, on ", kind == DeviceKind::kCpu ? "CPUs" : "GPUs",
               ", in ", to_string(in));
  };
  return str(path, " was measured on ", describe(m.ranks(), m.ranks_per_node(), of, dtype), "; here are ",
             describe(ranks, ranks_per_node, device.value_or(of), here),
             ", whose costs may be others: measure again with weft profile");
}

std::optional<DeviceKind> chosen_device(const parallel::RunConfig& config) {
  if (config.parallel.device == parallel::DeviceChoice::kAuto) return std::nullopt;
  return config.parallel.device == parallel::DeviceChoice::kCpu ? DeviceKind::kCpu : DeviceKind::kCuda;
}

CostModel costs_of(const parallel::RunConfig& config) {
  const parallel::ScheduleConfig& s = config.schedule;
  return s.profile.empty() ? nominal_costs() : load_costs(s.profile, s.profile_min_r_squared);
}

std::string costs_to_text(const CostModel& costs, const std::vector<double>& rank_loads,
                          const std::optional<Measurement>& measured) {
  config::ClusterCosts message;
  message.set_source(costs.source);
  for (const KindFit& kind : costs.kinds()) {
    config::ClusterCosts::Cost& out = *message.add_cost();
    out.set_work(static_cast<config::ClusterCosts::Work>(kind.work));
    out.set_link(static_cast<config::ClusterCosts::Link>(kind.link));
    if (kind.pooled) out.set_pooled(true);
    put_fit(out, kind.fit);
  }
  for (const Family& family : costs.families()) {
    config::ClusterCosts::Family& out = *message.add_family();
    out.set_stage(std::string(to_string(family.key.stage)));
    out.set_phase(std::string(to_string(family.key.phase)));
    out.set_label(family.key.label);
    out.set_work(static_cast<config::ClusterCosts::Work>(family.key.work));
    out.set_link(static_cast<config::ClusterCosts::Link>(family.key.link));
    put_fit(out, family.fit);
  }
  for (int a = 0; a < 3; ++a)
    for (int b = 0; b < 3; ++b) {
      if (a == b) continue;
      config::ClusterCosts::Contention& out = *message.add_contention();
      out.set_a(static_cast<config::ClusterCosts::Stream>(a));
      out.set_b(static_cast<config::ClusterCosts::Stream>(b));
      out.set_factor(costs.machine.contention[static_cast<std::size_t>(a)][static_cast<std::size_t>(b)]);
    }
  for (const CtaSample& sample : costs.cta_samples) {
    config::ClusterCosts::CtaBudget& out = *message.add_cta_budget();
    out.set_link(static_cast<config::ClusterCosts::Link>(sample.link));
    out.set_ctas(sample.ctas);
    out.set_collective_us(sample.collective_us);
    out.set_product_us(sample.product_us);
    out.set_overlapped_us(sample.overlapped_us);
  }
  message.set_issue_us(costs.machine.issue_us);
  if (costs.machine.host_apart) message.set_host_apart(true);
  message.set_cores_per_rank(costs.machine.cores_per_rank);
  message.set_ranks_per_core(costs.machine.ranks_per_core);
  message.mutable_rank_load()->Assign(rank_loads.begin(), rank_loads.end());
  if (costs.imbalance != 1.0) message.set_imbalance(costs.imbalance);
  if (measured) put_measurement(*message.mutable_measured(), *measured);
  google::protobuf::TextFormat::Printer printer;
  printer.SetUseShortRepeatedPrimitives(true);
  std::string text;
  printer.PrintToString(message, &text);
  return "# proto-file: configs/cluster.proto\n# proto-message: weft.config.ClusterCosts\n\n" + text;
}

}  // namespace weft::tools
