#include "scheduler/search.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <memory>
#include <optional>
#include <utility>

#include "core/error.h"
#include "core/rng.h"
#include "scheduler/instance.h"
#include "scheduler/local_search.h"
#include "scheduler/order.h"
#include "scheduler/simulator.h"

namespace weft::scheduler {
namespace {

constexpr std::int32_t kSlotRest = 64;  ///< Of slots, while searching: about the tasks of a layer.

/// What list scheduling goes by, beside the longest way to the end. In units of a micro-batch's critical path.
struct PriorityRule {
  double micro_batch = 0.25;  ///< Older micro-batches first.
  double backward = 0.1;      ///< Backward before forward.
  double weight_grad = -0.8;  ///< dW fills gaps.
  double gradient = -0.5;     ///< So do gradient reductions.
  double sub_batch = 0.0;     ///< Earlier sub-batches first.
  double chunk = 0.0;         ///< Earlier chunks first: against going on with the next chunk's all-gather.
  double noise = 0.0;         ///< Random share of the way to the end.
};
constexpr double PriorityRule::*kRuleFields[] = {
    &PriorityRule::micro_batch, &PriorityRule::backward, &PriorityRule::weight_grad, &PriorityRule::gradient,
    &PriorityRule::sub_batch,   &PriorityRule::chunk,    &PriorityRule::noise};

/// A Shape with all that is derived from it.
struct Problem {
  Problem(const Emitter& emitter, Shape of, const CostModel& cost)
      : shape(std::move(of)),
        graph(emitter.emit(shape)),
        forward(graph, shape, cost),
        backward(forward.reversed()),
        tail(tails(forward)) {
    unit = *std::max_element(tail.begin(), tail.end()) / emitter.space().num_micro_batches;
  }
  Shape shape;
  Graph graph;
  Instance forward, backward;
  std::vector<double> tail;
  double unit = 0.0;  ///< About one micro-batch's critical path.
};

struct Candidate {
  std::shared_ptr<const Problem> problem;
  PriorityRule rule;
  Schedule schedule;
  PlanPrice price;
};

class Search {
 public:
  Search(const Emitter& emitter, const CostModel& cost, const SearchOptions& options)
      : emitter_(emitter),
        space_(emitter.space()),
        cost_(cost),
        options_(options),
        rng_(options.seed, RngPurpose::kSearch) {}

  SearchResult run(const std::vector<Plan>& incumbents) {
    for (const Plan& plan : incumbents) add_incumbent(plan);
    visits_ = 0.0;  // others' plans are not the search's to pay for
    const double tasks = emitter_.emit(space_.base).num_tasks();
    budget_ = std::max(options_.task_visits, options_.visits_per_task * tasks);
    few_candidates_ = budget_ < kManyVisits * tasks;
    sweep();
    evolve(0.8 * budget_);
    polish();
    if (population_.empty())
      throw Error(ErrorCode::kInvalidArgument,
                  str("no plan fits the memory limit of ", options_.memory_limit_bytes,
                      " bytes: the smallest found needs ", smallest_memory_),
                  "raise schedule.memory_limit_mib, use a smaller train.micro_batch, or recompute (train.recompute)");
    const Candidate& best = population_.front();
    Plan plan{"weft", best.problem->shape, best.schedule.order};
    const PlanPrice settled = settle_slots(best.problem->graph, plan, cost_, options_.memory_limit_bytes);
    if (incumbent_ && incumbent_->price.total_us < settled.total_us) {
      incumbent_->plan.policy = "weft";
      return {std::move(incumbent_->plan), incumbent_->price, num_candidates_};
    }
    return {std::move(plan), settled, num_candidates_};
  }

 private:
  static constexpr std::size_t kPopulation = 12;
  static constexpr double kManyVisits = 5000;  // of each task: enough to find good rules by chance
  static constexpr int kRounds = 4;            // of justification
  // A task emitted, or priced with its memory, costs about as much as this many tasks in a list schedule.
  static constexpr double kEmissionVisits = 12, kPriceVisits = 10;

  double uniform() { return rng_.uniform(counter_++); }
  double around() { return 2.0 * uniform() - 1.0; }
  int below(int n) { return static_cast<int>(rng_.below(static_cast<std::uint64_t>(n), counter_++)); }

  PriorityRule random_rule() {
    return {uniform(),       0.6 * around(),  -uniform(),
            -uniform(),      0.05 * around(), below(2) == 0 ? 0.0 : std::pow(10.0, -3.0 * uniform()),
            0.02 * uniform()};
  }

