// tools/config.cpp - weft config print|explain
#include <CLI/CLI.hpp>
#include <algorithm>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tools/command.h"
#include "tools/config/loader.h"
#include "tools/config/schema.h"
#include "tools/number_checks.h"

namespace weft::tools {
namespace {

struct PrintOptions {
  std::string config;
  std::vector<std::string> sets;
  int ranks = 0;
};

int print_config(const PrintOptions& options) {
  const parallel::RunConfig config =
      options.config.empty() ? parse_config("", "defaults", options.sets) : load_config(options.config, options.sets);
  if (options.ranks > 0) require_valid(config, options.ranks);
  std::cout << to_text(config);
  return 0;
}

// `text` in lines of at most 96 characters, each after `indent` spaces.
void print_wrapped(const std::string& text, int indent) {
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    std::istringstream words(line);
    std::string row(static_cast<std::size_t>(indent), ' ');
    for (std::string word; words >> word;) {
      if (row.size() + word.size() > 96) {
        std::cout << row << "\n";
        row.assign(static_cast<std::size_t>(indent), ' ');
      }
      row += word + " ";
    }
    row.pop_back();
    std::cout << row << "\n";
  }
}

int explain_fields(const std::string& path, bool as_json) {
  const std::vector<FieldHelp> help = explain(path);
  if (as_json) {
    auto rows = nlohmann::ordered_json::array();
    for (const FieldHelp& field : help)
      rows.push_back(
          {{"path", field.path}, {"type", field.type}, {"default", field.default_value}, {"comment", field.comment}});
    std::cout << rows.dump(2) << "\n";
    return 0;
  }
  for (const FieldHelp& field : help) {
    std::cout << field.path << " = " << (field.default_value.empty() ? "(none)" : field.default_value) << "   ("
              << field.type << ")\n";
    print_wrapped(field.comment, 4);
  }
  return 0;
}

}  // namespace

void add_config(CLI::App& app, Action& action) {
  CLI::App* command = app.add_subcommand("config", "Show what a config says, and what its fields mean");
  command->require_subcommand(1);

  CLI::App* print = command->add_subcommand("print", "Print the whole config that a run would use");
  auto options = std::make_shared<PrintOptions>();
  print->add_option("config", options->config, "Config file (.textproto); without it, the defaults")
      ->type_name("CONFIG");
  print->add_option("--set", options->sets, "Override one field; may be repeated")
      ->type_name("PATH=VALUE")
      ->expected(1)
      ->take_all();
  print->add_option("--ranks", options->ranks, "Also check that it can run on this many ranks")
      ->check(positive())
      ->type_name("N");
  print->callback([options, &action] { action = [options] { return print_config(*options); }; });

  CLI::App* fields = command->add_subcommand("explain", "Say what fields mean, their types and defaults");
  auto path = std::make_shared<std::string>();
  auto as_json = std::make_shared<bool>(false);
  fields->add_option("path", *path, "A field or a group, e.g. train.optimizer (default: all)")->type_name("PATH");
  fields->add_flag("--json", *as_json, "Print one JSON document");
  fields->callback([path, as_json, &action] { action = [path, as_json] { return explain_fields(*path, *as_json); }; });
}

}  // namespace weft::tools
