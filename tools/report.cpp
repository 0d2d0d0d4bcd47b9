// tools/report.cpp - weft report
#include <CLI/CLI.hpp>
#include <filesystem>
#include <iostream>
#include <memory>

#include "core/atomic_file.h"
#include "core/error.h"
#include "tools/command.h"
#include "tools/exit_status.h"
#include "tools/report/report.h"

namespace weft::tools {
namespace {

struct ReportArguments {
  std::string run_dir, out;
  bool json = false;
};

/// Refuses, before anything is written, a page that cannot be written, and one that would replace another file of the
/// run than a page.
void require_place(const std::filesystem::path& page, const std::filesystem::path& run_dir) {
  const std::filesystem::path folder = page.parent_path().empty() ? "." : page.parent_path();
  std::error_code error;
  if (!std::filesystem::is_directory(folder, error))
    throw Error(ErrorCode::kIo, str("--out ", page.string(), ": there is no folder ", folder.string()),
                "make it first");
  if (std::filesystem::is_directory(page, error))
    throw Error(ErrorCode::kIo, str("--out ", page.string(), " is a folder"), "name the page in it");
  const bool inside = std::filesystem::equivalent(folder, run_dir, error);
  if (inside && page.extension() != ".html" && std::filesystem::exists(page, error))
    throw Error(ErrorCode::kInvalidArgument, str("--out ", page.string(), " is a file of the run"),
                "give the page a name that ends in .html");
}

int run_report(const ReportArguments& args) {
  const std::filesystem::path run_dir = args.run_dir;
  const nlohmann::ordered_json report = make_report(run_dir);
  const std::filesystem::path page = args.out.empty() ? run_dir / "report.html" : std::filesystem::path(args.out);
  require_place(page, run_dir);
  write_file(page, html_page(report));  // first: where it fails, the report.json of an earlier report stays
  write_file(run_dir / "report.json", report.dump() + "\n");
  if (args.json) {
    std::cout << report.dump(2) << "\n";
    return kExitDone;
  }
  for (const std::string& line : summary_lines(report)) std::cout << line << "\n";
  std::cout << "report: " << page.string() << "\n";
  return kExitDone;
}

}  // namespace

void add_report(CLI::App& app, Action& action) {
  CLI::App* command = app.add_subcommand(
      "report",
      "Write report.html and report.json of a run: timeline, stages, overlap, curves, router, traffic, costs");
  auto args = std::make_shared<ReportArguments>();
  command->add_option("run_dir", args->run_dir, "Run folder, as weft train leaves it")->required();
  command->add_option("--out", args->out, "The page; default: report.html in the run folder");
  command->add_flag("--json", args->json, "Print the report as one JSON document");
  command->footer(
      "The page is one file that needs no network. It shows most of a run of\n"
      "  weft train CONFIG --trace 10 --set metrics.router_every=10 --set schedule.profile=FILE");
  command->callback([args, &action] { action = [args] { return run_report(*args); }; });
}

}  // namespace weft::tools
