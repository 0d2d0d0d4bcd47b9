// parallel/train/probe_links.h - times bare collectives, and what streams do to one another.
#pragma once

#include <array>
#include <vector>

#include "parallel/mesh.h"
#include "parallel/train/probe_clock.h"
#include "scheduler/cost_model.h"

namespace weft::parallel {

/// Collective: all-to-all, all-gather, reduce-scatter, all-reduce and a hop around the ring over each communicator of
/// the mesh, at sizes from 1 KiB to 4 MiB on the wire, each four times the last, all groups at once; 64 KiB in any
/// case, more as long as `time_limit_s` will do for it. A sample per size: the lower quartile of `repeats`, which is
/// near the median but where other work disturbs the machine. The keys hold kind and link class; the rest of them says
/// nothing. `device`: of the groups. On a GPU all repeats are launched at once, so that no launch is in their times,
/// which are the GPU's, of the rank that came last.
[[nodiscard]] std::vector<scheduler::TaskSample> probe_collectives(const MeshComms& comms, const Mesh& mesh,
                                                                   const ProbeClock& clock, int repeats,
                                                                   double time_limit_s, Device device = {});

/// Collective: how much slower two of compute (a product of the expert's size, of Ts), intra (an all-to-all inside the
/// node) and inter (one between nodes) are when they run at once on two streams of every rank's `device`, next to each
/// alone: [whose, by whom], times averaged over ranks, the median of `rounds`; 1 where a link does not exist.
template <class T>
[[nodiscard]] std::array<std::array<double, 3>, 3> probe_contention(const MeshComms& comms, const Mesh& mesh,
                                                                    std::int64_t width, std::int64_t hidden, int rounds,
                                                                    Device device = {});

/// Collective: what a StreamExecutor of `device` adds to an empty task while all ranks of `world`, a group over host
/// memory, are at it. Microseconds.
[[nodiscard]] double probe_issue_us(comm::Communicator& world, Device device = {});

}  // namespace weft::parallel
