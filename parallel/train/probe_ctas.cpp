#include "parallel/train/probe_ctas.h"

#include <algorithm>
#include <memory>

#include "comm/cost.h"
#include "comm/for_device.h"
#include "core/bf16.h"
#include "parallel/train/collective_probe.h"
#include "parallel/train/probe_clock.h"
#include "parallel/train/probe_load.h"
#include "scheduler/fit.h"

namespace weft::parallel {
namespace {

using scheduler::CtaSample;
using scheduler::LinkClass;

/// Time until both are done, in turns of a piece of each, the mean over ranks.
double run_together(comm::Communicator& world, const Load& a, const Load& b, Device device) {
  const auto clock = make_stream_clock(device, 4);
  const auto note = [&](std::size_t point, const Load& load) {
    load.stream->enqueue([&, point] { clock->note(point, *load.stream); });
  };
  clock->start();
  note(0, a);
  note(1, b);
  for (int i = 0; i < a.pieces; ++i) {
    a.stream->enqueue([&] { a.piece(); });
    b.stream->enqueue([&] { b.piece(); });
  }
  note(2, a);
  note(3, b);
  synchronize(a, b);
  std::vector<double> time{std::max(clock->us(2), clock->us(3)) - std::min(clock->us(0), clock->us(1))};
  agree(world, time, comm::ReduceOp::kSum);
  return time[0] / world.size();
}

/// Of one group on every rank, per chunk; link and budget are left open.
template <class T>
CtaSample measure(comm::Communicator& world, comm::Communicator& group, const ExpertSize& expert, int rounds,
                  Device device) {
  LoadSize size = load_size(device);
  size.most_pieces /= expert.products + 2;  // a piece is that many launches
  const ExpertProduct<T> product(device, size.rows, expert.width, expert.hidden);
  const double bytes = static_cast<double>(size.rows * expert.width) * sizeof(T);
  CollectiveProbe rows(group, scheduler::WorkKind::kAllToAll,
                       comm::wire_bytes(comm::Collective::kAllToAll, group.size(), bytes), device);
  Load experts, exchange;
  experts.open(device, "compute", StreamPriority::kNormal);
  exchange.open(device, "exchange", StreamPriority::kHigh);
  experts.piece = [&] {
    for (int i = 0; i < expert.products; ++i) product.run(*experts.stream);
  };
  exchange.piece = [&] {
    for (int i = 0; i < 2; ++i) rows.run(*exchange.stream);
  };
  const int pieces = std::min(pieces_of(world, experts, size), pieces_of(world, exchange, size));
  experts.pieces = exchange.pieces = pieces;
  std::vector<double> collective_us, product_us, overlapped_us;
  const auto stream = make_inline_stream();
  const auto add = [&](std::vector<double>& to, const auto& run) {
    comm::barrier(world, *stream);
    to.push_back(run() / pieces);
  };
  for (int round = 0; round < rounds; ++round) {
    add(product_us, [&] { return run_alone(world, experts); });
    add(collective_us, [&] { return run_alone(world, exchange); });
    add(overlapped_us, [&] { return run_together(world, exchange, experts, device); });
  }
  CtaSample out;
  out.collective_us = scheduler::quantile(collective_us, 0.5);
  out.product_us = scheduler::quantile(product_us, 0.5);
  out.overlapped_us = scheduler::quantile(overlapped_us, 0.5);
  return out;
}

}  // namespace

template <class T>
std::vector<CtaSample> probe_ctas(comm::Communicator& world, int ranks_per_node, const ExpertSize& expert, int rounds,
                                  Device device) {
  std::vector<CtaSample> out;
  const int node = world.rank() / ranks_per_node, local = world.rank() % ranks_per_node;
  for (const int ctas : {0, 2, 4, 8, 16, 32}) {
    const auto all = comm::for_device(world, device, {.transport = comm::Transport::kNccl, .ctas = {ctas, ctas}});
    for (const LinkClass link : {LinkClass::kIntra, LinkClass::kInter}) {
      const auto group =
          link == LinkClass::kIntra ? all->split(node, local, "node") : all->split(local, node, "across");
      if (group->size() == 1) continue;
      out.push_back(measure<T>(world, *group, expert, rounds, device));
      out.back().link = link;
      out.back().ctas = ctas;
    }
  }
  return out;
}

template std::vector<CtaSample> probe_ctas<float>(comm::Communicator&, int, const ExpertSize&, int, Device);
template std::vector<CtaSample> probe_ctas<double>(comm::Communicator&, int, const ExpertSize&, int, Device);
template std::vector<CtaSample> probe_ctas<BF16>(comm::Communicator&, int, const ExpertSize&, int, Device);

}  // namespace weft::parallel