  std::shared_ptr<const Problem> make_problem(Shape shape) {
    auto problem = std::make_shared<const Problem>(emitter_, std::move(shape), cost_);
    visits_ += kEmissionVisits * problem->forward.size();
    return problem;
  }

  /// Into the population, when it is good enough, new, and fits the memory.
  void add(Candidate candidate) {
    const auto better = [](const Candidate& a, const Candidate& b) { return a.price.total_us < b.price.total_us; };
    const double guess = candidate.schedule.makespan;  // the price is about this
    ++num_candidates_;
    if (guess >= worst_us()) return;
    const Problem& p = *candidate.problem;
    issue_host_waits_late(p.graph, candidate.schedule.order);
    const auto price_at = [&](std::int32_t rest) {
      visits_ += kPriceVisits * p.forward.size();
      return price(p.graph, {"weft", p.shape, candidate.schedule.order, rest}, cost_);
    };
    candidate.price = price_at(kSlotRest);
    if (options_.memory_limit_bytes > 0 && candidate.price.memory_bytes > options_.memory_limit_bytes)
      candidate.price = price_at(0);
    smallest_memory_ = std::min(smallest_memory_, candidate.price.memory_bytes);
    if (options_.memory_limit_bytes > 0 && candidate.price.memory_bytes > options_.memory_limit_bytes) return;
    for (const Candidate& known : population_)
      if (std::abs(known.price.total_us - candidate.price.total_us) <= 1e-9 * known.price.total_us) return;
    population_.insert(std::upper_bound(population_.begin(), population_.end(), candidate, better),
                       std::move(candidate));
    if (population_.size() > kPopulation) population_.pop_back();
  }

  void add_incumbent(const Plan& plan) {
    Candidate c{make_problem(plan.shape), {}, {}, {}};
    c.schedule.order = plan.issue_order;
    const PlanPrice its = price(c.problem->graph, plan, cost_);
    const bool fits = options_.memory_limit_bytes <= 0 || its.memory_bytes <= options_.memory_limit_bytes;
    if (fits && (!incumbent_ || its.total_us < incumbent_->price.total_us)) incumbent_ = SearchResult{plan, its, 0};
    const SlotMap none{std::vector<std::int32_t>(c.problem->graph.buffers.size(), kNoId), {}, {}};
    const Timeline timeline = simulate(c.problem->graph, plan, none, cost_, false);
    c.schedule.start = timeline.start_us;
    c.schedule.makespan = timeline.total_us;
    add(std::move(c));
  }

  void attempt(std::shared_ptr<const Problem> problem, const PriorityRule& rule) {
    const Problem& p = *problem;
    priority_.resize(p.tail.size());
    for (std::size_t t = 0; t < priority_.size(); ++t) {
      const Task& task = p.graph.tasks[t];
      double bonus = -rule.micro_batch * task.micro_batch - rule.sub_batch * task.sub_batch;
      if (task.stage == Stage::kExpertDw)
        bonus += rule.weight_grad;
      else if (task.stage == Stage::kGradReduce)
        bonus += rule.gradient;
      else if (task.phase == Phase::kBackward)
        bonus += rule.backward;
      if (task.chunk > 0) bonus -= rule.chunk * task.chunk;
      const double noise = rule.noise > 0.0 ? rule.noise * around() : 0.0;
      priority_[t] = p.tail[t] * (1.0 + noise) + p.unit * bonus;
    }
    Candidate c{std::move(problem), rule, {}, {}};
    lists_.run(p.forward, priority_, c.schedule);
    int made = 1;
    // Most are far from good. Justification gains a few percent, the most of it in its first round.
    for (const auto& [within, rounds] : {std::pair{1.1, 1}, std::pair{1.02, kRounds - 1}})
      if (c.schedule.makespan <= within * worst_us())
        made += justify(lists_, p.forward, p.backward, rounds, c.schedule);
    visits_ += double(made) * p.forward.size();
    num_candidates_ += made - 1;
    add(std::move(c));
  }

  /// What a candidate must beat to get into the population.
  [[nodiscard]] double worst_us() const {
    return population_.size() < kPopulation ? std::numeric_limits<double>::infinity()
                                            : population_.back().price.total_us;
  }
  [[nodiscard]] double best_us() const {
    return population_.empty() ? std::numeric_limits<double>::infinity() : population_.front().price.total_us;
  }

