// parallel/moe/dispatchers/hierarchical.cpp - dispatchers in hops inside and between nodes. Both only carry rows, so
// the rows arrive in the order of the flat one and all results have its bits.
//
// Ranks of the EP group are (node, lane); rows from source (n, l) to destination (n', l') are block (n, l, n', l').
//   lanes (2DH)    send order [n'][l']  -> inside the node to lane l':  [n'][l]  -> between nodes, same lane:  [n][l]
//   leaders (1DH)  send order [n'][l']  -> inside the node to lane 0:   [n'][l][l']  -> between leaders:  [n][l][l']
//                  -> inside the node to lane l':  [n][l], which is arrival order
// The stride-aligned layouts cost no copies: the messages of a hop read and write their blocks in place.
#include <algorithm>

#include "comm/communicator.h"
#include "parallel/moe/dispatchers/hops.h"
#include "parallel/step/step_context.h"

namespace weft::parallel {
namespace {

using scheduler::Resource;
using scheduler::Stage;

/// Places of blocks in the order of a buffer: a block is (source EP rank, destination EP rank).
struct Block {
  int src = 0, dst = 0;
};

/// A rank's view of the blocks before and after each hop, for rank (node, lane).
struct Blocks {
  EpNodes at;
  [[nodiscard]] int rank(int node, int lane) const { return node * at.lanes + lane; }
  [[nodiscard]] int mine() const { return rank(at.node, at.lane); }

  /// Send order: all destinations of `src`.
  [[nodiscard]] std::vector<Block> sent_by(int src) const {
    std::vector<Block> out;
    for (int p = 0; p < at.nodes * at.lanes; ++p) out.push_back({src, p});
    return out;
  }
  /// Arrival order: all sources of `dst`.
  [[nodiscard]] std::vector<Block> arrived_at(int dst) const {
    std::vector<Block> out;
    for (int p = 0; p < at.nodes * at.lanes; ++p) out.push_back({p, dst});
    return out;
  }
  /// What lane `lane` of this node holds between the hops of 2DH: all that its node sends to that lane.
  [[nodiscard]] std::vector<Block> on_lane(int lane) const {
    std::vector<Block> out;
    for (int n = 0; n < at.nodes; ++n)
      for (int l = 0; l < at.lanes; ++l) out.push_back({rank(at.node, l), rank(n, lane)});
    return out;
  }
  /// What this node's leader holds before and after the leaders' exchange; nothing on other lanes.
  [[nodiscard]] std::vector<Block> gathered_on(int lane) const {
    std::vector<Block> out;
    for (int n = 0; lane == 0 && n < at.nodes; ++n)
      for (int l = 0; l < at.lanes; ++l)
        for (int to = 0; to < at.lanes; ++to) out.push_back({rank(at.node, l), rank(n, to)});
    return out;
  }
  [[nodiscard]] std::vector<Block> exchanged_on(int lane) const {
    std::vector<Block> out;
    for (int n = 0; lane == 0 && n < at.nodes; ++n)
      for (int l = 0; l < at.lanes; ++l)
        for (int to = 0; to < at.lanes; ++to) out.push_back({rank(n, l), rank(at.node, to)});
    return out;
  }
};

/// A hop that carries blocks: before[i] are the blocks of this rank's buffer before the hop, after[i] behind it, and
/// holder(block) the peer that has a block on the other side.
struct Route {
  std::vector<Block> before, after;
  std::vector<int> to, from;  ///< Peer in the hop's group that before[i] goes to, that after[i] comes from.
  bool between_nodes = false;
};

/// The order of messages between one pair of ranks is that of the blocks at the receiver: both sides sort by it.
std::int64_t key(const Block& b, int ranks) { return std::int64_t{b.src} * ranks + b.dst; }

template <class T>
class BlockHop final : public Hop<T> {
 public:
  BlockHop(const HopInfo& info, Route route, int ranks) : Hop<T>(info), route_(std::move(route)), ranks_(ranks) {}

  [[nodiscard]] std::int64_t rows_in(const ChunkRows& rows) const override { return total(route_.before, rows); }
  [[nodiscard]] std::int64_t rows_out(const ChunkRows& rows) const override { return total(route_.after, rows); }
  void run(Stream& stream, const MeshComms& comms, const ChunkRows& rows, T* to, const T* from,
           std::int64_t width) const override {
    std::vector<std::pair<std::int64_t, comm::SendOp>> sends;
    std::vector<std::pair<std::int64_t, comm::RecvOp>> recvs;
    for (std::size_t i = 0; i < route_.before.size(); ++i) {
      const std::int64_t n = count(route_.before[i], rows) * width;
      if (n > 0) sends.push_back({key(route_.before[i], ranks_), {comm::as_buffer(from, n), route_.to[i]}});
      from += n;
    }
    for (std::size_t i = 0; i < route_.after.size(); ++i) {
      const std::int64_t n = count(route_.after[i], rows) * width;
      if (n > 0) recvs.push_back({key(route_.after[i], ranks_), {comm::as_buffer(to, n), route_.from[i]}});
      to += n;
    }
    comm::Communicator& group = route_.between_nodes ? comms.ep_across() : comms.ep_inside();
    group.send_recv(sorted(sends), sorted(recvs), stream);
  }

