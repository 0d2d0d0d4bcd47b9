// parallel/step/emission.h - one pass that writes down a step's tasks and, for the chosen plan only, binds their
// closures. The same code emits the graph that is priced and the graph that runs, so the two cannot drift apart.
#pragma once

#include <array>
#include <initializer_list>
#include <span>
#include <utility>
#include <vector>

#include "scheduler/executor.h"
#include "scheduler/graph.h"

namespace weft::parallel {

using scheduler::BufferId;
using scheduler::MemoryClass;
using scheduler::Phase;
using scheduler::Resource;
using scheduler::Stage;
using scheduler::TaskContext;
using scheduler::TaskSpec;
using scheduler::WorkKind;
inline constexpr BufferId kNoBuffer = scheduler::kNoId;

/// The buffers of one task: a list that stays on the stack while it is short. kNoBuffer entries are left out.
class BufferList {
 public:
  BufferList(std::initializer_list<BufferId> ids) {
    for (const BufferId id : ids) add(id);
  }
  void add(BufferId id) {
    if (id == kNoBuffer) return;
    if (count_ < ids_.size()) {
      ids_[count_++] = id;
      return;
    }
    if (many_.empty()) many_.assign(ids_.begin(), ids_.end());
    many_.push_back(id);
  }
  [[nodiscard]] std::span<const BufferId> span() const {
    return many_.empty() ? std::span<const BufferId>(ids_.data(), count_) : std::span<const BufferId>(many_);
  }

 private:
  std::array<BufferId, 16> ids_{};
  std::size_t count_ = 0;
  std::vector<BufferId> many_;  // all of them, once ids_ is full
};

/// Collects tasks in program order. With `bind` false, closures are dropped unseen: nothing of the model need exist.
class Emission {
 public:
  explicit Emission(bool bind) : bind_(bind) {}

  [[nodiscard]] BufferId buffer(const scheduler::BufferSpec& spec) { return builder_.add_buffer(spec); }

  /// `body`: void(TaskContext&). A buffer that is updated in place belongs to `writes`.
  template <class F>
  void task(const TaskSpec& spec, const BufferList& reads, const BufferList& writes, F&& body) {
    builder_.add_task(spec, reads.span(), writes.span());
    if (bind_) bodies_.emplace_back(std::forward<F>(body));
  }

  [[nodiscard]] scheduler::Graph take_graph() { return builder_.take(); }
  [[nodiscard]] std::vector<scheduler::TaskBody> take_bodies() { return std::move(bodies_); }

 private:
  bool bind_;
  scheduler::GraphBuilder builder_;
  std::vector<scheduler::TaskBody> bodies_;
};

}  // namespace weft::parallel
