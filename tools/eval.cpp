// tools/eval.cpp - weft eval
#include <CLI/CLI.hpp>
#include <cmath>
#include <iomanip>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "tools/command.h"
#include "tools/config/loader.h"
#include "tools/eval/evaluate.h"
#include "tools/number_checks.h"
#include "tools/train/process.h"

namespace weft::tools {
namespace {

struct EvalArguments {
  std::string checkpoint;
  std::vector<std::string> sets;
  EvalRequest request;
  int sequence_length = 0;
  bool json = false;
};

int run_eval(const EvalArguments& args) {
  const parallel::Checkpoint checkpoint{std::filesystem::path(args.checkpoint)};
  parallel::RunConfig config = parse_config(checkpoint.state().config_text, "the checkpoint's config", args.sets);
  if (args.sequence_length > 0) config.train.sequence_length = args.sequence_length;
  const EvalReport report = evaluate(config, checkpoint, args.request);
  if (!std::isfinite(report.loss))
    throw Error(ErrorCode::kNonFinite, str("the loss is ", report.loss),
                "the model's weights are not finite, or too large");
  if (args.json)
    std::cout << nlohmann::ordered_json{{"loss", report.loss},
                                        {"perplexity", std::exp(report.loss)},
                                        {"targets", report.num_targets},
                                        {"sequences", report.num_sequences},
                                        {"sequence_length", report.sequence_length},
                                        {"dtype", to_string(report.dtype)},
                                        {"device",
                                         {{"kind", name_of(report.device.kind)}, {"name", device_name(report.device)}}},
                                        {"step", checkpoint.state().step},
                                        {"checkpoint", args.checkpoint},
                                        {"tokens", args.request.tokens}}
                     .dump(2)
              << "\n";
  else
    std::cout << "loss: " << std::setprecision(10) << report.loss << " nats/token over " << report.num_targets
              << " targets, " << report.num_sequences << (report.num_sequences == 1 ? " sequence" : " sequences")
              << " of " << report.sequence_length << " tokens"
              << ", in " << to_string(report.dtype) << "\n";
  return 0;
}

}  // namespace

void add_eval(CLI::App& app, Action& action) {
  CLI::App* command =
      app.add_subcommand("eval", "Loss of a checkpoint on a token file; logits, gradients and routing on request");
  auto args = std::make_shared<EvalArguments>();
  EvalRequest& request = args->request;
  command->add_option("--checkpoint", args->checkpoint, "Checkpoint folder")->required()->type_name("CKPT");
  command->add_option("--tokens", request.tokens, "Token file: llm.c .bin, or Megatron .bin with .idx")
      ->required()
      ->type_name("FILE.bin");
  command->add_option("--sequences", request.sequences, "Only the first N sequences of the file (default: all)")
      ->check(positive())
      ->type_name("N");
  command
      ->add_option("--sequence_length", args->sequence_length,
                   "Tokens of a sequence (default: train.sequence_length of the checkpoint's config)")
      ->check(positive())
      ->type_name("S");
  command->add_option("--logits", request.logits, "Write logits [B, S, V] there")->type_name("OUT.safetensors");
  command
      ->add_option("--gradients", request.gradients,
                   "Write the gradient of every parameter there; one pass over all sequences, so its memory grows with "
                   "--sequences")
      ->type_name("OUT.safetensors");
  command->add_option("--routing", request.routing, "Write each token's experts and their weights there")
      ->type_name("OUT.safetensors");
  command
      ->add_option("--set", args->sets,
                   "Override a field of the checkpoint's config, e.g. train.dtype=F64 (repeatable)")
      ->type_name("PATH=VALUE")
      ->expected(1)
      ->take_all();
  command->add_flag("--json", args->json, "Print one JSON document");
  command->footer(
      "Computes in the dtype of the run (--set train.dtype=F32: in F32), on a GPU where there is one\n"
      "(--set parallel.device=CPU: on the CPU).");
  command->callback([args, &action] { action = [args] { return run_eval(*args); }; });
}

}  // namespace weft::tools
