// tools/checkpoint.cpp - weft checkpoint ls|verify|diff
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "tools/checkpoint/checkpoints.h"
#include "tools/command.h"
#include "tools/exit_status.h"
#include "tools/train/text.h"

namespace weft::tools {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr int kExitDifferent = 1;

struct CheckpointArguments {
  std::string a, b;
  bool verify = false, all = false, json = false;
};

Json to_json(const CheckpointSummary& c) {
  Json json{{"folder", c.folder.string()}, {"ok", c.problem.empty()}};
  if (!c.problem.empty()) {
    json["problem"] = c.problem;
    return json;
  }
  json.update({{"step", c.step},
               {"samples", c.samples},
               {"tokens", c.tokens},
               {"dtype", to_string(c.dtype)},
               {"optimizer", c.has_optimizer},
               {"tensors", c.num_tensors},
               {"elements", c.num_elements},
               {"bytes", c.bytes}});
  return json;
}

template <class... Args>
void print_row(const char* format, Args... args) {
  char row[256];
  std::snprintf(row, sizeof row, format, args...);
  std::cout << row;
}

void print_table(const std::vector<CheckpointSummary>& checkpoints) {
  print_row("%10s %12s %14s %12s %11s %6s %-10s  %s\n", "step", "samples", "tokens", "parameters", "size", "dtype",
            "optimizer", "folder");
  for (const CheckpointSummary& c : checkpoints) {
    if (!c.problem.empty()) {
      std::cout << "   damaged  " << c.problem << "\n";
      continue;
    }
    print_row("%10lld %12lld %14lld %12s %11s %6s %-10s  ", static_cast<long long>(c.step),
              static_cast<long long>(c.samples), static_cast<long long>(c.tokens),
              human_count(static_cast<double>(c.num_elements)).c_str(),
              human_bytes(static_cast<double>(c.bytes)).c_str(), std::string(to_string(c.dtype)).c_str(),
              c.has_optimizer ? "yes" : "no");
    std::cout << c.folder.string() << "\n";
  }
}

int run_list(const CheckpointArguments& args) {
  std::vector<CheckpointSummary> checkpoints;
  for (const fs::path& folder : find_checkpoints(args.a)) checkpoints.push_back(summarize(folder, args.verify));
  if (args.json) {
    Json json = Json::array();
    for (const CheckpointSummary& c : checkpoints) json.push_back(to_json(c));
    std::cout << json.dump(2) << "\n";
  } else {
    print_table(checkpoints);
  }
  const bool whole = std::ranges::all_of(checkpoints, [](const CheckpointSummary& c) { return c.problem.empty(); });
  return whole ? kExitDone : kExitIo;
}

int run_verify(const CheckpointArguments& args) {
  Json json = Json::array();
  int damaged = 0;
  for (const fs::path& folder : find_checkpoints(args.a)) {
    const CheckpointSummary c = summarize(folder, true);
    json.push_back(to_json(c));
    if (!c.problem.empty()) {
      ++damaged;
      report_error(c.problem, "");
    } else if (!args.json) {
      std::cout << folder.string() << ": all checksums hold (" << c.num_tensors << " tensors, "
                << human_bytes(static_cast<double>(c.bytes)) << ")\n";
    }
  }
  if (args.json) std::cout << json.dump(2) << "\n";
  return damaged == 0 ? kExitDone : kExitIo;
}

Json to_json(const CheckpointArguments& args, const std::vector<TensorDifference>& differences, bool equal) {
  Json json{{"a", args.a}, {"b", args.b}, {"equal", equal}, {"tensors", Json::array()}};
  for (const TensorDifference& d : differences) {
    Json row{{"name", d.name}, {"array", d.array}, {"equal", d.equal()}};
    if (d.only.empty())
      row.update({{"different_elements", d.num_different}, {"max_abs", d.max_abs}, {"max_relative", d.max_relative}});
    else
      row["problem"] = d.only;
    json["tensors"].push_back(row);
  }
  return json;
}

void print_differences(const std::vector<TensorDifference>& differences, bool all) {
  bool first = true;
  for (const TensorDifference& d : differences) {
    if (d.equal() && !all) continue;
    if (std::exchange(first, false)) print_row("%12s %12s %12s  %s\n", "max abs", "relative", "elements", "tensor");
    const std::string name = (d.array == "weight" ? "" : d.array + ":") + d.name;
    if (d.only.empty())
      print_row("%12.4g %12.4g %12lld  ", d.max_abs, d.max_relative, static_cast<long long>(d.num_different));
    else
      print_row("%38s  ", d.only.c_str());
    std::cout << name << "\n";
  }
}

int run_diff(const CheckpointArguments& args) {
  const parallel::Checkpoint a{fs::path(args.a)}, b{fs::path(args.b)};
  a.verify();
  b.verify();
  const std::vector<TensorDifference> differences = compare(a, b);
  const auto different = std::ranges::count_if(differences, [](const TensorDifference& d) { return !d.equal(); });
  if (args.json) {
    std::cout << to_json(args, differences, different == 0).dump(2) << "\n";
  } else {
    print_differences(differences, args.all);
    if (a.has_optimizer() != b.has_optimizer())
      std::cout << "only one of the two has an optimizer's state: weights were compared\n";
    std::cout << (different == 0 ? str("equal: ", differences.size(), " arrays")
                                 : str("different: ", different, " of ", differences.size(), " arrays"))
              << "\n";
  }
  return different == 0 ? kExitDone : kExitDifferent;
}

}  // namespace

void add_checkpoint(CLI::App& app, Action& action) {
  CLI::App* parent = app.add_subcommand("checkpoint", "List checkpoints, check them, compare two");
  parent->require_subcommand(1);
  const auto add = [&](const char* name, const char* help, int (*run)(const CheckpointArguments&)) {
    CLI::App* command = parent->add_subcommand(name, help);
    auto args = std::make_shared<CheckpointArguments>();
    command->add_flag("--json", args->json, "Print one JSON document");
    command->callback([args, run, &action] { action = [args, run] { return run(*args); }; });
    return std::pair(command, args);
  };
  const auto [list, list_args] =
      add("ls", "List the checkpoints of a run; status 74 when one cannot be read", run_list);
  list->add_option("folder", list_args->a, "Run folder, folder of checkpoints, or one checkpoint")
      ->required()
      ->type_name("DIR");
  list->add_flag("--verify", list_args->verify, "Also check every checksum");
  const auto [verify, verify_args] =
      add("verify", "Check every checksum; status 74 when one does not hold", run_verify);
  verify->add_option("checkpoint", verify_args->a, "Checkpoint, or a run folder: all of its checkpoints")
      ->required()
      ->type_name("CKPT");
  const auto [diff, diff_args] =
      add("diff", "Compare two checkpoints, tensor by tensor; status 1 when they differ", run_diff);
  diff->add_option("a", diff_args->a, "Checkpoint folder")->required()->type_name("A");
  diff->add_option("b", diff_args->b, "Checkpoint folder")->required()->type_name("B");
  diff->add_flag("--all", diff_args->all, "Also show tensors that are equal");
}

}  // namespace weft::tools
