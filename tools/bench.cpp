// tools/bench.cpp - weft bench
#include <CLI/CLI.hpp>
#include <memory>

#include "tools/bench/bench_collectives.h"
#include "tools/bench/bench_device.h"
#include "tools/bench/bench_kernels.h"
#include "tools/bench/bench_observability.h"
#include "tools/bench/bench_policies.h"
#include "tools/bench/bench_schedule.h"
#include "tools/bench/bench_train.h"
#include "tools/command.h"
#include "tools/number_checks.h"

namespace weft::tools {
namespace {

void add_simulator(CLI::App& bench, Action& action) {
  CLI::App* command = bench.add_subcommand("simulate", "The simulator: steps of 10k, 100k and 1M made-up tasks");
  auto as_json = std::make_shared<bool>(false);
  command->add_flag("--json", *as_json, "Print one JSON document");
  command->callback([as_json, &action] { action = [as_json] { return bench_simulate(*as_json); }; });
}

void add_planning(CLI::App& bench, Action& action) {
  CLI::App* command = bench.add_subcommand("plan", "Planning: steps of 8 to 64 layers with 8 micro-batches");
  auto as_json = std::make_shared<bool>(false);
  command->add_flag("--json", *as_json, "Print one JSON document");
  command->callback([as_json, &action] { action = [as_json] { return bench_plan(*as_json); }; });
}

void add_executors(CLI::App& bench, Action& action) {
  struct Arguments {
    int tasks = 10'000, runs = 9;
    bool json = false;
  };
  CLI::App* command = bench.add_subcommand("executors", "What executing a task costs beyond its work");
  auto o = std::make_shared<Arguments>();
  command->add_option("--tasks", o->tasks, "Tasks of the step")->capture_default_str()->check(positive());
  command->add_option("--runs", o->runs, "Runs to take the median of")->capture_default_str()->check(positive());
  command->add_flag("--json", o->json, "Print one JSON document");
  command->callback([o, &action] { action = [o] { return bench_executors(o->tasks, o->runs, o->json); }; });
}

void add_collective(CLI::App& bench, const char* name, scheduler::WorkKind kind, Action& action) {
  CLI::App* command = bench.add_subcommand(
      name, "Bus bandwidth (as nccl-tests define it) and CPU time of a collective, per class of links; run by mpirun");
  auto o = std::make_shared<BenchCollectiveOptions>();
  auto as_json = std::make_shared<bool>(false);
  o->kind = kind;
  command->add_option("--min_bytes", o->min_bytes, "Smallest buffer of a rank; sizes grow by 4")
      ->capture_default_str()
      ->check(positive());
  command->add_option("--max_bytes", o->max_bytes, "Largest buffer of a rank")
      ->capture_default_str()
      ->check(positive());
  add_device_option(*command, o->device);
  command->add_option("--repeats", o->repeats, "Runs of each size; the median is shown")
      ->capture_default_str()
      ->check(positive());
  command->add_flag("--compute", o->compute,
                    "Every rank multiplies matrices meanwhile, on another thread or stream; shows what is left of that "
                    "rate");
  command->add_flag("--json", *as_json, "Print one JSON document");
  command->footer(
      "Run it under mpirun or scripts/vcluster. Links: intra, the ranks of a node; inter, one rank of each node; both, "
      "all\n"
      "ranks. Algorithm MB/s: the buffer's bytes over the time. Bus MB/s: what a rank has to send over the time, to be "
      "held\n"
      "against the rate of its link. Cores per rank: CPU time over wall time. Compute rate left (--compute): what is\n"
      "multiplied meanwhile, over what is alone. On GPUs the buffers lie there, and times are the GPU's.");
  command->callback([o, as_json, &action] { action = [o, as_json] { return bench_collective(*o, *as_json); }; });
}

void add_dtype_option(CLI::App& command, std::string& dtype) {
  command.add_option("--dtype", dtype, "Type of the elements")
      ->capture_default_str()
      ->check(CLI::IsMember({"F32", "F64", "BF16"}));
}

void add_kernels(CLI::App& bench, Action& action) {
  CLI::App* command = bench.add_subcommand(
      "kernels", "The kernels of a step against what its device can do: bytes at a copy's rate, FLOPs at a product's");
  auto o = std::make_shared<BenchKernelsOptions>();
  auto as_json = std::make_shared<bool>(false);
  add_device_option(*command, o->device);
  add_dtype_option(*command, o->dtype);
  command->add_option("--tokens", o->tokens, "Tokens; default: 512 on the CPU, 8192 on a GPU")->check(positive());
  const auto number = [&](const char* name, std::int64_t& value, const char* text) {
    command->add_option(name, value, text)->capture_default_str()->check(positive());
  };
  number("--model_dim", o->model_dim, "Model width, a multiple of --head_dim");
  number("--expert_hidden_dim", o->expert_hidden_dim, "Expert hidden width");
  number("--experts", o->experts, "Experts");
  number("--top_k", o->top_k, "Choices per token");
  number("--head_dim", o->head_dim, "Width of an attention head");
  number("--sequence_length", o->sequence_length, "Tokens of a sequence");
  number("--vocab_size", o->vocab_size, "Vocabulary");
  command->add_option("--repeats", o->repeats, "Measurements of each; the median is shown")
      ->capture_default_str()
      ->check(positive());
  command->add_flag("--json", *as_json, "Print one JSON document");
  command->callback([o, as_json, &action] { action = [o, as_json] { return bench_kernels(*o, *as_json); }; });
}

void add_policies(CLI::App& bench, Action& action) {
  CLI::App* command = bench.add_subcommand(
      "policies",
      "Train the same steps under every policy in turn, and compare times, predictions, overlap and losses");
  auto o = std::make_shared<BenchPoliciesOptions>();
  auto as_json = std::make_shared<bool>(false);
  command->add_option("config", o->config, "Config file (protobuf text format)")->required();
  command->add_option("--set", o->sets, "Override a field: path.to.field=value (repeatable)")->type_name("PATH=VALUE");
  add_device_option(*command, o->device);
  command->add_option("--policy", o->policy, "Policies, with commas between, or all")->capture_default_str();
  command->add_option("--rounds", o->rounds, "Measured steps of each policy")->capture_default_str()->check(positive());
  command->add_option("--warmup", o->warmup, "Steps of each before them")->capture_default_str()->check(not_negative());
  command->add_option("--profile", o->profile,
                      "Costs to plan with; default: schedule.profile, or measured on these ranks first");
  command->add_option("--profile_out", o->profile_out, "Keep the measured costs here (configs/cluster.proto)");
  command->add_option("--trace", o->trace_dir, "Folder for a trace of each policy's last step, measured and simulated");
  command->add_flag("--json", *as_json, "Print one JSON document");
  command->footer("Run it as training is run: mpirun -n 4 weft bench policies CONFIG, or under scripts/vcluster.");
  command->callback([o, as_json, &action] { action = [o, as_json] { return bench_policies(*o, *as_json); }; });
}

void add_observability(CLI::App& bench, Action& action) {
  CLI::App* command = bench.add_subcommand(
      "observability", "What recording a run (metrics, router, TensorBoard, Prometheus) adds to its steps");
  auto o = std::make_shared<BenchObservabilityOptions>();
  auto as_json = std::make_shared<bool>(false);
  command->add_option("config", o->config, "Config file (protobuf text format)")->required();
  command->add_option("--set", o->sets, "Override a field: path.to.field=value (repeatable)")->type_name("PATH=VALUE");
  add_device_option(*command, o->device);
  command->add_option("--run_dir", o->run_dir, "What is written stays here; emptied first")->capture_default_str();
  command->add_option("--rounds", o->rounds, "Measured steps of each kind")->capture_default_str()->check(positive());
  command->add_flag("--json", *as_json, "Print one JSON document");
  command->footer("Run it as training is run: mpirun -n 4 weft bench observability CONFIG.");
  command->callback([o, as_json, &action] { action = [o, as_json] { return bench_observability(*o, *as_json); }; });
}

void add_train_bench(CLI::App& bench, Action& action) {
  CLI::App* command = bench.add_subcommand(
      "train", "A whole training step on one device against the rate of a large product there, and its launch gap");
  auto o = std::make_shared<BenchTrainOptions>();
  auto as_json = std::make_shared<bool>(false);
  add_device_option(*command, o->device);
  add_dtype_option(*command, o->dtype);
  const auto number = [&](const char* name, int& value, const char* text) {
    command->add_option(name, value, text)->capture_default_str()->check(positive());
  };
  number("--layers", o->layers, "Layers, all MoE");
  number("--model_dim", o->model_dim, "Model width, a multiple of --head_dim");
  number("--head_dim", o->head_dim, "Width of an attention head");
  command->add_option("--kv_heads", o->kv_heads, "Heads of keys and values; default: as many as heads")
      ->check(positive());
  number("--expert_hidden_dim", o->expert_hidden_dim, "Expert hidden width");
  number("--experts", o->experts, "Experts per layer");
  number("--top_k", o->top_k, "Choices per token");
  command->add_option("--capacity_factor", o->capacity_factor, "Capacity of an expert over its fair share; 0: dropless")
      ->capture_default_str()
      ->check(not_negative());
  command->add_flag("--pad_capacity", o->pad_capacity,
                    "Rows travel padded to the capacities: the host of a GPU waits for no counts");
  number("--vocab_size", o->vocab_size, "Vocabulary");
  number("--batch", o->batch, "Sequences of a step");
  number("--sequence_length", o->sequence_length, "Tokens of a sequence");
  number("--steps", o->steps, "Measured steps");
  command->add_option("--gemm_side", o->gemm_side, "Side of the product's matrices; default: 1536, on a GPU 4096")
      ->check(positive());
  command->add_flag("--json", *as_json, "Print one JSON document");
  command->footer(
      "Launch gap: the share of the time from the start of a step's first task to the end of its last, by the "
      "device's\n"
      "clock, in which no stream had a task. On a GPU that is what the host was late by between tasks; that it is "
      "late\n"
      "within one, between two kernels, is part of the task's time.");
  command->callback([o, as_json, &action] { action = [o, as_json] { return bench_train(*o, *as_json); }; });
}

}  // namespace

void add_bench(CLI::App& app, Action& action) {
  CLI::App* bench = app.add_subcommand("bench", "Measure this machine");
  bench->require_subcommand(1);
  add_train_bench(*bench, action);
  add_kernels(*bench, action);
  add_simulator(*bench, action);
  add_executors(*bench, action);
  add_planning(*bench, action);
  add_policies(*bench, action);
  add_observability(*bench, action);
  add_collective(*bench, "alltoall", scheduler::WorkKind::kAllToAll, action);
  add_collective(*bench, "allgather", scheduler::WorkKind::kAllGather, action);
  add_collective(*bench, "reducescatter", scheduler::WorkKind::kReduceScatter, action);
  add_collective(*bench, "allreduce", scheduler::WorkKind::kAllReduce, action);
}

}  // namespace weft::tools
