// tools/generate.cpp - weft generate
#include <CLI/CLI.hpp>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>

#include "comm/factory.h"
#include "core/error.h"
#include "parallel/eval/evaluator.h"
#include "parallel/train/run_device.h"
#include "tools/command.h"
#include "tools/config/loader.h"
#include "tools/exit_status.h"
#include "tools/number_checks.h"

namespace weft::tools {
namespace {

using parallel::Checkpoint;

struct GenerateArguments {
  std::string checkpoint, prompt;
  std::vector<std::string> sets;
  int tokens = 200, context = 256;
  parallel::SampleOptions sample{0.8, 0, 1};
  bool json = false;
};

/// Byte-level models: token = byte, 256 starts a document.
constexpr std::int32_t kEndOfText = 256;

template <class T>
std::string generate(const GenerateArguments& args, const parallel::RunConfig& config, const Checkpoint& checkpoint,
                     comm::Communicator& world) {
  if (config.model.vocab_size != kEndOfText + 1)
    throw Error(ErrorCode::kInvalidArgument,
                str("the model has a vocabulary of ", config.model.vocab_size,
                    "; generate knows the byte tokenizer's 257 alone"),
                "use weft eval --logits for other tokenizers");
  parallel::RunConfig here = config;  // the run's layout is not that of one rank
  here.parallel = {};
  here.parallel.device = config.parallel.device;
  parallel::Evaluator<T> evaluator(config.model, checkpoint, world, run_device(here, world));
  std::vector<std::int32_t> tokens{kEndOfText};
  for (const char c : args.prompt) tokens.push_back(static_cast<unsigned char>(c));
  std::string text;
  if (!args.json) std::cout << args.prompt << std::flush;
  for (int i = 0; i < args.tokens; ++i) {
    const std::size_t first = tokens.size() > static_cast<std::size_t>(args.context)
                                  ? tokens.size() - static_cast<std::size_t>(args.context)
                                  : 0;
    const std::vector<T> logits = evaluator.next_logits(std::span(tokens).subspan(first));
    const std::int32_t next = parallel::sample_token<T>(logits, args.sample, static_cast<std::uint64_t>(i));
    if (next == kEndOfText) break;
    tokens.push_back(next);
    text += static_cast<char>(next);
    if (!args.json) std::cout << static_cast<char>(next) << std::flush;
  }
  return text;
}

int run_generate(const GenerateArguments& args) {
  const Checkpoint checkpoint{std::filesystem::path(args.checkpoint)};
  const parallel::RunConfig config = parse_config(checkpoint.state().config_text, "the checkpoint's config", args.sets);
  const DType dtype = config.train.dtype;
  std::string text;
  comm::run_local_ranks(1, [&](comm::Communicator& world) {
    text = dtype == DType::kF64    ? generate<double>(args, config, checkpoint, world)
           : dtype == DType::kBF16 ? generate<BF16>(args, config, checkpoint, world)
                                   : generate<float>(args, config, checkpoint, world);
  });
  if (args.json)
    std::cout << nlohmann::json{{"prompt", args.prompt},
                                {"text", text},
                                {"dtype", to_string(dtype)},
                                {"step", checkpoint.state().step}}
                     .dump(2, ' ', false, nlohmann::json::error_handler_t::replace)
              << "\n";
  else
    std::cout << "\n";
  return kExitDone;
}

}  // namespace

void add_generate(CLI::App& app, Action& action) {
  CLI::App* command = app.add_subcommand("generate", "Sample text from a byte-level model");
  auto args = std::make_shared<GenerateArguments>();
  command->add_option("--checkpoint", args->checkpoint, "Checkpoint folder")->required();
  command->add_option("--prompt", args->prompt, "Text to go on from");
  command->add_option("--tokens", args->tokens, "Bytes to generate at most")->capture_default_str()->check(positive());
  command->add_option("--context", args->context, "Bytes that the model looks back")
      ->capture_default_str()
      ->check(positive());
  command->add_option("--temperature", args->sample.temperature, "0: the most likely byte each time")
      ->capture_default_str()
      ->check(not_negative());
  command->add_option("--top_k", args->sample.top_k, "Sample among the k most likely; 0: all")
      ->capture_default_str()
      ->check(not_negative());
  command->add_option("--seed", args->sample.seed, "Seed of the sampling")->capture_default_str();
  command->add_option("--set", args->sets, "Override a field of the checkpoint's config (repeatable)")
      ->type_name("PATH=VALUE")
      ->expected(1)
      ->take_all();
  command->add_flag("--json", args->json, "Print one JSON document");
  command->footer(
      "Computes in the dtype of the run (--set train.dtype=F32: in F32), on a GPU where there is one\n"
      "(--set parallel.device=CPU: on the CPU).");
  command->callback([args, &action] { action = [args] { return run_generate(*args); }; });
}

}  // namespace weft::tools
