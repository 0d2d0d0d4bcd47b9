// tools/hf.cpp - weft import hf, weft export hf
#include <CLI/CLI.hpp>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "tools/command.h"
#include "tools/hf/export.h"
#include "tools/hf/import.h"
#include "tools/number_checks.h"
#include "tools/train/text.h"

namespace weft::tools {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr std::uint64_t kDefaultFileBytes = 5'000'000'000;

struct HfArguments {
  std::string from, out;
  std::uint64_t max_file_bytes = kDefaultFileBytes;
  bool force = false, json = false;
};

// `path` without a '/' at its end: it is to name a folder that does not exist yet.
fs::path folder_name(const std::string& path) {
  fs::path out = fs::absolute(path).lexically_normal();
  return out.has_filename() ? out : out.parent_path();
}

// Refuses to write over what somebody may need.
void check_target(const fs::path& out, bool taken, bool force) {
  if (taken && !force)
    throw Error(ErrorCode::kInvalidArgument, str("--out: ", out.string(), " exists already"),
                "give another folder, or --force to replace it");
}

bool holds_files(const fs::path& path) {
  std::error_code error;
  return fs::exists(path, error) && !(fs::is_directory(path, error) && fs::is_empty(path, error));
}

int run_import(const HfArguments& args) {
  const fs::path out = folder_name(args.out);
  check_target(out, holds_files(out), args.force);
  if (holds_files(out) && !fs::exists(out / "manifest.json"))
    throw Error(ErrorCode::kInvalidArgument,
                str("--out: ", out.string(), " is no checkpoint, so --force does not replace it"),
                "give another folder");
  const HfImport result = import_hf(args.from, out);
  for (const std::string& note : result.notes) std::cerr << "note: " << note << "\n";
  const parallel::ParameterCount count = parallel::count_parameters(result.config.model);
  if (args.json) {
    std::cout << Json{{"checkpoint", args.out},    {"tensors", result.num_tensors},
                      {"files", result.num_files}, {"fused_experts", result.layout.fused},
                      {"parameters", count.total}, {"active_parameters", count.active}}
                     .dump(2)
              << "\n";
    return 0;
  }
  std::cout << args.out << ": " << human_count(static_cast<double>(count.total)) << " parameters ("
            << human_count(static_cast<double>(count.active)) << " active) from " << result.num_tensors
            << " tensors in " << result.num_files << (result.num_files == 1 ? " file" : " files") << "\n";
  return 0;
}

int run_export(const HfArguments& args) {
  const fs::path out = folder_name(args.out);
  check_target(out,
               fs::exists(out / kHfConfigFile) || fs::exists(out / kHfWeightsFile) || fs::exists(out / kHfIndexFile),
               args.force);
  const parallel::Checkpoint checkpoint{fs::path(args.from)};
  const HfExport result = export_hf(checkpoint, out, static_cast<std::int64_t>(args.max_file_bytes));
  for (const std::string& note : result.notes) std::cerr << "note: " << note << "\n";
  if (args.json)
    std::cout << Json{{"folder", args.out},
                      {"tensors", result.num_tensors},
                      {"files", result.num_files},
                      {"bytes", result.total_bytes}}
                     .dump(2)
              << "\n";
  else
    std::cout << args.out << ": " << result.num_tensors << " tensors, "
              << human_bytes(static_cast<double>(result.total_bytes)) << ", in " << result.num_files
              << (result.num_files == 1 ? " file" : " files") << "\n";
  return 0;
}

}  // namespace

void add_import(CLI::App& app, Action& action) {
  CLI::App* parent = app.add_subcommand("import", "Take over a model from elsewhere");
  parent->require_subcommand(1);
  CLI::App* command = parent->add_subcommand("hf", "Make a checkpoint from a Hugging Face Mixtral folder");
  auto args = std::make_shared<HfArguments>();
  command->add_option("folder", args->from, "config.json, and model.safetensors or shards with their index")
      ->required()
      ->type_name("DIR");
  command->add_option("--out", args->out, "Checkpoint folder to make")->required()->type_name("CKPT");
  command->add_flag("--force", args->force, "Replace the checkpoint that is there");
  command->add_flag("--json", args->json, "Print one JSON document");
  command->footer(
      "The checkpoint holds weights alone: weft eval and weft generate read it, weft train --init_from starts from "
      "it.");
  command->callback([args, &action] { action = [args] { return run_import(*args); }; });
}

void add_export(CLI::App& app, Action& action) {
  CLI::App* parent = app.add_subcommand("export", "Give a model to other software");
  parent->require_subcommand(1);
  CLI::App* command = parent->add_subcommand("hf", "Make a Hugging Face Mixtral folder from a checkpoint");
  auto args = std::make_shared<HfArguments>();
  command->add_option("checkpoint", args->from, "Checkpoint folder")->required()->type_name("CKPT");
  command->add_option("--out", args->out, "Folder to write, or to add to")->required()->type_name("DIR");
  command
      ->add_option("--max_file_size", args->max_file_bytes,
                   "Cut the weights into files of at most this size, e.g. 500MB (default 5GB)")
      ->transform(CLI::AsSizeValue(true))
      ->check(positive());
  command->add_flag("--force", args->force, "Replace the model that is there");
  command->add_flag("--json", args->json, "Print one JSON document");
  command->callback([args, &action] { action = [args] { return run_export(*args); }; });
}

}  // namespace weft::tools
