// Ring attention in one process: every rank's blocks, merged, against attention over the whole sequence by its
// definition; and the identities that hold for gradients at any size.
#include <cmath>

#include "parallel/attention/ring.h"
#include "tests/support/catch.h"
#include "tests/support/generators.h"
#include "tests/support/reference.h"

using namespace weft;
using namespace weft::parallel;
using kernels::AttentionRows;
using kernels::AttentionShape;
using test::Grid;
using test::Random;

namespace {

Stream& stream() {
  static const std::unique_ptr<Stream> inline_stream = make_inline_stream();
  return *inline_stream;
}

/// Some sequences of S tokens, each of several documents, in sequence order.
template <class T>
struct Whole {
  AttentionShape shape;
  std::int64_t sequences, length;
  reference::Rows rows;
  Grid<T> q, k, v, dout;

  Whole(Random& random, const AttentionShape& s, std::int64_t sequences_, std::int64_t length_, double peak)
      : shape(s),
        sequences(sequences_),
        length(length_),
        q(Grid<T>::normal(random, size(), s.num_heads * s.head_dim)),
        k(Grid<T>::normal(random, size(), s.num_kv_heads * s.head_dim)),
        v(Grid<T>::normal(random, size(), s.num_kv_heads * s.head_dim)),
        dout(Grid<T>::normal(random, size(), s.num_heads * s.head_dim)) {
    shape.scale *= peak;
    std::int32_t segment = 0, position = 0;
    for (std::int64_t i = 0; i < size(); ++i, ++position) {
      if (i > 0 && (i % length == 0 || random.below(12) == 0)) ++segment, position = 0;
      rows.segment.push_back(segment);
      rows.position.push_back(position);
    }
  }
  [[nodiscard]] std::int64_t size() const { return sequences * length; }
};

/// The rows of `tokens`, in this order.
template <class T>
Grid<T> take(const Grid<T>& from, const std::vector<std::int64_t>& tokens) {
  Grid<T> out(static_cast<std::int64_t>(tokens.size()), from.cols());
  for (std::int64_t i = 0; i < out.rows(); ++i)
    for (std::int64_t j = 0; j < out.cols(); ++j) out(i, j) = from(tokens[static_cast<std::size_t>(i)], j);
  return out;
}
template <class T>
void add_at(Grid<T>& to, const Grid<T>& part, const std::vector<std::int64_t>& tokens) {
  for (std::int64_t i = 0; i < part.rows(); ++i)
    for (std::int64_t j = 0; j < part.cols(); ++j) to(tokens[static_cast<std::size_t>(i)], j) += part(i, j);
}

template <class T>
struct Result {
  Grid<T> out, lse, dq, dk, dv;
  explicit Result(const Whole<T>& w)
      : out(w.q.rows(), w.q.cols()), lse(w.q.rows(), w.shape.num_heads), dq(out), dk(w.k.rows(), w.k.cols()), dv(dk) {
    for (Grid<T>* g : {&out, &lse, &dq, &dk, &dv})
      for (std::int64_t i = 0; i < g->rows(); ++i)
        for (std::int64_t j = 0; j < g->cols(); ++j) (*g)(i, j) = T(0);
  }
};

/// One rank's rows.
template <class T>
struct Rank {
  std::vector<std::int64_t> tokens;
  reference::Rows rows;
  Grid<T> q, k, v;
  Rank(const Whole<T>& w, const Layout& layout, int rank)
      : tokens(tokens_of(layout, rank, w.length)), q(take(w.q, tokens)), k(take(w.k, tokens)), v(take(w.v, tokens)) {
    for (const std::int64_t t : tokens) {
      rows.segment.push_back(w.rows.segment[static_cast<std::size_t>(t)]);
      rows.position.push_back(w.rows.position[static_cast<std::size_t>(t)]);
    }
  }
  [[nodiscard]] AttentionRows mask() const { return {rows.segment.data(), rows.position.data()}; }
};

template <class T>
Result<T> run_ring(const Whole<T>& w, int ring) {
  const Layout one = zigzag_layout(1, w.length, {ring, 1});
  const Layout all = zigzag_layout(static_cast<int>(w.sequences), w.length, {ring, 1});
  std::vector<Rank<T>> ranks;
  for (int r = 0; r < ring; ++r) ranks.emplace_back(w, all, r);
  Result<T> result(w);
  for (int r = 0; r < ring; ++r) {
    const Rank<T>& me = ranks[static_cast<std::size_t>(r)];
    const auto steps = ring_steps(one, r);
    const std::int64_t n = me.q.rows();
    Grid<T> out(n, w.q.cols()), lse(n, w.shape.num_heads), part = out, part_lse = lse, dq = out;
    const auto dout = take(w.dout, me.tokens);
    const auto inputs = [&](const Rank<T>& from) {
      return kernels::AttentionInputs<T>{me.q.view(), from.k.view(), from.v.view(), me.mask(), from.mask()};
    };
    const auto block = [&](std::size_t s) { return RingBlock{&steps[s], w.sequences, w.length / ring, s == 0}; };
    for (std::size_t s = 0; s < steps.size(); ++s)
      ring_forward<T>(stream(), {out.view(), lse.view(), part.view(), part_lse.view()},
                      inputs(ranks[static_cast<std::size_t>(steps[s].source)]), w.shape, block(s));
    for (std::size_t s = 0; s < steps.size(); ++s) {
      const Rank<T>& from = ranks[static_cast<std::size_t>(steps[s].source)];
      Grid<T> dk(n, w.k.cols()), dv = dk;
      if (s > 0)
        for (Grid<T>* grid : {&dk, &dv}) std::fill_n(grid->view().data, n * w.k.cols(), T(0));
      ring_backward<T>(stream(), {dq.view(), dk.view(), dv.view()},
                       {dout.view(), std::as_const(out).view(), std::as_const(lse).view()}, inputs(from), w.shape,
                       block(s));
      add_at(result.dk, dk, from.tokens);
      add_at(result.dv, dv, from.tokens);
    }
    add_at(result.out, out, me.tokens);
    add_at(result.lse, lse, me.tokens);
    add_at(result.dq, dq, me.tokens);
  }
  return result;
}

/// |a - b| / |b|, Frobenius.
template <class T>
double error(const Grid<T>& a, const reference::Dense& b) {
  double difference = 0.0, size = 0.0;
  for (std::int64_t i = 0; i < a.rows(); ++i)
    for (std::int64_t j = 0; j < a.cols(); ++j) {
      const double want = b.data[static_cast<std::size_t>(i * b.cols + j)];
      difference += std::pow(static_cast<double>(a(i, j)) - want, 2);
      size += want * want;
    }
  return std::sqrt(difference / size);
}

/// Largest violation of the identities of one head group and document, over the magnitude of what is summed:
/// sum dV = sum dO, sum dK = 0, <Q, dQ> = <K, dK>, <V, dV> = <O, dO>.
template <class T>
double worst_identity(const Whole<T>& w, const Result<T>& r) {
  const std::int64_t d = w.shape.head_dim, group = w.shape.num_heads / w.shape.num_kv_heads;
  // what is multiplied and cancels inside a gradient, where a saturated softmax leaves next to nothing of it
  const double unit = std::max(1.0, w.shape.scale * static_cast<double>(d));
  double worst = 0.0;
  for (std::int64_t first = 0, end = 0; first < w.size(); first = end) {
    while (end < w.size() &&
           w.rows.segment[static_cast<std::size_t>(end)] == w.rows.segment[static_cast<std::size_t>(first)])
      ++end;
    const auto sum = [&](const auto& term, std::int64_t begin_col, std::int64_t cols) {
      double total = 0.0, size = 0.0;
      for (std::int64_t i = first; i < end; ++i)
        for (std::int64_t j = begin_col; j < begin_col + cols; ++j) {
          total += static_cast<double>(term(i, j));
          size += std::abs(static_cast<double>(term(i, j)));
        }
      return std::pair(total, size);
    };
    const auto product = [](const Grid<T>& a, const Grid<T>& b) {
      return
          [&](std::int64_t i, std::int64_t j) { return static_cast<double>(a(i, j)) * static_cast<double>(b(i, j)); };
    };
    const auto note = [&](std::pair<double, double> a, std::pair<double, double> b) {
      worst = std::max(worst, std::abs(a.first - b.first) / std::max({a.second, b.second, unit}));
    };
    for (std::int64_t h = 0; h < w.shape.num_kv_heads; ++h) {
      const std::int64_t kv = h * d, q = h * group * d;
      for (std::int64_t c = 0; c < d; ++c) {
        std::pair<double, double> outputs{0.0, 0.0};
        for (std::int64_t g = 0; g < group; ++g) {
          const auto one = sum(w.dout, q + g * d + c, 1);
          outputs = {outputs.first + one.first, outputs.second + one.second};
        }
        note(sum(r.dv, kv + c, 1), outputs);
        note(sum(r.dk, kv + c, 1), {0.0, 0.0});
      }
      note(sum(product(w.q, r.dq), q, group * d), sum(product(w.k, r.dk), kv, d));
      note(sum(product(w.v, r.dv), kv, d), sum(product(r.out, w.dout), q, group * d));
    }
  }
  return worst;
}

template <class T>
void check_ring(std::uint64_t seed, int ring, std::int64_t length, double peak, double bound) {
  Random random(seed);
  const Whole<T> w(random, {4, 2, 8, 1.0 / std::sqrt(8.0)}, 2, length, peak);
  const Result<T> r = run_ring(w, ring);
  const reference::Dense q(w.q.view()), k(w.k.view()), v(w.v.view()), dout(w.dout.view());
  const auto forward = reference::attention(q, k, v, w.rows, w.rows, w.shape);
  const auto backward = reference::attention_backward(dout, q, k, v, w.rows, w.rows, w.shape);
  INFO("ring " << ring << ", length " << length << ", peak " << peak);
  CHECK(error(r.out, forward.out) <= bound);
  CHECK(error(r.lse, forward.lse) <= bound);
  CHECK(error(r.dq, backward.dq) <= bound);
  CHECK(error(r.dk, backward.dk) <= bound);
  CHECK(error(r.dv, backward.dv) <= bound);
  CHECK(worst_identity(w, r) <= 4 * bound);
}

}  // namespace

