#include "scheduler/plan.h"

#include <algorithm>
#include <array>
#include <bit>
#include <numeric>
#include <set>
#include <utility>

#include "core/error.h"
#include "core/rng.h"

namespace weft::scheduler {
namespace {

struct Lifetime {
  std::int32_t first = -1, last = -1;  // positions in the issue order
};

std::vector<Lifetime> lifetimes(const Graph& graph, std::span<const TaskId> order) {
  std::vector<Lifetime> out(graph.buffers.size());
  for (std::int32_t i = 0; i < static_cast<std::int32_t>(order.size()); ++i) {
    const auto touch = [&](BufferId b) {
      if (out[b].first < 0) out[b].first = i;
      out[b].last = i;
    };
    for (const BufferId b : graph.reads(order[i])) touch(b);
    for (const BufferId b : graph.writes(order[i])) touch(b);
  }
  return out;
}

/// Tasks that must be done before a buffer's memory may change hands: its last writer and the readers after it. Linked
/// lists in one array: a step touches tens of thousands of buffers.
class LastUsers {
 public:
  LastUsers(std::size_t num_buffers, std::size_t num_accesses) : head_(num_buffers, kNoId) {
    nodes_.reserve(num_accesses);
  }
  void visit(const Graph& graph, TaskId t) {
    for (const BufferId b : graph.reads(t)) push(b, t);
    for (const BufferId b : graph.writes(t)) {
      head_[b] = kNoId;
      push(b, t);
    }
  }
  template <class F>
  void for_each(BufferId b, const F& visit) const {
    for (std::int32_t n = head_[b]; n != kNoId; n = nodes_[static_cast<std::size_t>(n)].next)
      visit(nodes_[static_cast<std::size_t>(n)].task);
  }

 private:
  struct Node {
    TaskId task;
    std::int32_t next;
  };
  void push(BufferId b, TaskId t) {
    nodes_.push_back({t, head_[b]});
    head_[b] = static_cast<std::int32_t>(nodes_.size() - 1);
  }
  std::vector<std::int32_t> head_;  // [buffers]
  std::vector<Node> nodes_;
};

/// Which tasks are done for certain before another starts: by edges, and by the order of its stream. For each task, the
/// last place in the issue order of each stream that is.
class Precedence {
 public:
  Precedence(const Graph& graph, const Plan& plan) : graph_(graph), stream_of_task_(graph.tasks.size()) {
    const StreamSets sets = stream_sets(plan.shape);
    std::array<int, 1U << kNumResources> stream_of_set{};
    stream_of_set.fill(kNoId);
    for (std::size_t t = 0; t < graph.tasks.size(); ++t) {
      int& stream = stream_of_set[sets[graph.tasks[t].resources.bits()].bits()];
      if (stream == kNoId) stream = num_streams_++;
      stream_of_task_[t] = static_cast<std::uint8_t>(stream);
    }
    done_.assign(graph.tasks.size() * num_streams_, -1);
    position_.assign(graph.tasks.size(), -1);
    last_.assign(num_streams_, kNoId);
  }
  /// Tasks come in issue order.
  void visit(TaskId t, std::int32_t position) {
    position_[t] = position;
    for (const TaskId d : graph_.dependencies(t)) add(t, d);
    TaskId& before = last_[stream_of_task_[t]];
    if (before != kNoId) add(t, before);
    before = t;
  }
  /// `t`, visited last, comes after `task`, visited before.
  void add(TaskId t, TaskId task) {
    std::int32_t* mine = &done_[t * num_streams_];
    const std::int32_t* its = &done_[task * num_streams_];
    for (std::size_t s = 0; s < num_streams_; ++s) mine[s] = std::max(mine[s], its[s]);
    std::int32_t& on_stream = mine[stream_of_task_[task]];
    on_stream = std::max(on_stream, position_[task]);
  }
  [[nodiscard]] bool comes_after(TaskId t, TaskId task) const {
    return done_[t * num_streams_ + stream_of_task_[task]] >= position_[task];
  }

