// tests/parallel/mpi/train_gpu_test.cpp - whole runs of MPI ranks that share a GPU: the CPU's numbers, their own bits.
#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "parallel/train/run_device.h"
#include "tests/support/catch.h"
#include "tests/support/gates.h"
#include "tests/support/mpi_world.h"
#include "tests/support/skip.h"
#include "tests/support/training.h"

namespace weft::test {
namespace {

using namespace parallel;

/// Rank 0's path, on every rank.
std::filesystem::path shared_path(comm::Communicator& world, const std::filesystem::path& path) {
  std::vector<std::int32_t> letters(256);
  const std::string text = path.string();
  std::copy(text.begin(), text.end(), letters.begin());
  world.broadcast(comm::as_buffer(letters.data(), 256), 0, *make_inline_stream());
  return std::string(letters.begin(), std::find(letters.begin(), letters.end(), 0));
}

/// Relative; huge where there is nothing to compare.
double worst(const std::vector<double>& a, const std::vector<double>& b) {
  double out = a.empty() || a.size() != b.size() ? HUGE_VAL : 0.0;
  for (std::size_t i = 0; i < std::min(a.size(), b.size()); ++i)
    out = std::max(out, std::abs(a[i] - b[i]) / std::abs(b[i]));
  return out;
}

struct Layout {
  const char* name;
  int expert, expert_shard;
  bool zero;
  ExecutorChoice executor;
  int heads = 1, ring = 1;  ///< Sequences that ranks share.
  std::string gate = "softmax_top_k";
};

std::vector<Layout> layouts_of(int ranks) {
  std::vector<Layout> out{{"EP", ranks, 1, true, ExecutorChoice::kInline},
                          {"ESP", 1, ranks, true, ExecutorChoice::kStreams},
                          {"data parallel, no ZeRO", 1, 1, false, ExecutorChoice::kInline}};
  if (ranks % 2 == 0) {
    out.push_back({"EP and ESP", ranks / 2, 2, true, ExecutorChoice::kStreams});
    out.push_back({"heads and ring, capacity", 2, 1, true, ExecutorChoice::kInline, 2, ranks / 2});
    out.push_back({"ring, expert choice", 1, 1, true, ExecutorChoice::kStreams, 1, 2, "expert_choice"});
  }
  return out;
}

/// Twelve sequences a step and twelve experts go to two, three or four ranks alike.
RunConfig run_of(const std::filesystem::path& folder, const Layout& layout) {
  RunConfig config = tiny_run(folder);
  config.model.moe.experts = 12;
  config.train.global_batch = 12;
  config.train.steps = 4;
  config.train.validate_every = 2;
  config.train.validate_sequences = 12;
  config.checkpoint.every = 2;
  config.parallel.expert = layout.expert;
  config.parallel.expert_shard = layout.expert_shard;
  config.parallel.zero = layout.zero;
  config.parallel.sequence_heads = layout.heads;
  config.parallel.sequence_ring = layout.ring;
  config.schedule.executor = layout.executor;
  choose_gate(config.model, layout.gate);
  if (layout.heads > 1) config.model.moe.capacity_factor = 0.75;
  return config;
}

TEST_CASE("runs of MPI ranks that share a GPU have the CPU's losses, and their own bits again", "[train]") {
  if (!is_available(DeviceKind::kCuda)) WEFT_SKIP(why_unavailable(DeviceKind::kCuda));
  check_on_mpi_ranks([&](comm::Communicator& world, Findings& findings) {
    const TempFolder mine;
    const std::filesystem::path folder = shared_path(world, mine.path());
    for (const Layout& layout : layouts_of(world.size())) {
      RunConfig config = run_of(mine.path(), layout);
      const auto run = [&](const std::string& name, DeviceChoice device, int stop_before) {
        config.parallel.device = device;
        train_here(config, world,
                   {.run_dir = folder / (layout.name + name),
                    .stop_before_step = stop_before,
                    .device = run_device(config, world)});
        comm::barrier(world, *make_inline_stream());  // rank 0 has written all
        return folder / (layout.name + name);
      };
      const auto cpu = run("cpu", DeviceChoice::kCpu, 0), gpu = run("gpu", DeviceChoice::kCuda, 0);
      for (const char* key : {"loss", "grad_norm", "val_loss", "aux_loss", "z_loss"}) {
        const double difference = worst(metric(gpu, key), metric(cpu, key));
        findings.expect(difference <= 1e-10, layout.name, ": ", key, " differs by ", difference);
      }
      findings.expect(timeless_metrics(gpu) == timeless_metrics(run("again", DeviceChoice::kCuda, 0)), layout.name,
                      ": an equal run has other bits");
      static_cast<void>(run("stopped", DeviceChoice::kCuda, 3));
      findings.expect(timeless_metrics(gpu) == timeless_metrics(run("stopped", DeviceChoice::kCuda, 0)), layout.name,
                      ": a resumed run has other bits");
    }
  });
}

}  // namespace
}  // namespace weft::test
