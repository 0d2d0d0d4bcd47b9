// tools/version.cpp - weft version
#include <CLI/CLI.hpp>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>

#include "tools/build_info.h"
#include "tools/command.h"

namespace weft::tools {
namespace {

int print_version(bool as_json) {
  const BuildInfo& info = build_info();
  nlohmann::ordered_json facts{{"version", info.version},   {"build_type", info.build_type},
                               {"compiler", info.compiler}, {"flags", info.flags},
                               {"mpi", info.mpi},           {"cuda", info.cuda},
                               {"nccl", info.nccl}};
  if (as_json) {
    std::cout << facts.dump(2) << "\n";
    return 0;
  }
  std::cout << "weft " << info.version << "\n";
  for (const auto& [key, value] : facts.items())
    if (key != "version") {
      const std::string text = value.is_boolean() ? (value.get<bool>() ? "yes" : "no") : value.get<std::string>();
      std::cout << "  " << key << std::string(12 - key.size(), ' ') << text << "\n";
    }
  return 0;
}

}  // namespace

void add_version(CLI::App& app, Action& action) {
  CLI::App* command = app.add_subcommand("version", "Print the version and what is in this build");
  auto as_json = std::make_shared<bool>(false);
  command->add_flag("--json", *as_json, "Print one JSON document");
  command->callback([as_json, &action] { action = [as_json] { return print_version(*as_json); }; });
}

}  // namespace weft::tools
