#include "kernels/attention.h"

#include "kernels/cpu/attention_blocks.h"
#include "tests/kernels/device_kernels.h"

using namespace weft;
using namespace weft::kernels;
using weft::test::difference;
using weft::test::error_of;
using weft::test::Grid;
using weft::test::inline_stream;
using weft::test::Random;
using weft::test::says;
namespace reference = weft::reference;

namespace {

AttentionRows view(const reference::Rows& rows) { return {rows.segment.data(), rows.position.data()}; }

/// `count` segments of random lengths in a random order of ids, positions ascending from a random start with steps of 1
/// or more.
reference::Rows random_rows(Random& random, std::int64_t count, std::int64_t max_length, std::int64_t max_step) {
  reference::Rows rows;
  for (const std::int32_t segment : random.permutation(count)) {
    auto position = static_cast<std::int32_t>(random.below(3));
    for (std::int64_t n = random.below(max_length + 1); n > 0; --n) {
      rows.segment.push_back(segment);
      rows.position.push_back(position);
      position += static_cast<std::int32_t>(1 + random.below(max_step));
    }
  }
  return rows;
}

template <class T>
struct Case {
  AttentionShape shape;
  reference::Rows q_rows, k_rows;
  Grid<T> q, k, v, dout;

  Case(Random& random, AttentionShape shape_, reference::Rows q_rows_, reference::Rows k_rows_, std::int64_t pad)
      : shape(shape_),
        q_rows(std::move(q_rows_)),
        k_rows(std::move(k_rows_)),
        q(Grid<T>::normal(random, size(q_rows), shape.num_heads * shape.head_dim, pad)),
        k(Grid<T>::normal(random, size(k_rows), shape.num_kv_heads * shape.head_dim, pad)),
        v(Grid<T>::normal(random, size(k_rows), shape.num_kv_heads * shape.head_dim, pad)),
        dout(Grid<T>::normal(random, size(q_rows), shape.num_heads * shape.head_dim, pad)) {}

  static std::int64_t size(const reference::Rows& rows) { return static_cast<std::int64_t>(rows.segment.size()); }
  AttentionInputs<T> inputs() const { return {q.view(), k.view(), v.view(), view(q_rows), view(k_rows)}; }
};

template <class T>
struct Outputs {
  Grid<T> out;
  Grid<Wide<T>> lse;
  Grid<T> dq, dk, dv;
};

template <class T, class Device>
Outputs<T> run(Device& device, const Case<T>& c) {
  Outputs<T> o{Grid<T>(c.q.rows(), c.q.cols(), 1), Grid<Wide<T>>(c.q.rows(), c.shape.num_heads, 1),
               Grid<T>(c.q.rows(), c.q.cols(), 2), Grid<T>(c.k.rows(), c.k.cols(), 1),
               Grid<T>(c.k.rows(), c.k.cols(), 1)};
  attention_forward<T>(device, o.out.view(), o.lse.view(), c.inputs(), c.shape);
  attention_backward<T>(device, {o.dq.view(), o.dk.view(), o.dv.view()}, c.dout.view(), std::as_const(o.out).view(),
                        std::as_const(o.lse).view(), c.inputs(), c.shape);
  return o;
}

template <class T>
void check_against_reference(weft::test::KernelDevice& device, const Case<T>& c) {
  const reference::Dense q(c.q.view()), k(c.k.view()), v(c.v.view()), dout(c.dout.view());
  const auto forward = reference::attention(q, k, v, c.q_rows, c.k_rows, c.shape);
  const auto backward = reference::attention_backward(dout, q, k, v, c.q_rows, c.k_rows, c.shape);
  const Outputs<T> o = run(device, c);
  const std::int64_t inner = c.shape.head_dim + c.k.rows(), all = inner + c.q.rows() * c.shape.num_heads;
  CHECK(difference(o.out, forward.out, inner) == "");
  CHECK(difference(o.lse, forward.lse, inner) == "");
  // the softmax of a lone key has no gradient: there, terms of magnitude 1 (the inputs are standard normal) cancel
  CHECK(difference(o.dq, backward.dq, inner, 1.0) == "");
  CHECK(difference(o.dk, backward.dk, all, 1.0) == "");
  CHECK(difference(o.dv, backward.dv, all) == "");
}

AttentionShape shape_of(std::int64_t heads, std::int64_t kv_heads, std::int64_t dim) {
  return {heads, kv_heads, dim, 1.0 / std::sqrt(static_cast<double>(dim))};
}

reference::Rows one_sequence(std::int32_t length) {
  reference::Rows rows;
  for (std::int32_t t = 0; t < length; ++t) {
    rows.segment.push_back(5);
    rows.position.push_back(t);
  }
  return rows;
}

}  // namespace

