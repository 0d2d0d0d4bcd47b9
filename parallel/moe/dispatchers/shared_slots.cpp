// parallel/moe/dispatchers/shared_slots.cpp - slots that are mixtures of the tokens of several ranks (SP of them).
// Each rank has its own tokens' part of every slot. Parts are added up at the rank that sends the slot to its expert,
// the one that owns the expert's column of the table; what comes back goes to all, whose tokens mix it. Each direction
// is the adjoint of the other, so gradients take the same ways.
#include "comm/communicator.h"
#include "parallel/moe/dispatchers/hops.h"

namespace weft::parallel {
namespace {

HopInfo slot_info(const Mesh& mesh, Direction direction, const scheduler::ResourceSet& links) {
  HopInfo info;
  info.stage = scheduler::Stage::kSequenceExchange;
  info.label = "slots";
  info.resources = links;
  info.kind =
      direction == Direction::kToExperts ? scheduler::WorkKind::kReduceScatter : scheduler::WorkKind::kAllGather;
  info.wire_rows = mesh.sp_size() - 1;
  info.operations = mesh.sp_size() - 1;
  return info;
}

/// Table order, by expert and slot, on all ranks; send order on the owners: the owner's experts stand together.
template <class T>
class SlotHop final : public Hop<T> {
 public:
  SlotHop(const Mesh& mesh, int experts, Direction direction, const scheduler::ResourceSet& links)
      : Hop<T>(slot_info(mesh, direction, links)),
        owners_(chunk_cuts(experts, mesh.sp_size())),
        there_(direction == Direction::kToExperts) {}
  [[nodiscard]] std::int64_t rows_in(const ChunkRows& rows) const override {
    return there_ ? rows.num_order : rows.num_send;
  }
  [[nodiscard]] std::int64_t rows_out(const ChunkRows& rows) const override {
    return there_ ? rows.num_send : rows.num_order;
  }
  void run(Stream& stream, const MeshComms& comms, const ChunkRows& rows, T* to, const T* from,
           std::int64_t width) const override {
    const std::int64_t slots = rows.num_order / owners_.back();  // of an expert
    std::vector<std::int64_t> counts;
    for (std::size_t r = 0; r + 1 < owners_.size(); ++r)
      counts.push_back((owners_[r + 1] - owners_[r]) * slots * width);
    const auto send = comm::as_buffer(from, rows_in(rows) * width);
    const auto recv = comm::as_buffer(to, rows_out(rows) * width);
    if (there_)
      comms.sp().reduce_scatter_v(send, recv, counts, comm::ReduceOp::kSum, stream);
    else
      comms.sp().all_gather_v(send, recv, counts, stream);
  }

 private:
  std::vector<std::int64_t> owners_;  ///< [SP + 1] experts where each rank's begin.
  bool there_;
};

}  // namespace

template <class T>
std::shared_ptr<const Hop<T>> shared_slot_hop(const Mesh& mesh, int experts, Direction direction,
                                              const scheduler::ResourceSet& links) {
  return std::make_shared<SlotHop<T>>(mesh, experts, direction, links);
}

template std::shared_ptr<const Hop<float>> shared_slot_hop(const Mesh&, int, Direction, const scheduler::ResourceSet&);
template std::shared_ptr<const Hop<double>> shared_slot_hop(const Mesh&, int, Direction, const scheduler::ResourceSet&);
template std::shared_ptr<const Hop<BF16>> shared_slot_hop(const Mesh&, int, Direction, const scheduler::ResourceSet&);

}  // namespace weft::parallel
