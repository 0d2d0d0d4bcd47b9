#include "scheduler/unequal_chunks.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <utility>

#include "core/error.h"
#include "scheduler/instance.h"
#include "scheduler/local_search.h"
#include "scheduler/search.h"

namespace weft::scheduler {
namespace {

/// A task's duration as a line in the shares of the chunks: fixed + slope * (what chunks [first, last) sum to).
struct Line {
  double fixed = 0.0, slope = 0.0;
  int first = 0, last = 0;
};

/// A number of chunks and pieces of dW, whose sizes are open.
class OpenLayer {
 public:
  OpenLayer(const LayerEmitter& emitter, const CostModel& cost, const Shape& shape)
      : shape_(shape),
        r_(emitter.chunks(shape)),
        graph_(emitter.emit(shape)),
        forward_(graph_, shape, cost),
        backward_(forward_.reversed()) {
    const std::vector<int> cuts = weight_grad_cuts(r_, shape.layers[0].weight_grad_pieces);
    for (const Task& task : graph_.tasks) {
      TaskSpec start_up = task;
      start_up.work.amount = 0.0;
      Line line{cost.cost_us(start_up), 0.0, task.chunk, task.chunk + 1};
      if (task.stage == Stage::kExpertDw)
        std::tie(line.first, line.last) = std::pair(cuts[task.chunk], cuts[task.chunk + 1]);
      const double rest = cost.cost_us(task) - line.fixed;
      if (task.stage == Stage::kGradReduce)
        line = {line.fixed + rest, 0.0, 0, 0};
      else
        line.slope = rest * r_ / (line.last - line.first);
      lines_.push_back(line);
    }
  }

  [[nodiscard]] int chunks() const { return r_; }
  [[nodiscard]] const Shape& shape() const { return shape_; }
  void set_shares(const std::vector<double>& shares) {
    for (std::size_t t = 0; t < lines_.size(); ++t) {
      const Line& line = lines_[t];
      forward_.duration[t] =
          line.fixed + line.slope * std::accumulate(shares.begin() + line.first, shares.begin() + line.last, 0.0);
    }
    backward_.duration = forward_.duration;
  }

  /// The time of `order` at the shares last set. cut: [r], so that at no shares x it takes less than cut . x.
  double evaluate(const std::vector<TaskId>& order, std::vector<double>& cut) {
    const std::size_t n = lines_.size();
    end_.assign(n, 0.0);
    from_.assign(n, kNoId);
    std::array<TaskId, kNumResources> last;
    last.fill(kNoId);
    TaskId latest = order.front();
    for (const TaskId t : order) {
      double start = 0.0;
      const auto after = [&](TaskId p) {
        if (p != kNoId && (from_[t] == kNoId || end_[p] > start)) std::tie(start, from_[t]) = std::pair(end_[p], p);
      };
      for (const TaskId p : forward_.predecessors(t)) after(p);
      for (int r = 0; r < kNumResources; ++r)
        if ((forward_.occupied[t] >> r & 1) != 0) {
          after(last[r]);
          last[r] = t;
        }
      end_[t] = start + forward_.duration[t];
      if (end_[t] > end_[latest]) latest = t;
    }
    double fixed = 0.0;
    cut.assign(static_cast<std::size_t>(r_), 0.0);
    for (TaskId t = latest; t != kNoId; t = from_[t]) {
      fixed += lines_[t].fixed;
      for (int c = lines_[t].first; c < lines_[t].last; ++c) cut[static_cast<std::size_t>(c)] += lines_[t].slope;
    }
    for (double& value : cut) value += fixed;  // the shares sum to 1
    return end_[latest];
  }