TEMPLATE_TEST_CASE("attention over packed sequences equals its definition", "[attention]", WEFT_ROW_DEVICES) {
  WEFT_KERNEL_CASE(T, device);
  for (std::uint64_t seed = 0; seed < 40; ++seed) {
    Random random(seed);
    const std::int64_t kv_heads = random.pick({1, 2, 3}), heads = kv_heads * random.pick({1, 2, 4});
    const std::int64_t dim = random.pick({1, 2, 7, 16, 24, 64, 80});
    const auto rows = random_rows(random, random.pick({1, 3, 7}), random.pick({1, 5, 40, 90}), 1);
    INFO("seed " << seed << ": " << heads << " heads, " << kv_heads << " kv heads of " << dim << ", "
                 << rows.segment.size() << " rows");
    check_against_reference(device, Case<T>(random, shape_of(heads, kv_heads, dim), rows, rows, random.below(3)));
  }
}

TEMPLATE_TEST_CASE("attention masks by segment and position, wherever rows lie", "[attention]", WEFT_ROW_DEVICES) {
  WEFT_KERNEL_CASE(T, device);
  for (std::uint64_t seed = 100; seed < 130;
       ++seed) {  // queries and keys of different ranks: any segments, gaps in positions
    Random random(seed);
    const auto q_rows = random_rows(random, random.pick({1, 4}), random.pick({3, 70, 150}), 4);
    const auto k_rows = random_rows(random, random.pick({1, 5}), random.pick({3, 70, 200}), 5);
    INFO("seed " << seed << ": " << q_rows.segment.size() << " queries, " << k_rows.segment.size() << " keys");
    check_against_reference(device,
                            Case<T>(random, shape_of(2, 1, random.pick({8, 33})), q_rows, k_rows, random.below(3)));
  }
}

TEMPLATE_TEST_CASE("attention over sizes around the block", "[attention]", WEFT_ROW_DEVICES) {
  WEFT_KERNEL_CASE(T, device);
  for (const std::int32_t length : {1, 31, 63, 64, 65, 127, 128, 129, 257}) {
    Random random(static_cast<std::uint64_t>(length));
    INFO("length " << length);
    const auto rows = one_sequence(length);
    check_against_reference(device, Case<T>(random, shape_of(2, 2, 16), rows, rows, 0));
  }
}

TEMPLATE_TEST_CASE("a query without keys gets zeros, minus infinity and no gradient", "[attention]", WEFT_F64_DEVICES) {
  WEFT_KERNEL_CASE(T, device);
  Random random(5);
  reference::Rows q_rows{{0, 0, 1, 2}, {0, 9, 3, 4}}, k_rows{{0, 0, 2}, {4, 6, 5}};  // only row 1 sees anything
  const Case<double> c(random, shape_of(2, 1, 8), q_rows, k_rows, 0);
  const auto o = run(device, c);
  check_against_reference(device, c);
  for (const std::int64_t i : {0, 2, 3}) {
    CHECK(o.lse(i, 0) == -std::numeric_limits<double>::infinity());
    for (std::int64_t j = 0; j < 16; ++j) {
      CHECK(o.out(i, j) == 0.0);
      CHECK(o.dq(i, j) == 0.0);
    }
  }
  CHECK(std::isfinite(o.lse(1, 0)));
  for (std::int64_t j = 0; j < 8; ++j) CHECK(o.dk(2, j) == 0.0);
}

