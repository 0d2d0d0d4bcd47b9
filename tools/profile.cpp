// tools/profile.cpp - weft profile
#include <CLI/CLI.hpp>
#include <chrono>
#include <ctime>
#include <filesystem>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>

#include "comm/factory.h"
#include "comm/topology.h"
#include "core/atomic_file.h"
#include "core/error.h"
#include "core/log.h"
#include "parallel/train/probes.h"
#include "parallel/train/run_device.h"
#include "scheduler/cta_budget.h"
#include "tools/build_info.h"
#include "tools/command.h"
#include "tools/config/loader.h"
#include "tools/config/schedule_files.h"
#include "tools/exit_status.h"
#include "tools/number_checks.h"
#include "tools/train/environment.h"
#include "tools/train/process.h"
#include "tools/train/text.h"

namespace weft::tools {
namespace {

using namespace scheduler;

struct ProfileArguments {
  std::string config, out;
  std::vector<std::string> sets;
  double time_limit_s = 40.0, comm_timeout_s = 0.0;
  bool json = false;
};

nlohmann::ordered_json row(const std::string& name, WorkKind work, const Fit& fit, bool pooled) {
  nlohmann::ordered_json points = nlohmann::ordered_json::array();
  for (const Sample& s : fit.samples)
    points.push_back({{"operations", s.operations}, {"amount", s.amount}, {"time_us", s.time_us}});
  return {{"family", name},
          {"alpha_us", fit.cost.alpha_us},
          {"beta_us", fit.cost.beta_us},
          {"unit", is_collective(work) || work == WorkKind::kMemory ? "byte" : "flop"},
          {"r_squared", fit.r_squared ? nlohmann::ordered_json(*fit.r_squared) : nlohmann::ordered_json()},
          {"pooled", pooled},
          {"sizes", num_sizes(fit.samples)},
          {"points", points}};
}

/// Samples of budgets, and under "chosen" what training takes by them.
nlohmann::ordered_json cta_facts(const std::vector<CtaSample>& samples) {
  nlohmann::ordered_json out{{"samples", nlohmann::ordered_json::array()}};
  for (const CtaSample& s : samples)
    out["samples"].push_back({{"link", to_string(s.link)},
                              {"ctas", s.ctas},
                              {"collective_us", s.collective_us},
                              {"product_us", s.product_us},
                              {"overlapped_us", s.overlapped_us},
                              {"loss_us", loss_us(s)}});
  for (const LinkClass link : {LinkClass::kIntra, LinkClass::kInter})
    out["chosen"][to_string(link)] = choose_ctas(samples, link);
  return out;
}

nlohmann::ordered_json to_json(const CostModel& cost, const parallel::Profile& profile, const Measurement& measured,
                               double seconds) {
  nlohmann::ordered_json out{{"source", cost.source},
                             {"version", measured.version},
                             {"date", measured.date},
                             {"hosts", measured.hosts},
                             {"ranks", measured.ranks},
                             {"ranks_per_node", measured.ranks_per_node},
                             {"device", {{"kind", name_of(measured.device)}, {"name", measured.device_name}}},
                             {"dtype", to_string(measured.dtype)},
                             {"runs", measured.runs},
                             {"seconds", seconds},
                             {"stretch", profile.stretch},
                             {"wait_us", profile.wait_us},
                             {"issue_us", cost.machine.issue_us},
                             {"median_rank_load", imbalance_quantile(profile.rank_loads, 0.5)}};
  const char* names[] = {"compute", "intra", "inter"};
  for (std::size_t a = 0; a < 3; ++a)
    for (std::size_t b = 0; b < 3; ++b)
      if (a != b) out["contention"][str(names[a], " by ", names[b])] = cost.machine.contention[a][b];
  out["ctas"] = cta_facts(cost.cta_samples);
  out["families"] = nlohmann::ordered_json::array();
  for (const Family& f : cost.families()) out["families"].push_back(row(name_of(f.key), f.key.work, f.fit, false));
  for (const KindFit& k : cost.kinds())
    out["families"].push_back(row(str("any ", to_string(k.work), is_collective(k.work) ? " " : "",
                                      is_collective(k.work) ? to_string(k.link) : ""),
                                  k.work, k.fit, k.pooled));
  return out;
}

void print_ctas(const nlohmann::ordered_json& facts) {
  if (facts["samples"].empty()) return;
  std::printf("%-9s %5s %15s %12s %14s %10s\n", "groups", "CTAs", "all-to-alls us", "products us", "overlapped us",
              "loss us");
  for (const auto& s : facts["samples"])
    std::printf("%-9s %5s %15.1f %12.1f %14.1f %10.1f%s\n", s["link"].get<std::string>().c_str(),
                s["ctas"] == 0 ? "NCCL" : s["ctas"].dump().c_str(), s["collective_us"].get<double>(),
                s["product_us"].get<double>(), s["overlapped_us"].get<double>(), s["loss_us"].get<double>(),
                facts["chosen"][s["link"].get<std::string>()] == s["ctas"] ? "  chosen" : "");
}

void print_table(const nlohmann::ordered_json& facts) {
  std::printf("%-46s %11s %13s %8s %7s %6s  %s\n", "family", "alpha us", "beta us", "R2", "points", "sizes", "unit");
  for (const auto& f : facts["families"]) {
    char r2[16] = "-";
    if (!f["r_squared"].is_null() && !f["pooled"].get<bool>())
      std::snprintf(r2, sizeof r2, "%.4f", f["r_squared"].get<double>());
    std::printf("%-46s %11.2f %13.4e %8s %7zu %6d  %s\n", f["family"].get<std::string>().c_str(),
                f["alpha_us"].get<double>(), f["beta_us"].get<double>(), r2, f["points"].size(), f["sizes"].get<int>(),
                f["unit"].get<std::string>().c_str());
  }
  print_ctas(facts["ctas"]);
  std::cout << "slow-down of streams:";
  for (const auto& [pair, factor] : facts["contention"].items())
    std::cout << " " << pair << " " << fixed(factor.get<double>(), 2);
  std::cout << "\n";
  if (facts["device"]["kind"] == name_of(DeviceKind::kCpu))
    std::cout << "wall over CPU time of computation " << fixed(facts["stretch"], 2) << ", waiting at a collective "
              << fixed(facts["wait_us"], 0) << " us, ";
  std::cout << "issuing a task " << fixed(facts["issue_us"], 2) << " us, median load of the busiest rank "
            << fixed(facts["median_rank_load"], 3) << " of the mean\n"
            << facts["runs"] << " steps on " << counted(facts["ranks"], "rank") << " ("
            << facts["device"]["name"].get<std::string>() << ", " << facts["dtype"].get<std::string>() << ") in "
            << fixed(facts["seconds"], 1) << " s\n";
}

/// Says which fits planning will refuse, with `min_r_squared` as its limit, and what to do.
void warn_of_poor_fits(const CostModel& cost, double min_r_squared) {
  const std::vector<PoorFit> poor = poor_fits(cost, min_r_squared);
  if (poor.empty()) return;
  for (const PoorFit& fit : poor)
    std::cerr << str("warning: ", fit.name, ": R squared is ", fit.r_squared, ", under the limit of ", min_r_squared,
                     ": weft train and weft plan will refuse this profile\n");
  std::cerr << "hint: " << hint_for(poor) << "\n";
}

int run_profile(const ProfileArguments& args) {
  const auto start = std::chrono::steady_clock::now();
  const parallel::RunConfig config = load_config(args.config, args.sets);
  const auto world = comm::make_world(std::chrono::milliseconds(static_cast<std::int64_t>(1e3 * args.comm_timeout_s)));
  set_log_rank(world->rank(), world->size());
  require_valid(config, world->size());
  const comm::Topology topology = comm::find_topology(*world, *make_inline_stream());
  const bool speaks = world->rank() == 0;
  const Device device = parallel::run_device(config, *world);
  parallel::ProbeOptions options{comm::ranks_of_each_node(topology), device, args.time_limit_s, nullptr};
  if (speaks) options.on_progress = [](const std::string& what) { std::cerr << "measuring " << what << "\n"; };
  parallel::Profile profile = parallel::measure_profile(config, *world, options);

  const Measurement measured{.version = build_info().version,
                             .date = now_utc(),
                             .hosts = node_hosts(*world, topology),
                             .ranks = world->size(),
                             .ranks_per_node = options.ranks_per_node,
                             .stretch = profile.stretch,
                             .runs = profile.num_runs,
                             .device = device.kind,
                             .device_name = device_name(device),
                             .dtype = config.train.dtype};
  if (!speaks) return kExitDone;
  profile.cost.source = str("profile of ", counted(measured.ranks, "rank"), " on ", measured.hosts.front(),
                            measured.hosts.size() > 1 ? " and others" : "",
                            device.kind == DeviceKind::kCpu ? "" : ", " + measured.device_name, ", ", measured.date);
  write_file(args.out, costs_to_text(profile.cost, profile.rank_loads, measured));
  warn_of_poor_fits(profile.cost, config.schedule.profile_min_r_squared);
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  const nlohmann::ordered_json facts = to_json(profile.cost, profile, measured, seconds);
  if (args.json)
    std::cout << facts.dump(2) << "\n";
  else
    print_table(facts);
  return kExitDone;
}

}  // namespace

void add_profile(CLI::App& app, Action& action) {
  CLI::App* command = app.add_subcommand("profile", "Measure what the tasks of a step cost on these ranks");
  auto args = std::make_shared<ProfileArguments>();
  command->add_option("config", args->config, "Config file: the model, batch and layout to measure")->required();
  command->add_option("--out", args->out, "Profile to write (configs/cluster.proto); use it as schedule.profile")
      ->required();
  command->add_option("--set", args->sets, "Override a field: path.to.field=value (repeatable)")
      ->type_name("PATH=VALUE");
  command->add_option("--time_limit", args->time_limit_s, "Seconds after which no more steps are run")
      ->capture_default_str()
      ->check(positive());
  command
      ->add_option("--comm_timeout", args->comm_timeout_s,
                   "Seconds a collective may wait for its peers before the job ends with status 79; 0: for ever")
      ->capture_default_str()
      ->check(CLI::Range(0.0, 1e6));
  command->add_flag("--json", args->json, "Print one JSON document");
  command->footer(
      "Run it as training is run, e.g. mpirun -n 4 weft profile CONFIG --out FILE: costs hold for that many ranks a\n"
      "node. Communication is timed from when the last rank has entered until the last is done; computation by CPU\n"
      "time, times what sharing the cores costs while all ranks are at work. On GPUs (parallel.device) both are the\n"
      "GPU's own times, and where NCCL connects them, budgets of CTAs for its groups are measured first: the rest is\n"
      "measured with those that training chooses by them (parallel.intra_node_ctas, inter_node_ctas).");
  command->callback([args, &action] { action = [args] { return run_profile(*args); }; });
}

}  // namespace weft::tools
