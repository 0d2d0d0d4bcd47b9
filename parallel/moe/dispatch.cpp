#include "parallel/moe/dispatch.h"

#include "core/error.h"
#include "parallel/moe/dispatchers/hops.h"

namespace weft::parallel {
namespace {

/// On one node, or one rank a node, there is no hierarchy.
bool is_flat(DispatcherKind kind, const Mesh& mesh) {
  if (kind == DispatcherKind::kAllToAll) return true;
  const EpNodes at = ep_nodes(mesh);
  return at.nodes == 1 || at.lanes == 1;
}

template <class T>
Hops<T> ep_hops(DispatcherKind kind, const Mesh& mesh, Direction direction) {
  if (mesh.ep_size == 1) return {};
  if (is_flat(kind, mesh)) return flat_hops<T>(mesh, direction);
  return kind == DispatcherKind::kHierarchical1d ? leader_hops<T>(mesh, direction) : lane_hops<T>(mesh, direction);
}

template <class T>
class HopDispatch final : public Dispatch<T> {
 public:
  HopDispatch(DispatcherKind kind, const Mesh& mesh) : kind_(kind), mesh_(mesh) {
    static_cast<void>(ep_hops<T>(kind, mesh, Direction::kToExperts));  // throws early for an uneven group
  }
  [[nodiscard]] Hops<T> hops() const override {
    Hops<T> all = ep_hops<T>(kind_, mesh_, Direction::kToExperts);
    for (auto& hop : shard_hops<T>(mesh_, Direction::kToExperts)) all.push_back(hop);
    return all;
  }

 private:
  DispatcherKind kind_;
  Mesh mesh_;
};

template <class T>
class HopCombine final : public Combine<T> {
 public:
  HopCombine(DispatcherKind kind, const Mesh& mesh) : kind_(kind), mesh_(mesh) {
    static_cast<void>(ep_hops<T>(kind, mesh, Direction::kFromExperts));
  }
  [[nodiscard]] Hops<T> hops() const override {
    Hops<T> all = shard_hops<T>(mesh_, Direction::kFromExperts);
    for (auto& hop : ep_hops<T>(kind_, mesh_, Direction::kFromExperts)) all.push_back(hop);
    return all;
  }

 private:
  DispatcherKind kind_;
  Mesh mesh_;
};

}  // namespace

EpNodes ep_nodes(const Mesh& mesh) {
  const int group = mesh.ep_size * mesh.esp_size, node = mesh.ranks_per_node;
  EpNodes out;
  if (node % group == 0) {  // inside one node
    out.lanes = mesh.ep_size;
  } else if (node % mesh.esp_size == 0 && group % node == 0) {
    out.lanes = node / mesh.esp_size;
    out.nodes = group / node;
  } else if (mesh.esp_size % node == 0) {  // one rank of the group a node
    out.nodes = mesh.ep_size;
  } else {
    throw Error(
        ErrorCode::kInvalidArgument,
        str("parallel.dispatcher: an expert group of EP ", mesh.ep_size, " x ESP ", mesh.esp_size,
            " ranks lies unevenly on nodes of ", node, " ranks"),
        "set parallel.dispatcher to ALL_TO_ALL, or choose parallel.expert and expert_shard that fill whole nodes");
  }
  out.node = mesh.ep_rank() / out.lanes;
  out.lane = mesh.ep_rank() % out.lanes;
  return out;
}

bool needs_pair_counts(DispatcherKind kind, const Mesh& mesh) { return mesh.ep_size > 1 && !is_flat(kind, mesh); }

template <class T>
std::unique_ptr<Dispatch<T>> make_dispatch(DispatcherKind kind, const Mesh& mesh) {
  return std::make_unique<HopDispatch<T>>(kind, mesh);
}
template <class T>
std::unique_ptr<Combine<T>> make_combine(DispatcherKind kind, const Mesh& mesh) {
  return std::make_unique<HopCombine<T>>(kind, mesh);
}

template std::unique_ptr<Dispatch<float>> make_dispatch(DispatcherKind, const Mesh&);
template std::unique_ptr<Dispatch<double>> make_dispatch(DispatcherKind, const Mesh&);
template std::unique_ptr<Dispatch<BF16>> make_dispatch(DispatcherKind, const Mesh&);
template std::unique_ptr<Combine<float>> make_combine(DispatcherKind, const Mesh&);
template std::unique_ptr<Combine<double>> make_combine(DispatcherKind, const Mesh&);
template std::unique_ptr<Combine<BF16>> make_combine(DispatcherKind, const Mesh&);

}  // namespace weft::parallel