TEST_CASE("attention's gradients pass the gradient check", "[attention][gradcheck]") {
  for (const std::uint64_t seed : {1, 2, 3}) {
    Random random(seed);
    const auto rows = random_rows(random, 2, 8, 2);
    INFO("seed " << seed << ", " << rows.segment.size() << " rows");
    Case<double> c(random, shape_of(4, 2, 6), rows, rows, 0);
    const auto o = run(inline_stream(), c);
    const auto span = [](auto&& grid) {
      return std::span(grid.view().data, static_cast<std::size_t>(grid.rows() * grid.cols()));
    };
    const auto loss = [&] {
      Grid<double> out(c.q.rows(), c.q.cols()), lse(c.q.rows(), c.shape.num_heads);
      attention_forward<double>(inline_stream(), out.view(), lse.view(), c.inputs(), c.shape);
      return test::dot(span(out), span(c.dout));
    };
    std::vector<double> dq(reference::Dense(o.dq.view()).data), dk(reference::Dense(o.dk.view()).data);
    std::vector<double> dv(reference::Dense(o.dv.view()).data);
    CHECK(test::gradient_difference(span(c.q), dq, loss) == "");
    CHECK(test::gradient_difference(span(c.k), dk, loss) == "");
    CHECK(test::gradient_difference(span(c.v), dv, loss) == "");
  }
}

TEMPLATE_TEST_CASE("attention over keys in pieces, merged, is attention over all keys", "[attention]",
                   WEFT_ROW_DEVICES) {
  WEFT_KERNEL_CASE(T, device);
  for (std::uint64_t seed = 200; seed < 220; ++seed) {
    Random random(seed);
    const std::int64_t kv_heads = random.pick({1, 2}), heads = kv_heads * random.pick({1, 2}),
                       dim = random.pick({3, 16});
    const auto rows = random_rows(random, 1, 90, 2);
    const Case<T> c(random, shape_of(heads, kv_heads, dim), rows, rows, random.below(2));
    const Outputs<T> whole = run(device, c);
    const std::int64_t n = c.q.rows(), pieces = random.pick({1, 2, 3, 7});
    Grid<T> out(n, c.q.cols(), 1), part(n, c.q.cols()), dq(n, c.q.cols(), 1);
    Grid<Wide<T>> lse(n, heads), part_lse(n, heads), merged(n, c.q.cols(), 1);
    Grid<T> dk(n, c.k.cols()), dv(n, c.k.cols());
    for (std::int64_t p = 0; p < pieces; ++p) {  // from the last keys on, which the first queries do not see
      const std::int64_t first = n * (pieces - 1 - p) / pieces, count = n * (pieces - p) / pieces - first;
      auto in = c.inputs();
      for (Matrix<const T>* m : {&in.k, &in.v}) *m = m->row_range(first, count);
      in.k_rows = {in.k_rows.segment + first, in.k_rows.position + first};
      attention_forward<T>(device, part.view(), p == 0 ? lse.view() : part_lse.view(), in, c.shape);
      for (std::int64_t i = 0; i < n && p == 0; ++i)
        for (std::int64_t j = 0; j < merged.cols(); ++j) merged(i, j) = part(i, j);
      if (p > 0)
        attention_merge<T>(device, merged.view(), lse.view(), std::as_const(part).view(),
                           std::as_const(part_lse).view());
      attention_backward<T>(device,
                            {dq.view(), dk.view().row_range(first, count), dv.view().row_range(first, count),
                             p == 0 ? Accumulate::kOverwrite : Accumulate::kAdd},
                            c.dout.view(), std::as_const(whole.out).view(), std::as_const(whole.lse).view(), in,
                            c.shape);
    }
    INFO("seed " << seed << ": " << n << " rows in " << pieces << " pieces");
    const std::int64_t terms = dim + n * heads;
    for (std::int64_t i = 0; i < n; ++i)
      for (std::int64_t j = 0; j < merged.cols(); ++j) out(i, j) = static_cast<T>(merged(i, j));
    CHECK(merged.guards_intact());
    CHECK(difference(out, reference::Dense(whole.out.view()), terms) == "");
    CHECK(difference(lse, reference::Dense(whole.lse.view()), terms, 1.0) == "");
    CHECK(difference(dq, reference::Dense(whole.dq.view()), terms, 1.0) == "");
    CHECK(difference(dk, reference::Dense(whole.dk.view()), terms, 1.0) == "");
    CHECK(difference(dv, reference::Dense(whole.dv.view()), terms, 1.0) == "");
  }
}