 private:
  const Graph& graph_;
  std::size_t num_streams_ = 0;
  std::vector<std::uint8_t> stream_of_task_;  // [tasks]
  std::vector<std::int32_t> done_;            // [tasks, streams]
  std::vector<std::int32_t> position_;        // [tasks]
  std::vector<TaskId> last_;                  // [streams]
};

/// The free slots, by size and then by how long they have been free.
class FreeSlots {
 public:
  void put(std::int32_t slot, std::int64_t bytes, std::int32_t since) { free_.insert({bytes, since, slot}); }
  /// The smallest that is large enough, else the largest (which then grows), of those that `may_take(slot, since)`.
  template <class F>
  std::int32_t take(std::int64_t bytes, const F& may_take) {
    constexpr int kLooks = 16;
    const auto first = free_.lower_bound({bytes, -1, -1});
    auto at = first;
    for (int look = 0; at != free_.end() && look < kLooks; ++at, ++look)
      if (may_take(at->slot, at->since)) return remove(at);
    at = first;
    for (int look = 0; at != free_.begin() && look < kLooks; ++look) {
      --at;
      if (at->bytes * 4 < bytes) break;  // a slot far too small is better left to others than grown
      if (may_take(at->slot, at->since)) return remove(at);
    }
    return kNoId;
  }

