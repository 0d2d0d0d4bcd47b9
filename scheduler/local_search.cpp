#include "scheduler/local_search.h"

#include <algorithm>

#include "core/error.h"

namespace weft::scheduler {
namespace {

constexpr double kTight = 1e-9;  // of the makespan: times that differ by less are equal

template <class F>
void for_each_resource(std::uint8_t bits, const F& visit) {
  for (int r = 0; r < kNumResources; ++r)
    if ((bits >> r & 1) != 0) visit(r);
}

std::uint64_t pair_key(TaskId first, TaskId second) {
  return static_cast<std::uint64_t>(first) << 32 | static_cast<std::uint32_t>(second);
}

}  // namespace

LocalSearch::LocalSearch(const Instance& instance)
    : in_(instance),
      head_(instance.duration.size()),
      tail_(instance.duration.size()),
      order_(instance.duration.size()),
      missing_(instance.duration.size()) {
  for (int r = 0; r < kNumResources; ++r) {
    before_[r].resize(instance.duration.size());
    after_[r].resize(instance.duration.size());
  }
}

std::uint32_t LocalSearch::random() noexcept {  // a linear congruential step, its high half
  random_state_ = random_state_ * 6364136223846793005ULL + 1442695040888963407ULL;
  return static_cast<std::uint32_t>(random_state_ >> 33);
}

void LocalSearch::take_orders(const Schedule& schedule) {
  std::array<TaskId, kNumResources> last;
  last.fill(kNoId);
  for (int r = 0; r < kNumResources; ++r) {
    std::fill(before_[r].begin(), before_[r].end(), kNoId);
    std::fill(after_[r].begin(), after_[r].end(), kNoId);
  }
  for (const TaskId t : schedule.order)
    for_each_resource(in_.occupied[t], [&](int r) {
      before_[r][t] = last[r];
      if (last[r] != kNoId) after_[r][last[r]] = t;
      last[r] = t;
    });
}

/// Heads and tails over precedence and resource orders; the makespan.
double LocalSearch::evaluate() {
  const std::int32_t n = in_.size();
  std::int32_t front = 0, back = 0;
  for (TaskId t = 0; t < n; ++t) {
    missing_[t] = in_.first_pred[t + 1] - in_.first_pred[t];
    for_each_resource(in_.occupied[t], [&](int r) { missing_[t] += before_[r][t] != kNoId ? 1 : 0; });
    if (missing_[t] == 0) order_[back++] = t;
  }
  makespan_ = 0.0;
  while (front < back) {
    const TaskId t = order_[front++];
    double head = 0.0;
    for (const TaskId p : in_.predecessors(t)) head = std::max(head, head_[p] + in_.duration[p]);
    for_each_resource(in_.occupied[t], [&](int r) {
      if (const TaskId p = before_[r][t]; p != kNoId) head = std::max(head, head_[p] + in_.duration[p]);
      if (const TaskId s = after_[r][t]; s != kNoId && --missing_[s] == 0) order_[back++] = s;
    });
    head_[t] = head;
    makespan_ = std::max(makespan_, head + in_.duration[t]);
    for (const TaskId s : in_.successors(t))
      if (--missing_[s] == 0) order_[back++] = s;
  }
  WEFT_CHECK(front == n, "a move made a cycle: ", front, " of ", n, " tasks are in order");
  for (std::int32_t i = n; i-- > 0;) {
    const TaskId t = order_[i];
    double tail = 0.0;
    for (const TaskId s : in_.successors(t)) tail = std::max(tail, tail_[s]);
    for_each_resource(in_.occupied[t], [&](int r) {
      if (const TaskId s = after_[r][t]; s != kNoId) tail = std::max(tail, tail_[s]);
    });
    tail_[t] = tail + in_.duration[t];
  }
  return makespan_;
}

/// One critical path, chosen at random among equals, into path_.
void LocalSearch::critical_path() {
  const double tight = kTight * makespan_;
  path_.clear();
  TaskId at = kNoId;
  std::uint32_t seen = 0;
  const auto offer = [&](TaskId t, double start) {
    if (head_[t] > start + tight || head_[t] < start - tight || head_[t] + tail_[t] < makespan_ - tight) return;
    if (random() % ++seen == 0) at = t;
  };
  for (TaskId t = 0; t < in_.size() && head_[order_[t]] <= tight; ++t) offer(order_[t], 0.0);
  while (at != kNoId) {
    const TaskId t = at;
    path_.push_back(t);
    at = kNoId;
    seen = 0;
    const double end = head_[t] + in_.duration[t];
    for (const TaskId s : in_.successors(t)) offer(s, end);
    for_each_resource(in_.occupied[t], [&](int r) {
      if (after_[r][t] != kNoId) offer(after_[r][t], end);
    });
  }
}

/// Must `second` come after `first`? Only paths without a length matter: over a longer one the two are not critical
/// neighbours.
bool LocalSearch::joined(TaskId first, TaskId second) const {
  for (const TaskId next : in_.successors(first)) {
    if (next == second) return true;
    if (in_.duration[next] <= 2.0 * kTight * makespan_ && head_[next] <= head_[second] && joined(next, second))
      return true;
  }
  return false;
}

/// The makespan through the two once turned round, a lower bound of the true one.
double LocalSearch::estimate(TaskId u, TaskId v) const {
  double head_v = 0.0, head_u = 0.0, tail_u = 0.0, tail_v = 0.0;
  const auto after_end = [&](double& head, TaskId p) { head = std::max(head, head_[p] + in_.duration[p]); };
  for (const TaskId p : in_.predecessors(v)) after_end(head_v, p);
  for (const TaskId p : in_.predecessors(u)) after_end(head_u, p);
  for (const TaskId s : in_.successors(u)) tail_u = std::max(tail_u, tail_[s]);
  for (const TaskId s : in_.successors(v)) tail_v = std::max(tail_v, tail_[s]);
  for_each_resource(in_.occupied[u], [&](int r) {
    if (before_[r][u] != kNoId) after_end(after_[r][u] == v ? head_v : head_u, before_[r][u]);
    if (after_[r][u] != kNoId && after_[r][u] != v) tail_u = std::max(tail_u, tail_[after_[r][u]]);
  });
  for_each_resource(in_.occupied[v], [&](int r) {
    if (before_[r][v] != kNoId && before_[r][v] != u) after_end(head_v, before_[r][v]);
    if (after_[r][v] != kNoId) {
      double& tail = before_[r][v] == u ? tail_u : tail_v;
      tail = std::max(tail, tail_[after_[r][v]]);
    }
  });
  head_u = std::max(head_u, head_v + in_.duration[v]);
  tail_u += in_.duration[u];
  tail_v = std::max(tail_v, tail_u) + in_.duration[v];
  return std::max(head_v + tail_v, head_u + tail_u);
}

void LocalSearch::consider(TaskId first, TaskId second, int iteration, double best, Move& chosen) {
  if (joined(first, second)) return;
  const double value = estimate(first, second) * (1.0 + 1e-9 * (random() % 64));  // ties at random
  const auto tabu = tabu_until_.find(pair_key(second, first));
  if (tabu != tabu_until_.end() && tabu->second > iteration && value >= best) return;
  if (chosen.first == kNoId || value < chosen.estimate) chosen = {first, second, value};
}

/// The edges of every block, and a few pairs inside it.
LocalSearch::Move LocalSearch::best_move(int iteration, double best) {
  Move chosen;
  const auto neighbours = [&](std::size_t i) {
    bool found = false;
    for_each_resource(in_.occupied[path_[i]], [&](int r) { found = found || after_[r][path_[i]] == path_[i + 1]; });
    return found;
  };
  for (std::size_t i = 0; i + 1 < path_.size();) {
    std::size_t end = i;
    while (end + 1 < path_.size() && neighbours(end)) ++end;
    for (std::size_t k = i; k < end; ++k)
      if (k == i || k + 1 == end || random() % 4 == 0) consider(path_[k], path_[k + 1], iteration, best, chosen);
    i = end + 1;
  }
  return chosen;
}

void LocalSearch::turn_round(TaskId u, TaskId v) {
  for_each_resource(in_.occupied[u], [&](int r) {
    if (after_[r][u] != v) return;
    const TaskId a = before_[r][u], b = after_[r][v];
    before_[r][v] = a;
    after_[r][v] = u;
    before_[r][u] = v;
    after_[r][u] = b;
    if (a != kNoId) after_[r][a] = v;
    if (b != kNoId) before_[r][b] = u;
  });
}

Schedule LocalSearch::schedule() const { return {head_, order_, makespan_}; }

void LocalSearch::run(int iterations, std::uint64_t seed, Schedule& best) {
  random_state_ = seed * 2 + 1;
  tabu_until_.clear();
  take_orders(best);
  evaluate();
  if (makespan_ < best.makespan) best = schedule();
  for (int i = 0; i < iterations; ++i) {
    critical_path();
    Move move = best_move(i, best.makespan);
    if (move.first == kNoId) {  // all are tabu, or no pair may be turned round
      std::erase_if(tabu_until_, [&](const auto& entry) { return entry.second <= i; });
      if (tabu_until_.empty()) break;
      tabu_until_.clear();
      continue;
    }
    turn_round(move.first, move.second);
    tabu_until_[pair_key(move.first, move.second)] = i + 10 + static_cast<int>(random() % 15);
    if (evaluate() < best.makespan * (1.0 - kTight)) best = schedule();
  }
  std::stable_sort(best.order.begin(), best.order.end(),
                   [&](TaskId a, TaskId b) { return best.start[a] < best.start[b]; });
}

}  // namespace weft::scheduler