TEMPLATE_TEST_CASE("merging: who saw nothing changes nothing, and the larger side of a wide gap wins", "[attention]",
                   WEFT_F32_DEVICES) {
  WEFT_KERNEL_CASE(T, device);
  constexpr float kNone = -std::numeric_limits<float>::infinity();
  const auto merged = [&](float out_a, float lse_a, float out_b, float lse_b) {
    Matrix<float> out(&out_a, 1, 1), lse(&lse_a, 1, 1);
    attention_merge<float>(device, out, lse, Matrix<const float>(&out_b, 1, 1), Matrix<const float>(&lse_b, 1, 1));
    return std::pair(out_a, lse_a);
  };
  CHECK(merged(0.0F, kNone, 0.0F, kNone) == std::pair(0.0F, kNone));
  CHECK(merged(0.0F, kNone, 3.0F, 2.0F) == std::pair(3.0F, 2.0F));
  CHECK(merged(3.0F, 2.0F, 0.0F, kNone) == std::pair(3.0F, 2.0F));
  for (const float gap : {89.0F, 1e4F, 1e30F}) {
    CHECK(merged(3.0F, gap, 5.0F, 0.0F) == std::pair(3.0F, gap));
    CHECK(merged(3.0F, 0.0F, 5.0F, gap) == std::pair(5.0F, gap));
  }
  const auto [out, lse] = merged(1.0F, 0.0F, 3.0F, 0.0F);  // equal weights
  CHECK(out == Approx(2.0));
  CHECK(lse == Approx(std::log(2.0)));
}

TEMPLATE_TEST_CASE("large scores do not overflow, and NaN is not lost", "[attention]", WEFT_F32_DEVICES) {
  WEFT_KERNEL_CASE(T, device);
  Random random(9);
  const auto rows = one_sequence(70);
  Case<float> c(random, {1, 1, 8, 1.0}, rows, rows, 0);
  for (std::int64_t i = 0; i < 70; ++i)
    for (std::int64_t j = 0; j < 8; ++j) c.q(i, j) *= 300.0F;
  auto o = run(device, c);
  for (std::int64_t i = 0; i < 70; ++i) CHECK(std::isfinite(o.out(i, 0)));
  c.q(3, 1) = std::numeric_limits<float>::quiet_NaN();
  o = run(device, c);
  CHECK(std::isnan(o.out(3, 0)));
  CHECK(std::isnan(o.lse(3, 0)));
  CHECK(std::isnan(o.dq(3, 0)));
  CHECK(std::isfinite(o.out(2, 0)));
  CHECK(std::isfinite(o.out(4, 0)));
}

TEST_CASE("rows are cut at segments and block ends, and later keys are left out", "[attention]") {
  const reference::Rows rows{{4, 4, 4, 4, 4, 1, 1, 9}, {0, 1, 2, 5, 6, 0, 1, 7}};
  const auto blocks = cpu::cut_rows(view(rows), 8, 2);
  REQUIRE(blocks.size() == 5);
  CHECK(blocks[1].first == 2);
  CHECK(blocks[1].count == 2);
  CHECK(blocks[1].min_position == 2);
  CHECK(blocks[1].max_position == 5);
  CHECK(blocks[2].count == 1);
  CHECK(blocks[3].segment == 1);

  const reference::Rows long_row = one_sequence(1000);
  const cpu::KeyBlocks keys(view(long_row), 1000);
  const auto queries = cpu::cut_rows(view(long_row), 1000, cpu::kBlockQueries);
  for (std::size_t b = 0; b < queries.size(); ++b) {
    const auto seen = keys.seen_by(queries[b]);
    REQUIRE(!seen.empty());
    CHECK(seen.back().first <= queries[b].first + queries[b].count - 1);  // nothing above the diagonal
    const cpu::Visibility visibility(queries[b], seen, view(long_row), view(long_row));
    for (const auto& [block, visible] : visibility.blocks())
      for (std::int64_t i = 0; i < cpu::kBlockQueries; ++i) {
        const std::int64_t query = queries[b].first + std::min(i, queries[b].count - 1);
        CHECK(visible[i] == std::clamp<std::int64_t>(query - block.first + 1, 0, block.count));
      }
  }
  CHECK(keys.seen_by({0, 5, 6, 0, 4}).empty());  // no key of that segment
}