TEST_CASE("ring attention in any split is attention over the whole sequence", "[sequence]") {
  for (const int ring : {1, 2, 3, 4, 8, 16})
    for (const std::int64_t length : {std::int64_t{2} * ring, std::int64_t{8} * ring, std::int64_t{96}}) {
      check_ring<double>(static_cast<std::uint64_t>(ring), ring, length, 1.0, 1e-13);
      check_ring<float>(static_cast<std::uint64_t>(ring), ring, length, 1.0, 3e-6);
    }
}

TEST_CASE("a peaked softmax loses nothing in the merge", "[sequence]") {
  for (const int ring : {2, 8}) {
    check_ring<double>(7, ring, 96, 9.0, 1e-13);
    check_ring<float>(7, ring, 96, 9.0, 3e-5);
    check_ring<double>(8, ring, 96, 300.0, 1e-12);  // gaps beyond the range of exp
  }
}

TEST_CASE("documents of a sequence do not leak, and later tokens do not reach earlier ones", "[sequence]") {
  Random random(11);
  Whole<double> w(random, {2, 1, 4, 0.5}, 1, 64, 1.0);
  const Result<double> before = run_ring(w, 4);
  const std::int64_t changed = 40;
  const std::int32_t document = w.rows.segment[changed];
  for (Grid<double>* g : {&w.k, &w.v, &w.q})
    for (std::int64_t j = 0; j < g->cols(); ++j) (*g)(changed, j) += 1.0;
  const Result<double> after = run_ring(w, 4);
  bool reached = false;
  for (std::int64_t t = 0; t < 64; ++t) {
    const bool may_see = w.rows.segment[static_cast<std::size_t>(t)] == document && t >= changed;
    if (may_see)
      reached = reached || after.out(t, 0) != before.out(t, 0);
    else
      CHECK(after.out(t, 0) == before.out(t, 0));
    if (w.rows.segment[static_cast<std::size_t>(t)] != document) CHECK(after.dk(t, 0) == before.dk(t, 0));
  }
  CHECK(reached);
}