  /// The best of a few list schedules at the shares last set, improved; chunk: how much earlier chunks go first.
  Schedule schedule(ListScheduler& lists, const std::vector<double>& chunk, int moves) {
    Schedule best;
    best.makespan = std::numeric_limits<double>::infinity();
    const std::vector<double> tail = tails(forward_);
    const double longest = *std::max_element(tail.begin(), tail.end());
    std::vector<double> priority(tail.size());
    for (const double weight : chunk)
      for (const double weight_grad : {-0.8, 0.0}) {
        for (std::size_t t = 0; t < tail.size(); ++t) {
          const Task& task = graph_.tasks[t];
          const bool low = task.stage == Stage::kExpertDw || task.stage == Stage::kGradReduce;
          priority[t] = tail[t] + longest * ((low ? weight_grad : 0.0) - weight * task.chunk);
        }
        Schedule found;
        lists.run(forward_, priority, found);
        justify(lists, forward_, backward_, 2, found);
        if (found.makespan < best.makespan) best = std::move(found);
      }
    if (moves > 0) LocalSearch(forward_).run(moves, 1, best);
    return best;
  }

 private:
  Shape shape_;
  int r_;
  Graph graph_;  // its tasks, with chunks of equal size
  Instance forward_, backward_;
  std::vector<Line> lines_;   // [tasks]
  std::vector<double> end_;   // [tasks]
  std::vector<TaskId> from_;  // [tasks] what a task waited for last
};

struct Found {
  std::vector<double> shares;
  std::vector<TaskId> order;
  double total_us = std::numeric_limits<double>::infinity();
};

/// The best shares at a fixed order, from `start`.
void best_shares(OpenLayer& layer, Found& found) {
  constexpr int kMostCuts = 60;
  constexpr double kClose = 1e-5;
  std::vector<std::vector<double>> cuts(1);
  layer.set_shares(found.shares);
  found.total_us = layer.evaluate(found.order, cuts.back());
  while (cuts.size() < kMostCuts) {
    const std::vector<double> shares = minimize_largest(cuts);
    double floor = 0.0;  // no shares take less
    for (const std::vector<double>& cut : cuts)
      floor = std::max(floor, std::inner_product(cut.begin(), cut.end(), shares.begin(), 0.0));
    layer.set_shares(shares);
    const double total = layer.evaluate(found.order, cuts.emplace_back());
    if (total < found.total_us) {
      found.total_us = total;
      found.shares = shares;
    }
    if (found.total_us <= floor * (1.0 + kClose)) return;
  }
}

/// Shares and order in turn, while it gains.
void improve(OpenLayer& layer, ListScheduler& lists, Found& found) {
  constexpr int kRounds = 4, kMoves = 60;
  best_shares(layer, found);
  for (int round = 0; round < kRounds; ++round) {
    layer.set_shares(found.shares);
    Found next{found.shares, layer.schedule(lists, {0.0, 0.02, 0.3}, kMoves).order};
    best_shares(layer, next);
    if (next.total_us >= found.total_us * (1.0 - 1e-6)) return;
    found = std::move(next);
  }
}

/// Equal, and with smaller chunks at both ends.
std::vector<std::vector<double>> first_shares(int r) {
  std::vector<std::vector<double>> out;
  for (const double ends : {1.0, 0.5}) {
    if (ends < 1.0 && r < 3) continue;
    std::vector<double> shares(static_cast<std::size_t>(r), 1.0);
    if (r > 1) shares.front() = shares.back() = ends;
    const double sum = std::accumulate(shares.begin(), shares.end(), 0.0);
    for (double& share : shares) share /= sum;
    out.push_back(std::move(shares));
  }
  return out;
}

/// Numbers of chunks and of pieces of dW around those of `equal`.
std::vector<Shape> shapes_around(const LayerEmitter& emitter, const Shape& equal) {
  const ShapeSpace& space = emitter.space();
  const int r = emitter.chunks(equal), most = std::max(space.max_forward_chunks, space.max_backward_chunks);
  std::vector<Shape> out;
  for (int chunks = std::max(1, r - 1); chunks <= std::min(most, r + 3); ++chunks)
    for (const int pieces : {1, 2, chunks}) {
      if (pieces > chunks || (!space.has_weight_grads && pieces > 1)) continue;
      Shape shape = equal;
      (space.has_weight_grads ? shape.layers[0].backward_chunks : shape.layers[0].forward_chunks) = chunks;
      shape.layers[0].weight_grad_pieces = space.has_weight_grads ? pieces : 0;
      if (std::find(out.begin(), out.end(), shape) == out.end()) out.push_back(std::move(shape));
    }
  return out;
}

}  // namespace

std::vector<double> minimize_largest(const std::vector<std::vector<double>>& rows) {
  WEFT_CHECK(!rows.empty() && !rows.front().empty(), "a game of ", rows.size(), " rows");
  const std::size_t m = rows.size(), n = rows.front().size();
  double largest = 0.0;
  for (const std::vector<double>& row : rows)
    for (const double value : row) largest = std::max(largest, std::abs(value));
  // [m + 1, n + m + 1]: rows moved and scaled to [1, 3] leave x as it is; slacks; the right side. Last: the objective.
  const std::size_t width = n + m + 1;
  std::vector<std::vector<double>> table(m + 1, std::vector<double>(width, 0.0));
  std::vector<std::size_t> basis(m);
  for (std::size_t i = 0; i < m; ++i) {
    for (std::size_t j = 0; j < n; ++j) table[i][j] = 2.0 + (largest > 0.0 ? rows[i][j] / largest : 0.0);
    table[i][n + i] = table[i].back() = 1.0;
    basis[i] = n + i;
  }
  std::fill_n(table[m].begin(), n, 1.0);
  for (std::size_t pivots = 0; pivots < 50 * (m + n); ++pivots) {
    // The largest gain goes in; after many pivots the first gain (Bland's rule), which never cycles.
    auto in = std::max_element(table[m].begin(), table[m].end() - 1);
    if (pivots > 10 * (m + n))
      in = std::find_if(table[m].begin(), table[m].end() - 1, [](double g) { return g > 1e-12; });
    const auto column = static_cast<std::size_t>(in - table[m].begin());
    if (column == width - 1 || *in <= 1e-12) break;
    std::size_t out = m;
    for (std::size_t i = 0; i < m; ++i)
      if (table[i][column] > 1e-12 &&
          (out == m || table[i].back() * table[out][column] < table[out].back() * table[i][column]))
        out = i;
    if (out == m) break;  // unbounded, which positive rows are not
    const double by = table[out][column];
    for (double& value : table[out]) value /= by;
    for (std::size_t i = 0; i <= m; ++i) {
      const double times = table[i][column];
      if (i == out || times == 0.0) continue;
      for (std::size_t j = 0; j < width; ++j) table[i][j] -= times * table[out][j];
    }
    basis[out] = column;
  }
  std::vector<double> x(n, 0.0);
  for (std::size_t i = 0; i < m; ++i)
    if (basis[i] < n) x[basis[i]] = std::max(0.0, table[i].back());
  const double sum = std::accumulate(x.begin(), x.end(), 0.0);
  for (double& value : x) value /= sum;
  return x;
}

UnequalPlan unequal_chunks(const LayerEmitter& emitter, const CostModel& cost, const Plan& equal) {
  constexpr std::size_t kImproved = 3;  // starts of each shape that are worth it
  ListScheduler lists;
  const auto r = static_cast<std::size_t>(emitter.chunks(equal.shape));
  Found best{std::vector<double>(r, 1.0 / static_cast<double>(r)), equal.issue_order};
  Shape shape = equal.shape;
  {
    OpenLayer layer(emitter, cost, shape);
    improve(layer, lists, best);
  }
  for (const Shape& other : shapes_around(emitter, equal.shape)) {
    OpenLayer layer(emitter, cost, other);
    std::vector<Found> starts;
    for (const std::vector<double>& shares : first_shares(layer.chunks()))
      for (const double chunk : {0.0, 0.02, 0.1, 1.0}) {
        layer.set_shares(shares);
        Schedule found = layer.schedule(lists, {chunk}, 0);
        starts.push_back({shares, std::move(found.order), found.makespan});
      }
    std::sort(starts.begin(), starts.end(), [](const Found& a, const Found& b) { return a.total_us < b.total_us; });
    starts.resize(std::min(starts.size(), kImproved));
    for (Found& start : starts) {
      improve(layer, lists, start);
      if (start.total_us >= best.total_us) continue;
      best = std::move(start);
      shape = other;
    }
  }
  UnequalPlan out{{"weft_unequal", shape, std::move(best.order)}, std::move(best.shares)};
  out.total_us = price(emitter.emit(out.plan.shape, out.shares), out.plan, cost).total_us;
  return out;
}

}  // namespace weft::scheduler