  /// The same cut everywhere, coarse to fine: every chunk degree of a single layer, a few of a whole step.
  void sweep() {
    const bool single_layer = space_.base.layers.size() == 1 && space_.num_micro_batches == 1;
    const auto degrees = [&](int most) {
      std::vector<int> out;
      for (int r = 1; r <= most; r = single_layer ? r + 1 : 2 * r) out.push_back(r);
      return out;
    };
    std::vector<std::array<int, 3>> cuts;  // sub-batches, chunks forward and backward
    for (int s = 1; s <= std::min(space_.max_sub_batches, 4); ++s)
      for (const int forward : degrees(space_.max_forward_chunks))
        for (const int backward : degrees(space_.max_backward_chunks))
          if (single_layer || s * std::max(forward, backward) <= 8) cuts.push_back({s, forward, backward});
    if (few_candidates_ && !single_layer)  // those of few tasks first, when not all will be seen
      std::stable_sort(cuts.begin(), cuts.end(),
                       [](const auto& a, const auto& b) { return a[0] * (a[1] + a[2]) < b[0] * (b[1] + b[2]); });
    for (const auto& [s, forward, backward] : cuts) {
      if (visits_ > 0.4 * budget_ && !population_.empty()) return;
      sweep_shape(s, forward, backward, single_layer);
    }
  }

  void sweep_shape(int sub_batches, int forward, int backward, bool single_layer) {
    Shape shape = space_.base;
    shape.sub_batches = {sub_batches};
    const std::vector<int> pieces =
        single_layer && space_.has_weight_grads ? std::vector<int>{1, 2, 3, backward} : std::vector<int>{backward};
    for (std::size_t i = 0; i < pieces.size(); ++i) {
      if (i > 0 && pieces[i] > backward) continue;
      for (LayerShape& layer : shape.layers) {
        layer.forward_chunks = forward;
        layer.backward_chunks = backward;
        layer.weight_grad_pieces = space_.has_weight_grads ? pieces[i] : 0;
      }
      set_slices(shape, 0, static_cast<int>(shape.layers.size()), sub_batches > 1 ? 2 : 1);
      if (emitter_.shape_bound_us(shape, cost_) >= best_us()) return;
      const auto problem = make_problem(shape);
      for (int k = 0; k < 3; ++k) attempt(problem, few_candidates_ && k == 0 ? PriorityRule{} : random_rule());
      if (!single_layer) continue;
      for (double chunk = 1.0; chunk > 2e-2; chunk /= 2.0) {
        PriorityRule rule;
        rule.chunk = chunk;
        attempt(problem, rule);
      }
    }
  }

  void set_slices(Shape& shape, int first, int last, int slices) {
    slices = std::min(slices, space_.max_gradient_slices);
    for (int l = first; l < last; ++l)
      shape.layers[static_cast<std::size_t>(l)].gradient_shares.assign(
          slices > 1 ? static_cast<std::size_t>(slices) : 0, 1.0 / slices);
  }

  /// One change of the cut, on a micro-batch or on a run of layers. False: nothing there to change.
  bool mutate(Shape& shape) {
    const int layers = static_cast<int>(shape.layers.size());
    const int first = below(layers), last = std::min(layers, first + 1 + below(layers));
    const auto each = [&](const auto& change) {
      for (int l = first; l < last; ++l) change(shape.layers[static_cast<std::size_t>(l)]);
    };
    switch (below(6)) {
      case 5:  // fewer in flight need less memory; where the number is given, it stays
        if (space_.base.micro_batches_in_flight != 0 || space_.num_micro_batches == 1) return false;
        shape.micro_batches_in_flight = below(std::min(4, space_.num_micro_batches));
        return true;
      case 0: {
        if (space_.max_sub_batches == 1) return false;
        const int m = below(space_.num_micro_batches);
        std::vector<int> all;
        for (int i = 0; i < space_.num_micro_batches; ++i) all.push_back(sub_batches_of(shape, i));
        int& pieces = all[static_cast<std::size_t>(m)];
        pieces = std::clamp(pieces + (below(2) == 0 ? 1 : -1), 1, space_.max_sub_batches);
        shape.sub_batches = std::move(all);
        return true;
      }
      case 1: {
        if (space_.max_forward_chunks == 1) return false;
        const int r = 1 + below(std::min(4, space_.max_forward_chunks));
        each([&](LayerShape& l) { l.forward_chunks = r; });
        return true;
      }
      case 2: {
        if (space_.max_backward_chunks == 1) return false;
        const int r = 1 + below(std::min(4, space_.max_backward_chunks));
        each([&](LayerShape& l) { l.backward_chunks = r; });
        return true;
      }
      case 3: {
        if (!space_.has_weight_grads) return false;
        const int pieces = 1 + below(4);
        each([&](LayerShape& l) { l.weight_grad_pieces = pieces; });
        return true;
      }
      default:
        if (space_.max_gradient_slices == 1) return false;
        set_slices(shape, first, last, 1 + below(4));
        return true;
    }
  }

