#include "parallel/train/probe_links.h"

#include <algorithm>
#include <chrono>
#include <exception>
#include <functional>
#include <memory>

#include "kernels/gemm.h"
#include "parallel/train/collective_probe.h"
#include "scheduler/order.h"
#include "scheduler/stream_executor.h"

namespace weft::parallel {
namespace {

using scheduler::LinkClass;
using scheduler::Resource;
using scheduler::WorkKind;

struct Group {
  comm::Communicator* comm;
  LinkClass link;
};

/// The groups of the mesh with more than one rank, each kind of group once.
std::vector<Group> groups_of(const MeshComms& comms, const Mesh& mesh) {
  const struct {
    comm::Communicator* comm;
    int stride;
  } all[] = {{&comms.world(), 1},
             {&comms.ep(), mesh.esp_size},
             {&comms.esp(), 1},
             {&comms.experts(), 1},
             {&comms.edp(), mesh.ep_size * mesh.esp_size},
             {&comms.heads(), 1},
             {&comms.ring(), mesh.sequence_heads}};
  std::vector<Group> out;
  for (const auto& [group, stride] : all) {
    if (group->size() == 1) continue;
    const bool crosses = mesh.crosses_nodes(group->size(), stride);
    out.push_back({group, !crosses                        ? LinkClass::kIntra
                          : stride >= mesh.ranks_per_node ? LinkClass::kInter
                                                          : LinkClass::kBoth});
  }
  return out;
}

/// Something that keeps one stream busy, piece by piece, alike on all ranks.
struct Load {
  std::function<void()> piece;
  std::unique_ptr<Stream> stream;  ///< As in a step: a thread that the system treats as it treats that stream's.
  int pieces = 1;
  /// Starts; `us` is there once the stream is synchronised.
  void start(double& us, int times = 1) const {
    stream->enqueue([this, &us, times] {
      const auto start = std::chrono::steady_clock::now();
      for (int i = 0; i < times * pieces; ++i) piece();
      us = std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start).count();
    });
  }
  [[nodiscard]] double run() const {
    double us = 0.0;
    start(us);
    stream->synchronize();
    return us;
  }
};

constexpr double kLoadUs = 70e3;  // several time slices of the operating system
constexpr int kBackground = 3;    // how much longer than alone the other one of a pair runs: it has to outlast

/// Time alone, the mean over ranks.
double run_alone(comm::Communicator& world, const Load& load) {
  std::vector<double> time{load.run()};
  agree(world, time, comm::ReduceOp::kSum);
  return time[0] / world.size();
}

/// As many pieces as make up kLoadUs, the same on all ranks.
int pieces_of(comm::Communicator& world, Load& load) {
  load.pieces = 3;
  static_cast<void>(load.run());  // the first ones are slow
  std::vector<double> time{load.run()};
  agree(world, time);
  return std::clamp(static_cast<int>(kLoadUs / std::max(1.0, time[0] / load.pieces)), 3, 10'000);
}

/// The slow-down of `load` while `other` runs all the time, at most kBackground of it.
double slowed_by(comm::Communicator& world, const Load& load, const Load& other, double alone_us) {
  std::vector<double> times(2);
  other.start(times[1], kBackground);
  load.start(times[0]);
  std::exception_ptr error;
  for (const Load* each : {&load, &other}) {
    try {
      each->stream->synchronize();
    } catch (...) {
      if (!error) error = std::current_exception();
    }
  }
  if (error) std::rethrow_exception(error);
  times.resize(1);
  agree(world, times, comm::ReduceOp::kSum);
  return std::max(1.0, times[0] / world.size() / alone_us);
}

scheduler::TaskSample time_collective(const Group& group, WorkKind kind, double bytes, comm::Communicator& world,
                                      const ProbeClock& clock, int repeats) {
  const auto stream = make_inline_stream();
  CollectiveProbe collective(*group.comm, kind, bytes);
  collective.run(*stream);
  std::vector<double> starts, ends;
  for (int i = 0; i < repeats; ++i) {
    comm::barrier(world, *stream);
    starts.push_back(clock.now_us());
    collective.run(*stream);
    ends.push_back(clock.now_us());
  }
  agree(world, starts);
  agree(world, ends);
  for (std::size_t i = 0; i < ends.size(); ++i) ends[i] -= starts[i];
  scheduler::FamilyKey key;
  key.work = kind;
  key.link = group.link;
  return {key, scheduler::Sample{1.0, collective.wire_bytes(), scheduler::quantile(ends, 0.25)}};
}

}  // namespace

std::vector<scheduler::TaskSample> probe_collectives(const MeshComms& comms, const Mesh& mesh, const ProbeClock& clock,
                                                     int repeats, double time_limit_s) {
  constexpr double kSmallest = 1 << 10, kLargest = 4 << 20, kFactor = 4;
  constexpr double kAlways = 64 << 10;  // four sizes
  std::vector<scheduler::TaskSample> out;
  const double start = clock.now_us();
  for (double bytes = kSmallest; bytes <= kLargest; bytes *= kFactor) {
    const double size_start = clock.now_us();
    for (const Group& group : groups_of(comms, mesh))
      for (const WorkKind kind : {WorkKind::kAllToAll, WorkKind::kAllGather, WorkKind::kReduceScatter,
                                  WorkKind::kAllReduce, WorkKind::kSendRecv})
        out.push_back(time_collective(group, kind, bytes, comms.world(), clock, repeats));
    const double now = clock.now_us();
    std::vector<double> after_next{now - start + kFactor * (now - size_start)};
    agree(comms.world(), after_next);
    if (bytes >= kAlways && after_next[0] > 1e6 * time_limit_s) break;
  }
  return out;
}

std::array<std::array<double, 3>, 3> probe_contention(comm::Communicator& world, const Mesh& mesh, std::int64_t width,
                                                      std::int64_t hidden, int rounds) {
  std::array<std::array<double, 3>, 3> out{};
  for (auto& row : out) row.fill(1.0);
  const int node = world.rank() / mesh.ranks_per_node, local = world.rank() % mesh.ranks_per_node;
  const auto intra = world.split(node, local, "node"), inter = world.split(local, node, "across");
  constexpr std::int64_t kRows = 128;
  std::vector<float> x(static_cast<std::size_t>(kRows * width), 0.5F), y(static_cast<std::size_t>(kRows * hidden)),
      w(static_cast<std::size_t>(width * hidden), 0.25F);
  constexpr double kBytes = 1 << 20;  // about what a chunk of a step sends; short ones wait more than they move
  std::array<Load, 3> loads;
  loads[0].stream = make_stream({}, "compute");
  loads[1].stream = make_stream({}, "intra", StreamPriority::kHigh);
  loads[2].stream = make_stream({}, "inter", StreamPriority::kHigh);
  loads[0].piece = [&] {
    kernels::gemm<float>(*loads[0].stream, {y.data(), kRows, hidden}, Matrix<const float>(x.data(), kRows, width),
                         kernels::Transpose::kNo, Matrix<const float>(w.data(), hidden, width),
                         kernels::Transpose::kYes);
  };
  std::unique_ptr<CollectiveProbe> links[3];
  for (const int i : {1, 2}) {
    comm::Communicator& group = i == 1 ? *intra : *inter;
    if (group.size() == 1) continue;
    links[i] = std::make_unique<CollectiveProbe>(group, WorkKind::kAllToAll, kBytes);
    loads[static_cast<std::size_t>(i)].piece = [&, i] { links[i]->run(*loads[static_cast<std::size_t>(i)].stream); };
  }
  const auto stream = make_inline_stream();
  const auto barrier = [&] { comm::barrier(world, *stream); };
  for (Load& load : loads)
    if (load.piece) load.pieces = pieces_of(world, load);
  // Alone and in pairs by turns: what disturbs the machine for a while disturbs both sides of a ratio.
  std::array<std::array<std::vector<double>, 3>, 3> factors;
  for (int round = 0; round < rounds; ++round) {
    std::array<double, 3> alone{};
    for (std::size_t i = 0; i < 3; ++i) {
      barrier();
      if (loads[i].piece) alone[i] = run_alone(world, loads[i]);
    }
    for (std::size_t i = 0; i < 3; ++i)
      for (std::size_t j = 0; j < 3; ++j) {
        if (i == j || !loads[i].piece || !loads[j].piece) continue;
        barrier();
        factors[i][j].push_back(slowed_by(world, loads[i], loads[j], alone[i]));
      }
  }
  for (std::size_t i = 0; i < 3; ++i)
    for (std::size_t j = 0; j < 3; ++j)
      if (!factors[i][j].empty()) out[i][j] = scheduler::quantile(factors[i][j], 0.5);
  return out;
}

double probe_issue_us(comm::Communicator& world) {
  constexpr int kTasks = 2000;
  scheduler::GraphBuilder builder;
  const scheduler::BufferId token = builder.add_buffer({"token", scheduler::MemoryClass::kWorkspace, 8, false, true});
  for (int t = 0; t < kTasks; ++t) {
    scheduler::TaskSpec spec;
    spec.resources = {t % 4 == 0 ? Resource::kIntra : Resource::kCompute};
    builder.add_task(spec, {}, t % 2 == 0 ? std::vector{token} : std::vector<scheduler::BufferId>{});
  }
  const scheduler::Graph graph = builder.take();
  const scheduler::Plan plan = scheduler::sequential_plan(graph, {});
  const scheduler::SlotMap slots = scheduler::assign_slots(graph, plan);
  scheduler::Arena arena({}, graph, slots);
  scheduler::StreamExecutor executor({}, graph, plan, slots);
  const std::vector<scheduler::TaskBody> bodies(kTasks, [](scheduler::TaskContext&) {});
  const auto stream = make_inline_stream();
  std::vector<double> times;
  for (int i = 0; i < 5; ++i) {
    comm::barrier(world, *stream);
    times.push_back(executor.run(bodies, arena).total_us / kTasks);
  }
  agree(world, times, comm::ReduceOp::kSum);
  return scheduler::quantile(times, 0.5) / world.size();
}

}  // namespace weft::parallel
