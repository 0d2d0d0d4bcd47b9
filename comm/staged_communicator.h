// comm/staged_communicator.h - collectives on memory of a GPU that go through host memory and a host backend: for ranks
// that share a GPU, which NCCL refuses, and for machines without NCCL.
#pragma once

#include <cstdint>
#include <memory>

#include "comm/communicator.h"
#include "core/device.h"

namespace weft::comm {

/// The ranks of `host` over memory of `device`, a GPU. A collective copies to pinned memory in stream order; a thread
/// of the group waits for that and runs the host's collective; the stream goes on, with the copy back, when that is
/// done. Nobody who enqueues is held up, and no callback of CUDA blocks. Long all-reduces, all-gathers, reduce-scatters
/// and broadcasts go in pieces, so that copies and transfer overlap; what each pair of ranks agrees on alone
/// (all_to_all_v, send_recv) goes in one. Reductions are the host's, to the bit. Errors of the host's collective reach
/// the stream. Pinned memory grows to what the two largest collectives hold, and stays. `piece_bytes`: of a long
/// collective's largest buffer; equal on all ranks, as children of a split have it, too.
[[nodiscard]] std::unique_ptr<Communicator> make_staged_communicator(std::shared_ptr<Communicator> host, Device device,
                                                                     std::int64_t piece_bytes = std::int64_t{4} << 20);

}  // namespace weft::comm