 private:
  [[nodiscard]] std::int64_t count(const Block& b, const ChunkRows& rows) const {
    return rows.pair_rows[static_cast<std::size_t>(key(b, ranks_))];
  }
  [[nodiscard]] std::int64_t total(const std::vector<Block>& blocks, const ChunkRows& rows) const {
    std::int64_t n = 0;
    for (const Block& b : blocks) n += count(b, rows);
    return n;
  }
  template <class Op>
  static std::vector<Op> sorted(std::vector<std::pair<std::int64_t, Op>>& keyed) {
    std::sort(keyed.begin(), keyed.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
    std::vector<Op> out;
    for (const auto& [unused, op] : keyed) out.push_back(op);
    return out;
  }

  Route route_;
  int ranks_;
};

HopInfo info_of(Direction direction, const char* label, bool between_nodes, double operations) {
  HopInfo info;
  info.stage = direction == Direction::kToExperts ? Stage::kDispatch : Stage::kCombine;
  info.label = label;
  info.resources = between_nodes ? scheduler::ResourceSet{Resource::kInter} : scheduler::ResourceSet{Resource::kIntra};
  info.operations = operations;
  return info;
}

/// The hop read backwards: what was received is sent.
Route reversed(const Route& route) { return {route.after, route.before, route.from, route.to, route.between_nodes}; }

/// Peers of the blocks by rules: lane (inside a node) or node (between nodes) that a block goes to and comes from.
template <class To, class From>
Route route_of(std::vector<Block> before, std::vector<Block> after, bool between_nodes, const To& to,
               const From& from) {
  Route route{std::move(before), std::move(after), {}, {}, between_nodes};
  for (const Block& b : route.before) route.to.push_back(to(b));
  for (const Block& b : route.after) route.from.push_back(from(b));
  return route;
}

}  // namespace

template <class T>
Hops<T> lane_hops(const Mesh& mesh, Direction direction) {
  const Blocks blocks{ep_nodes(mesh)};
  const EpNodes at = blocks.at;
  const auto lane = [=](int rank) { return rank % at.lanes; };
  const auto node = [=](int rank) { return rank / at.lanes; };
  const bool there = direction == Direction::kToExperts;
  const Route inside = route_of(
      blocks.sent_by(blocks.mine()), blocks.on_lane(at.lane), false, [&](const Block& b) { return lane(b.dst); },
      [&](const Block& b) { return lane(b.src); });
  const Route across = route_of(
      blocks.on_lane(at.lane), blocks.arrived_at(blocks.mine()), true, [&](const Block& b) { return node(b.dst); },
      [&](const Block& b) { return node(b.src); });
  HopInfo in = info_of(direction, "inside nodes", false, at.nodes),
          out = info_of(direction, "between nodes", true, 1.0);
  in.wire_rows = double(at.lanes - 1) / at.lanes;
  out.wire_rows = double(at.nodes - 1) / at.nodes;
  in.most_rows = there ? at.lanes : 1.0;
  out.most_rows = there ? mesh.ep_size : at.lanes;
  out.most_shards = there ? 1 : 0;
  const int ranks = mesh.ep_size;
  const auto first = std::make_shared<BlockHop<T>>(in, there ? inside : reversed(inside), ranks);
  const auto second = std::make_shared<BlockHop<T>>(out, there ? across : reversed(across), ranks);
  return there ? Hops<T>{first, second} : Hops<T>{second, first};
}

template <class T>
Hops<T> leader_hops(const Mesh& mesh, Direction direction) {
  const Blocks blocks{ep_nodes(mesh)};
  const EpNodes at = blocks.at;
  const auto lane = [=](int rank) { return rank % at.lanes; };
  const auto node = [=](int rank) { return rank / at.lanes; };
  const auto leader = [](const Block&) { return 0; };
  const bool there = direction == Direction::kToExperts;
  const Route gather = route_of(blocks.sent_by(blocks.mine()), blocks.gathered_on(at.lane), false, leader,
                                [&](const Block& b) { return lane(b.src); });
  const Route exchange = route_of(
      blocks.gathered_on(at.lane), blocks.exchanged_on(at.lane), true, [&](const Block& b) { return node(b.dst); },
      [&](const Block& b) { return node(b.src); });
  const Route scatter = route_of(
      blocks.exchanged_on(at.lane), blocks.arrived_at(blocks.mine()), false,
      [&](const Block& b) { return lane(b.dst); }, leader);
  const double held = at.lane == 0 ? at.lanes : 0.0;  // by this rank between the hops
  HopInfo in = info_of(direction, "to leaders", false, at.lanes),
          over = info_of(direction, "between leaders", true, 1.0),
          out = info_of(direction, "from leaders", false, at.lanes);
  in.wire_rows = out.wire_rows = at.lane == 0 ? at.lanes - 1 : 1.0;  // the leader's link carries them all
  over.wire_rows = held * (at.nodes - 1) / at.nodes;
  in.mean_rows = over.mean_rows = held;
  in.most_rows = there ? held : held * mesh.ep_size;
  over.most_rows = there ? held * mesh.ep_size : held;
  out.most_rows = there ? mesh.ep_size : 1.0;
  out.most_shards = there ? 1 : 0;
  const int ranks = mesh.ep_size;
  const auto hop = [&](const HopInfo& info, const Route& route) {
    return std::make_shared<BlockHop<T>>(info, there ? route : reversed(route), ranks);
  };
  if (there) return {hop(in, gather), hop(over, exchange), hop(out, scatter)};
  return {hop(in, scatter), hop(over, exchange), hop(out, gather)};
}

template Hops<float> lane_hops<float>(const Mesh&, Direction);
template Hops<double> lane_hops<double>(const Mesh&, Direction);
template Hops<BF16> lane_hops<BF16>(const Mesh&, Direction);
template Hops<float> leader_hops<float>(const Mesh&, Direction);
template Hops<double> leader_hops<double>(const Mesh&, Direction);
template Hops<BF16> leader_hops<BF16>(const Mesh&, Direction);

}  // namespace weft::parallel
