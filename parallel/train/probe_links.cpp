#include "parallel/train/probe_links.h"

#include <algorithm>
#include <memory>

#include "core/bf16.h"
#include "core/stream_clock.h"
#include "parallel/train/collective_probe.h"
#include "parallel/train/probe_load.h"
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

/// How much longer than alone the other one of a pair runs: it has to outlast.
constexpr int kBackground = 3;

/// The slow-down of `load` while `other` runs all the time, at most kBackground of it.
double slowed_by(comm::Communicator& world, const Load& load, const Load& other, double alone_us) {
  constexpr int kTurns = 10;  // NCCL starts kernels of groups that share a GPU in the order in which they are launched
  load.clock->start();
  for (int turn = 0; turn < kBackground * kTurns; ++turn) {
    other.launch(turn, kBackground * kTurns, kBackground * other.pieces);
    if (turn < kTurns) load.launch(turn, kTurns, load.pieces);
  }
  synchronize(load, other);
  std::vector<double> time{load.us()};
  agree(world, time, comm::ReduceOp::kSum);
  return std::max(1.0, time[0] / world.size() / alone_us);
}

/// Microseconds of each of `repeats`, by the wall clock, from when the last rank had entered until the last was done.
std::vector<double> time_blocking(CollectiveProbe& collective, comm::Communicator& world, const ProbeClock& clock,
                                  int repeats) {
  const auto stream = make_inline_stream();
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
  return ends;
}

/// The same of collectives that are launched, one behind the other, by the device's clock: of the rank that came last.
std::vector<double> time_launched(CollectiveProbe& collective, comm::Communicator& world, Device device, int repeats) {
  const auto stream = make_stream(device, "collective", StreamPriority::kHigh);  // as a step has it
  const auto clock = make_stream_clock(device, static_cast<std::size_t>(repeats) + 1);
  comm::barrier(world, *make_inline_stream());
  clock->start();
  stream->enqueue([&] { collective.run(*stream); });  // warms up
  for (std::size_t i = 0; i <= static_cast<std::size_t>(repeats); ++i)
    stream->enqueue([&, i] {
      clock->note(i, *stream);
      if (i < static_cast<std::size_t>(repeats)) collective.run(*stream);
    });
  stream->synchronize();
  std::vector<double> us;
  for (std::size_t i = 0; i < static_cast<std::size_t>(repeats); ++i) us.push_back(clock->us(i + 1) - clock->us(i));
  agree_on_least(world, us);
  return us;
}

scheduler::TaskSample time_collective(const Group& group, WorkKind kind, double bytes, comm::Communicator& world,
                                      const ProbeClock& clock, int repeats, Device device) {
  CollectiveProbe collective(*group.comm, kind, bytes, device);
  const std::vector<double> us = device.kind == DeviceKind::kCpu ? time_blocking(collective, world, clock, repeats)
                                                                 : time_launched(collective, world, device, repeats);
  scheduler::FamilyKey key;
  key.work = kind;
  key.link = group.link;
  return {key, scheduler::Sample{1.0, collective.wire_bytes(), scheduler::quantile(us, 0.25)}};
}

}  // namespace

std::vector<scheduler::TaskSample> probe_collectives(const MeshComms& comms, const Mesh& mesh, const ProbeClock& clock,
                                                     int repeats, double time_limit_s, Device device) {
  constexpr double kSmallest = 1 << 10, kLargest = 4 << 20, kFactor = 4;
  constexpr double kAlways = 64 << 10;  // four sizes
  std::vector<scheduler::TaskSample> out;
  const double start = clock.now_us();
  for (double bytes = kSmallest; bytes <= kLargest; bytes *= kFactor) {
    const double size_start = clock.now_us();
    for (const Group& group : groups_of(comms, mesh))
      for (const WorkKind kind : {WorkKind::kAllToAll, WorkKind::kAllGather, WorkKind::kReduceScatter,
                                  WorkKind::kAllReduce, WorkKind::kSendRecv})
        out.push_back(time_collective(group, kind, bytes, comms.host_world(), clock, repeats, device));
    const double now = clock.now_us();
    std::vector<double> after_next{now - start + kFactor * (now - size_start)};
    agree(comms.host_world(), after_next);
    if (bytes >= kAlways && after_next[0] > 1e6 * time_limit_s) break;
  }
  return out;
}

template <class T>
std::array<std::array<double, 3>, 3> probe_contention(const MeshComms& comms, const Mesh& mesh, std::int64_t width,
                                                      std::int64_t hidden, int rounds, Device device) {
  std::array<std::array<double, 3>, 3> out{};
  for (auto& row : out) row.fill(1.0);
  comm::Communicator& world = comms.host_world();
  const int node = world.rank() / mesh.ranks_per_node, local = world.rank() % mesh.ranks_per_node;
  const auto intra = comms.world().split(node, local, "node"), inter = comms.world().split(local, node, "across");
  const LoadSize size = load_size(device);
  const ExpertProduct<T> product(device, size.rows, width, hidden);
  constexpr double kBytes = 1 << 20;  // about what a chunk of a step sends; short ones wait more than they move
  std::array<Load, 3> loads;
  loads[0].open(device, "compute", StreamPriority::kNormal);
  loads[1].open(device, "intra", StreamPriority::kHigh);
  loads[2].open(device, "inter", StreamPriority::kHigh);
  loads[0].piece = [&] { product.run(*loads[0].stream); };
  std::unique_ptr<CollectiveProbe> links[3];
  for (const int i : {1, 2}) {
    comm::Communicator& group = i == 1 ? *intra : *inter;
    if (group.size() == 1) continue;
    links[i] = std::make_unique<CollectiveProbe>(group, WorkKind::kAllToAll, kBytes, device);
    loads[static_cast<std::size_t>(i)].piece = [&, i] { links[i]->run(*loads[static_cast<std::size_t>(i)].stream); };
  }
  const auto stream = make_inline_stream();
  const auto barrier = [&] { comm::barrier(world, *stream); };
  for (Load& load : loads)
    if (load.piece) load.pieces = pieces_of(world, load, size);
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

template std::array<std::array<double, 3>, 3> probe_contention<float>(const MeshComms&, const Mesh&, std::int64_t,
                                                                      std::int64_t, int, Device);
template std::array<std::array<double, 3>, 3> probe_contention<double>(const MeshComms&, const Mesh&, std::int64_t,
                                                                       std::int64_t, int, Device);
template std::array<std::array<double, 3>, 3> probe_contention<BF16>(const MeshComms&, const Mesh&, std::int64_t,
                                                                     std::int64_t, int, Device);

double probe_issue_us(comm::Communicator& world, Device device) {
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
  scheduler::Arena arena(device, graph, slots);
  scheduler::StreamExecutor executor(device, graph, plan, slots);
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
