// tools/doctor.cpp - weft doctor
#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>

#include "comm/factory.h"
#include "comm/topology.h"
#include "core/log.h"
#include "tools/command.h"
#include "tools/doctor/checks.h"
#include "tools/exit_status.h"
#include "tools/train/process.h"

namespace weft::tools {
namespace {

struct DoctorArguments {
  bool probe = true, json = false;
};

/// What one rank of each machine found there.
Findings look_at_machines(comm::Communicator& world, bool probe) {
  Findings here;
  if (comm::place_on_machine(world, *make_inline_stream()) == 0) {
    check_machine(here);
    check_gpus(here);
    if (probe) probe_memory(here);
  }
  Findings named;
  for (Finding finding : here.list()) {
    finding.host = host_name();
    named.add(std::move(finding));
  }
  return gather_findings(world, named);
}

int count(const Findings& findings, Health health) {
  return static_cast<int>(std::count_if(findings.list().begin(), findings.list().end(),
                                        [&](const Finding& f) { return f.health == health; }));
}

void print(const Findings& findings, bool several_machines) {
  std::size_t width = 0;
  for (const Finding& f : findings.list()) width = std::max(width, f.what.size());
  for (const Finding& f : findings.list()) {
    std::string health(to_string(f.health));
    health.resize(5, ' ');
    std::cout << health << f.what << std::string(width + 2 - f.what.size(), ' ') << f.found;
    if (several_machines && !f.host.empty()) std::cout << "  [" << f.host << "]";
    std::cout << "\n";
    if (!f.advice.empty()) std::cout << std::string(7, ' ') << "-> " << f.advice << "\n";
  }
  std::cout << count(findings, Health::kOk) << " ok, " << count(findings, Health::kWarn) << " warn, "
            << count(findings, Health::kFail) << " fail\n";
}

void print_json(const Findings& findings) {
  nlohmann::ordered_json rows = nlohmann::ordered_json::array();
  for (const Finding& f : findings.list())
    rows.push_back({{"health", std::string(to_string(f.health))},
                    {"what", f.what},
                    {"found", f.found},
                    {"advice", f.advice},
                    {"host", f.host}});
  const nlohmann::ordered_json facts{{"findings", std::move(rows)},
                                     {"ok", count(findings, Health::kOk)},
                                     {"warn", count(findings, Health::kWarn)},
                                     {"fail", count(findings, Health::kFail)}};
  std::cout << facts.dump(2) << "\n";
}

int run_doctor(const DoctorArguments& args) {
  const auto world = comm::make_world(std::chrono::seconds(60));
  set_log_rank(world->rank(), world->size());
  Findings findings;
  check_ranks(*world, findings);
  const Findings machines = look_at_machines(*world, args.probe);
  for (const Finding& f : machines.list()) findings.add(f);
  if (args.probe) probe_links(*world, findings);
  const bool several = comm::find_topology(*world, *make_inline_stream()).num_nodes > 1;
  if (world->rank() == 0 && args.json)
    print_json(findings);
  else if (world->rank() == 0)
    print(findings, several);
  return count(findings, Health::kFail) == 0 ? kExitDone : kExitOther;
}

}  // namespace

void add_doctor(CLI::App& app, Action& action) {
  CLI::App* command =
      app.add_subcommand("doctor", "Look at this machine, its GPUs, ranks and links, and say what to change");
  auto args = std::make_shared<DoctorArguments>();
  command->add_flag("!--no_probe", args->probe, "Measure no bandwidths (a few seconds)");
  command->add_flag("--json", args->json, "Print one JSON document");
  command->footer(
      "Start it as runs are started, to look at their links and every machine: mpirun -n 4 weft doctor.\n"
      "Each line is ok, warn (it works, but slower or with less than it could) or fail, with what to do about it.\n"
      "Exit status: 0 unless something fails, then 1.");
  command->callback([args, &action] { action = [args] { return run_doctor(*args); }; });
}

}  // namespace weft::tools
