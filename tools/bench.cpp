// tools/bench.cpp - weft bench
#include <CLI/CLI.hpp>
#include <memory>

#include "tools/bench/bench_train.h"
#include "tools/command.h"

namespace weft::tools {

void add_bench(CLI::App& app, Action& action) {
  CLI::App* bench = app.add_subcommand("bench", "Measure this machine");
  bench->require_subcommand(1);
  CLI::App* command = bench->add_subcommand("train", "A whole training step against the machine's own SGEMM rate");
  auto o = std::make_shared<BenchTrainOptions>();
  auto as_json = std::make_shared<bool>(false);
  command->add_option("--layers", o->layers, "Layers, all MoE")->capture_default_str()->check(CLI::PositiveNumber);
  command->add_option("--model_dim", o->model_dim, "Model width, a multiple of 64")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  command->add_option("--expert_hidden_dim", o->expert_hidden_dim, "Expert hidden width")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  command->add_option("--experts", o->experts, "Experts per layer")->capture_default_str()->check(CLI::PositiveNumber);
  command->add_option("--top_k", o->top_k, "Choices per token")->capture_default_str()->check(CLI::PositiveNumber);
  command->add_option("--vocab_size", o->vocab_size, "Vocabulary")->capture_default_str()->check(CLI::PositiveNumber);
  command->add_option("--batch", o->batch, "Sequences of a step")->capture_default_str()->check(CLI::PositiveNumber);
  command->add_option("--sequence_length", o->sequence_length, "Tokens of a sequence")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  command->add_option("--steps", o->steps, "Measured steps")->capture_default_str()->check(CLI::PositiveNumber);
  command->add_flag("--json", *as_json, "Print one JSON document");
  command->callback([o, as_json, &action] { action = [o, as_json] { return bench_train(*o, *as_json); }; });
}

}  // namespace weft::tools