  void mutate(PriorityRule& rule) {
    if (below(2) == 0) {
      const PriorityRule fresh = random_rule();
      const auto field = kRuleFields[below(static_cast<int>(std::size(kRuleFields)))];
      rule.*field = fresh.*field;
    } else {
      for (double PriorityRule::*field :
           {&PriorityRule::micro_batch, &PriorityRule::backward, &PriorityRule::weight_grad, &PriorityRule::gradient})
        rule.*field += 0.05 * around();
      rule.sub_batch += 0.005 * around();
    }
  }

  /// Changes to the better half, kept when they are among the best: a (mu + 1) evolution strategy.
  void evolve(double until) {
    if (space_.base.layers.size() == 1 && space_.num_micro_batches == 1) return;  // the sweep has seen every cut
    while (visits_ < until && !population_.empty()) {
      const int size = static_cast<int>(population_.size());
      const Candidate& parent = population_[static_cast<std::size_t>(std::min(below(size), below(size)))];
      std::shared_ptr<const Problem> problem = parent.problem;
      PriorityRule rule = parent.rule;
      Shape shape = problem->shape;
      bool cut = false;
      for (int changes = 1 + below(2); changes > 0; --changes) {
        if (below(7) < 5)
          cut = mutate(shape) || cut;
        else
          mutate(rule);
      }
      if (cut && shape != problem->shape) {
        if (emitter_.shape_bound_us(shape, cost_) >= best_us()) continue;
        problem = make_problem(std::move(shape));
      }
      visits_ += 1;  // so that the loop ends whatever happens
      attempt(std::move(problem), rule);
    }
  }

  void polish() {
    const std::size_t best = std::min<std::size_t>(population_.size(), 2);
    const std::vector<Candidate> from(population_.begin(), population_.begin() + static_cast<std::ptrdiff_t>(best));
    for (const Candidate& candidate : from) {
      const double left = std::max(0.0, budget_ - visits_), tasks = candidate.problem->forward.size();
      // a move looks at all tasks twice, and at their edges
      const int moves = static_cast<int>(std::min(4000.0, left / (best * 3.0 * tasks)));
      if (moves < 1) continue;
      Candidate better = candidate;
      LocalSearch(candidate.problem->forward).run(moves, options_.seed, better.schedule);
      add(std::move(better));
    }
  }

  const Emitter& emitter_;
  const ShapeSpace& space_;
  const CostModel& cost_;
  SearchOptions options_;
  Rng rng_;
  std::uint64_t counter_ = 0;
  ListScheduler lists_;
  std::vector<double> priority_;
  std::vector<Candidate> population_;      // best first
  std::optional<SearchResult> incumbent_;  // the best of them
  double visits_ = 0.0, budget_ = 0.0;
  bool few_candidates_ = false;  // for so many tasks the budget is small: what is known to be good goes first
  std::int64_t num_candidates_ = 0;
  std::int64_t smallest_memory_ = std::numeric_limits<std::int64_t>::max();
};

}  // namespace

PlanPrice price(const Graph& graph, const Plan& plan, const CostModel& cost) {
  const SlotMap slots = assign_slots(graph, plan);
  return {simulate(graph, plan, slots, cost, false).total_us, memory_use(graph, slots).total()};
}

PlanPrice settle_slots(const Graph& graph, Plan& plan, const CostModel& cost, std::int64_t memory_limit_bytes) {
  constexpr double kTolerance = 1.002;
  plan.slot_rest = 0;
  PlanPrice best = price(graph, plan, cost);
  if (has_one_stream(plan.shape)) return best;
  for (const std::int32_t rest : {kSlotRest / 4, kSlotRest, 4 * kSlotRest}) {
    Plan other = plan;
    other.slot_rest = rest;
    const PlanPrice its = price(graph, other, cost);
    if (memory_limit_bytes > 0 && its.memory_bytes > memory_limit_bytes) break;
    if (its.total_us * kTolerance >= best.total_us) continue;
    best = its;
    plan.slot_rest = rest;
  }
  return best;
}

SearchResult search_plan(const Emitter& emitter, const CostModel& cost, const std::vector<Plan>& incumbents,
                         const SearchOptions& options) {
  return Search(emitter, cost, options).run(incumbents);
}

}  // namespace weft::scheduler