TEST_CASE("attention refuses what does not fit", "[attention]") {
  Stream& s = inline_stream();
  Random random(2);
  const auto rows = one_sequence(4);
  const Case<float> c(random, shape_of(4, 2, 6), rows, rows, 0);
  Grid<float> out(4, 24), lse(4, 4), dk(4, 12), dv(4, 12), wrong(4, 5);
  const auto forward = [&](const AttentionInputs<float>& in, const AttentionShape& shape) {
    return error_of([&] { attention_forward<float>(s, out.view(), lse.view(), in, shape); });
  };
  const auto broken = [&](auto&& change) {
    auto in = c.inputs();
    change(in);
    return forward(in, c.shape);
  };
  CHECK_THAT(forward(c.inputs(), {3, 2, 8, 1.0}), says("attention_forward", "do not divide"));
  CHECK_THAT(forward(c.inputs(), {4, 0, 6, 1.0}), says("attention_forward", "must be positive"));
  CHECK_THAT(forward(c.inputs(), {4, 2, 0, 1.0}), says("attention_forward", "must be positive"));
  CHECK_THAT(forward(c.inputs(), {4, 2, 5, 1.0}), says("attention_forward", "q is"));
  CHECK_THAT(broken([&](auto& in) { in.k = wrong.view(); }), says("attention_forward", "k is"));
  CHECK_THAT(broken([&](auto& in) { in.v = wrong.view(); }), says("attention_forward", "v is"));
  CHECK_THAT(broken([&](auto& in) { in.q_rows.segment = nullptr; }),
             says("attention_forward", "q_rows.segment is null"));
  CHECK_THAT(broken([&](auto& in) { in.q_rows.position = nullptr; }),
             says("attention_forward", "q_rows.position is null"));
  CHECK_THAT(broken([&](auto& in) { in.k_rows.segment = nullptr; }),
             says("attention_forward", "k_rows.segment is null"));
  CHECK_THAT(broken([&](auto& in) { in.k_rows.position = nullptr; }),
             says("attention_forward", "k_rows.position is null"));
  const reference::Rows descending{{0, 0, 0, 0}, {0, 2, 1, 3}}, split{{0, 1, 1, 0}, {0, 0, 1, 1}};
  CHECK_THAT(broken([&](auto& in) { in.k_rows = view(descending); }), says("attention", "must ascend"));
  CHECK_THAT(broken([&](auto& in) { in.k_rows = view(split); }), says("attention", "two runs"));
  CHECK(forward(c.inputs(), c.shape) == "");

  const auto in = c.inputs();
  const auto sized = [&](Grid<float>& o, Grid<float>& l) {
    return error_of([&] { attention_forward<float>(s, o.view(), l.view(), in, c.shape); });
  };
  CHECK_THAT(sized(wrong, lse), says("attention_forward", "out is"));
  CHECK_THAT(sized(out, wrong), says("attention_forward", "lse is"));
  Grid<float> dq(4, 24);
  const auto backward = [&](Grid<float>& gq, Grid<float>& gk, Grid<float>& gv, Grid<float>& d, Grid<float>& o,
                            Grid<float>& l) {
    return error_of([&] {
      attention_backward<float>(s, {gq.view(), gk.view(), gv.view()}, d.view(), o.view(), l.view(), in, c.shape);
    });
  };
  Grid<float> dout = c.dout;
  CHECK_THAT(backward(wrong, dk, dv, dout, out, lse), says("attention_backward", "dq is"));
  CHECK_THAT(backward(dq, wrong, dv, dout, out, lse), says("attention_backward", "dk is"));
  CHECK_THAT(backward(dq, dk, wrong, dout, out, lse), says("attention_backward", "dv is"));
  CHECK_THAT(backward(dq, dk, dv, wrong, out, lse), says("attention_backward", "dout is"));
  CHECK_THAT(backward(dq, dk, dv, dout, wrong, lse), says("attention_backward", "out is"));
  CHECK_THAT(backward(dq, dk, dv, dout, out, wrong), says("attention_backward", "lse is"));
  CHECK(backward(dq, dk, dv, dout, out, lse) == "");
  const auto merge = [&](Grid<float>& o, Grid<float>& l, Grid<float>& po, Grid<float>& pl) {
    return error_of([&] { attention_merge<float>(s, o.view(), l.view(), po.view(), pl.view()); });
  };
  CHECK_THAT(merge(out, wrong, out, lse), says("attention_merge", "do not divide"));
  CHECK_THAT(merge(out, lse, wrong, lse), says("attention_merge", "part_out is"));
  CHECK_THAT(merge(out, lse, out, wrong), says("attention_merge", "part_lse is"));
}