 private:
  struct Entry {
    std::int64_t bytes;
    std::int32_t since, slot;
    friend auto operator<=>(const Entry&, const Entry&) = default;
  };
  std::int32_t remove(std::set<Entry>::iterator at) {
    const std::int32_t slot = at->slot;
    free_.erase(at);
    return slot;
  }
  std::set<Entry> free_;
};

}  // namespace

std::string_view to_string(Recompute recompute) noexcept {
  switch (recompute) {
    case Recompute::kNone:
      return "none";
    case Recompute::kSelective:
      return "selective";
    case Recompute::kFull:
      return "full";
  }
  return "unknown";
}

StreamSets stream_sets(const Shape& shape) noexcept {
  StreamSets sets;
  for (std::size_t bits = 0; bits < sets.size(); ++bits)
    for (int r = 0; r < kNumResources; ++r)
      for (int s = 0; s < kNumResources; ++s)
        if ((bits >> s & 1U) != 0 && shape.stream_of_resource[r] == shape.stream_of_resource[s])
          sets[bits].add(static_cast<Resource>(r));
  return sets;
}

bool has_one_stream(const Shape& shape) noexcept {
  const auto& streams = shape.stream_of_resource;
  return std::all_of(streams.begin(), streams.end(), [&](int s) { return s == streams[0]; });
}

std::vector<double> gradient_cuts(const LayerShape& layer) {
  std::vector<double> cuts{0.0};
  for (const double share : layer.gradient_shares) cuts.push_back(cuts.back() + share);
  if (cuts.size() == 1) cuts.push_back(1.0);
  cuts.back() = 1.0;  // whatever rounding left over
  return cuts;
}

std::vector<int> weight_grad_cuts(int backward_chunks, int pieces) {
  std::vector<int> cuts;
  const int p = std::min(pieces, backward_chunks);
  for (int i = 0; p > 0 && i <= p; ++i) cuts.push_back(static_cast<int>(std::int64_t{backward_chunks} * i / p));
  return cuts;
}

std::uint64_t digest(const Plan& plan) noexcept {
  std::string text = str(plan.shape.micro_batches_in_flight, ",", plan.shape.imbalance_limit, ";");
  for (const int pieces : plan.shape.sub_batches) text += str(pieces, ",");
  for (const int stream : plan.shape.stream_of_resource) text += str(";", stream);
  for (const LayerShape& l : plan.shape.layers) {
    text += str(l.forward_chunks, ",", l.backward_chunks, ",", l.weight_grad_pieces, ",", to_string(l.recompute));
    for (const double share : l.gradient_shares) text += str(",", std::bit_cast<std::uint64_t>(share));
    text += ";";
  }
  text += str(plan.slot_rest, plan.shape.padded ? ",padded;" : ";");
  for (const TaskId t : plan.issue_order) text += str(t, " ");
  return hash_name(text);
}

SlotMap assign_slots(const Graph& graph, const Plan& plan) {
  const std::vector<Lifetime> life = lifetimes(graph, plan.issue_order);
  SlotMap map;
  map.slot_of_buffer.assign(graph.buffers.size(), kNoId);
  std::vector<BufferId> previous;  // last buffer of each slot
  LastUsers users(graph.buffers.size(), graph.accesses.size());
  FreeSlots free;
  Precedence precedence(graph, plan);
  std::vector<bool> ended(graph.buffers.size(), false);

  for (std::int32_t i = 0; i < static_cast<std::int32_t>(plan.issue_order.size()); ++i) {
    const TaskId t = plan.issue_order[i];
    precedence.visit(t, i);
    const auto may_take = [&](std::int32_t slot, std::int32_t since) {
      if (i - since >= plan.slot_rest) return true;
      bool after = true;
      users.for_each(previous[slot], [&](TaskId user) { after = after && precedence.comes_after(t, user); });
      return after;
    };
    const auto start = [&](BufferId b) {
      if (graph.buffers[b].persistent || life[b].first != i || map.slot_of_buffer[b] != kNoId) return;
      std::int32_t slot = free.take(graph.buffers[b].bytes, may_take);
      if (slot == kNoId) {
        slot = static_cast<std::int32_t>(map.slot_bytes.size());
        map.slot_bytes.push_back(0);
        previous.push_back(kNoId);
      } else {
        users.for_each(previous[slot], [&](TaskId user) {
          map.reuse_edges.push_back({user, t});
          precedence.add(t, user);
        });
      }
      map.slot_of_buffer[b] = slot;
      map.slot_bytes[slot] = std::max(map.slot_bytes[slot], graph.buffers[b].bytes);
      previous[slot] = b;
    };
    for (const BufferId b : graph.reads(t)) start(b);
    for (const BufferId b : graph.writes(t)) start(b);
    users.visit(graph, t);
    const auto stop = [&](BufferId b) {
      const std::int32_t slot = map.slot_of_buffer[b];
      if (slot == kNoId || life[b].last != i || previous[slot] != b || ended[b]) return;
      ended[b] = true;  // a buffer both read and written by one task ends once
      free.put(slot, map.slot_bytes[slot], i);
    };
    for (const BufferId b : graph.reads(t)) stop(b);
    for (const BufferId b : graph.writes(t)) stop(b);
  }
  return map;
}

std::int64_t MemoryUse::total() const { return std::accumulate(std::begin(bytes), std::end(bytes), std::int64_t{0}); }

MemoryUse memory_use(const Graph& graph, const SlotMap& slots) {
  MemoryUse use;
  std::vector<BufferId> largest(slots.slot_bytes.size(), kNoId);
  for (BufferId b = 0; b < static_cast<BufferId>(graph.buffers.size()); ++b) {
    const BufferSpec& spec = graph.buffers[b];
    if (spec.persistent) use.bytes[static_cast<int>(spec.memory)] += spec.bytes;
    const std::int32_t slot = slots.slot_of_buffer[b];
    if (slot != kNoId && (largest[slot] == kNoId || graph.buffers[largest[slot]].bytes < spec.bytes)) largest[slot] = b;
  }
  for (std::size_t s = 0; s < slots.slot_bytes.size(); ++s)
    if (largest[s] != kNoId) use.bytes[static_cast<int>(graph.buffers[largest[s]].memory)] += slots.slot_bytes[s];
  return use;
}

std::vector<std::string> validate(const Graph& graph, const Plan& plan) {
  std::vector<std::string> problems;
  std::vector<std::int32_t> position(graph.tasks.size(), kNoId);
  if (plan.issue_order.size() != graph.tasks.size())
    problems.push_back(str("the order has ", plan.issue_order.size(), " tasks, the graph ", graph.tasks.size()));
  for (std::size_t i = 0; i < plan.issue_order.size(); ++i) {
    const TaskId t = plan.issue_order[i];
    if (t < 0 || t >= graph.num_tasks()) {
      problems.push_back(str("entry ", i, " of the order is task ", t, ", which does not exist"));
    } else if (position[t] != kNoId) {
      problems.push_back(str(graph.name(t), " stands in the order twice, at ", position[t], " and ", i));
    } else {
      position[t] = static_cast<std::int32_t>(i);
    }
  }
  for (TaskId t = 0; t < graph.num_tasks(); ++t) {
    if (position[t] == kNoId) {
      problems.push_back(str(graph.name(t), " is missing from the order"));
      continue;
    }
    for (const TaskId d : graph.dependencies(t))
      if (position[d] != kNoId && position[d] > position[t])
        problems.push_back(str(graph.name(t), " is issued before ", graph.name(d), ", which it depends on"));
  }
  return problems;
}

}  // namespace weft::scheduler
