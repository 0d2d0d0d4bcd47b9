// tools/weft.cpp - the weft command: reads the options, runs the subcommand, turns errors into an exit status.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <new>
#include <string>
#include <vector>

#include "tools/build_info.h"
#include "tools/command.h"
#include "tools/config/schema.h"
#include "tools/exit_status.h"

namespace weft::tools {
namespace {

// The subcommand that the user has reached, for "weft data tokenize --help" in hints.
std::string command_line_of(const CLI::App& app) {
  const auto chosen = app.get_subcommands();
  return app.get_name() + (chosen.empty() ? "" : " " + command_line_of(*chosen.front()));
}

// CLI11 only says that a command is missing, so a mistyped one is caught here.
void check_command(const CLI::App& app, int argc, char** argv) {
  if (argc < 2 || argv[1][0] == '-') return;
  std::vector<std::string> names;
  for (const CLI::App* command : app.get_subcommands({})) names.push_back(command->get_name());
  if (std::find(names.begin(), names.end(), argv[1]) != names.end()) return;
  const std::string guess = nearest(argv[1], names);
  throw Error(ErrorCode::kInvalidArgument, str("weft has no command '", argv[1], "'"),
              guess.empty() ? "see weft --help" : str("did you mean weft ", guess, "?"));
}

int run(int argc, char** argv) {
  CLI::App app("Weft trains sparse Mixture-of-Experts language models.", "weft");
  app.require_subcommand(1);
  app.set_version_flag("--version", build_info().version);
  app.footer(
      "Exit status: 0 done, 2 bad usage or config, 74 I/O, 75 saved and stopped on request,\n"
      "79 hang detected, 80 non-finite loss, 1 anything else.");
  Action action;
  add_bench(app, action);
  add_checkpoint(app, action);
  add_config(app, action);
  add_data(app, action);
  add_doctor(app, action);
  add_eval(app, action);
  add_export(app, action);
  add_generate(app, action);
  add_import(app, action);
  add_plan(app, action);
  add_report(app, action);
  add_simulate(app, action);
  add_profile(app, action);
  add_train(app, action);
  add_version(app, action);
  check_command(app, argc, argv);
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& request) {  // --help, --version
    return app.exit(request);
  } catch (const CLI::ParseError& error) {
    report_error(error.what(), "see " + command_line_of(app) + " --help");
    return kExitUsage;
  }
  return action();
}

}  // namespace
}  // namespace weft::tools

int main(int argc, char** argv) {
  using namespace weft::tools;
  try {
    return run(argc, argv);
  } catch (const weft::Error& error) {
    report_error(error.message(), error.hint());
    return exit_status(error.code());
  } catch (const std::bad_alloc&) {
    report_error("out of memory", "a smaller train.micro_batch or train.sequence_length needs less");
  } catch (const std::exception& error) {
    report_error(error.what(), "this is a bug of weft; WEFT_LOG=debug shows more");
  }
  return kExitOther;
}
