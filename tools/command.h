// tools/command.h - what a subcommand of weft is: options on a CLI::App, and a function to run once they are read.
#pragma once

#include <functional>

namespace CLI {
class App;
}

namespace weft::tools {

/// Set by the subcommand that was chosen. Returns the exit status; throws weft::Error.
using Action = std::function<int()>;

/// Each adds one subcommand to `app`, which sets `action` when it is chosen.
void add_bench(CLI::App& app, Action& action);
void add_checkpoint(CLI::App& app, Action& action);
void add_config(CLI::App& app, Action& action);
void add_data(CLI::App& app, Action& action);
void add_doctor(CLI::App& app, Action& action);
void add_eval(CLI::App& app, Action& action);
void add_export(CLI::App& app, Action& action);
void add_generate(CLI::App& app, Action& action);
void add_import(CLI::App& app, Action& action);
void add_plan(CLI::App& app, Action& action);
void add_report(CLI::App& app, Action& action);
void add_simulate(CLI::App& app, Action& action);
void add_profile(CLI::App& app, Action& action);
void add_train(CLI::App& app, Action& action);
void add_version(CLI::App& app, Action& action);

}  // namespace weft::tools
