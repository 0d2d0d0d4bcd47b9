// Order and I-Order of every form of routing: chunks make the whole, and the backward is the adjoint.
#include "parallel/moe/order.h"

#include <tuple>

#include "core/rng.h"
#include "parallel/moe/dispatch_plan.h"
#include "tests/support/catch.h"
#include "tests/support/gradcheck.h"

using namespace weft;
using namespace weft::parallel;

namespace {

constexpr std::int64_t kGroups = 2, kGroupRows = 5, kRows = kGroups * kGroupRows, kWidth = 3, kExperts = 4;

/// Random routing of one form, cut into chunks forward and backward.
struct Routing {
  RoutingForm form;
  TableShape shape;
  std::vector<std::int32_t> kept, source, row, token, back_row, back_token;
  std::vector<double> weight, mix;
  DispatchPlan plan;

  Routing(RoutingForm f, int forward, int backward, std::uint64_t seed)
      : form(f),
        shape(f == RoutingForm::kTokenList ? TableShape{kRows, 2, kGroupRows} : TableShape{kGroups * 3, kExperts, 3}),
        plan(DispatchDims{shape.rows, kExperts, 1, 0, 1, 0, false, forward, backward}) {
    const Rng rng(seed, RngPurpose::kTest);
    const auto entries = static_cast<std::size_t>(shape.rows * shape.width);
    for (std::size_t i = 0; i < entries; ++i) {
      const auto d = static_cast<std::int64_t>(i) / shape.width, k = static_cast<std::int64_t>(i) % shape.width;
      const std::int64_t e = form == RoutingForm::kTokenList
                                 ? static_cast<std::int64_t>(rng.below(3, i) + 2 * static_cast<std::uint64_t>(k)) % 4
                                 : k;
      const bool travels = form == RoutingForm::kSlotMatrix || rng.below(5, 100 + i) > 0;
      kept.push_back(travels ? static_cast<std::int32_t>(e) : -1);
      source.push_back(static_cast<std::int32_t>(d / shape.group_rows * kGroupRows +
                                                 static_cast<std::int64_t>(rng.below(kGroupRows, 200 + i))));
    }
    const std::size_t weights = form == RoutingForm::kSlotMatrix ? kRows * kExperts * 3 : entries;
    for (std::size_t i = 0; i < weights; ++i) weight.push_back(rng.normal(1000 + i));
    for (std::size_t i = 0; i < weights; ++i) mix.push_back(rng.normal(5000 + i));
    row.resize(entries);
    token = back_row = back_token = row;
    const auto stream = make_inline_stream();
    plan.count_choices(*stream, {kept.data(), shape.rows, shape.width});
    plan.keep_counts(*stream);
    plan.fetch_counts(*stream);
    plan.finish();
    for (const bool b : {false, true})
      for (int c = 0; c < plan.num_chunks(b); ++c)
        plan.place(*stream, b, c, table(kept),
                   form == RoutingForm::kSlotList ? table(source) : Matrix<const std::int32_t>(),
                   {{(b ? back_row : row).data(), shape.rows, shape.width},
                    (b ? back_token : token).data() + plan.cuts(b)[c] * shape.width});
  }
  [[nodiscard]] Matrix<const std::int32_t> table(const std::vector<std::int32_t>& v) const {
    return {v.data(), shape.rows, shape.width};
  }
  template <class U>
  [[nodiscard]] Matrix<U> weights(U* data) const {
    if (form == RoutingForm::kSlotMatrix) return {data, kRows, kExperts * 3};
    return {data, shape.rows, shape.width};
  }
  [[nodiscard]] RoutingView<double> view(bool backward, int c) const {
    RoutingView<double> v;
    v.shape = shape;
    v.begin = plan.cuts(backward)[static_cast<std::size_t>(c)];
    v.end = plan.cuts(backward)[static_cast<std::size_t>(c) + 1];
    v.row = table(backward ? back_row : row);
    v.token = (backward ? back_token : token).data() + v.begin * shape.width;
    v.source = table(source);
    v.weight = v.combine = weights(weight.data());
    v.mix = weights(mix.data());
    v.group_rows = kGroupRows;
    v.chunk = {v.begin, v.end - v.begin};
    v.first = c == 0;
    return v;
  }
};

std::vector<double> numbers(std::int64_t n, std::uint64_t seed) {
  const Rng rng(seed, RngPurpose::kTest);
  std::vector<double> out;
  for (std::int64_t i = 0; i < n; ++i) out.push_back(rng.normal(static_cast<std::uint64_t>(i)));
  return out;
}

Matrix<double> rows_in(std::vector<double>& v, std::int64_t rows) { return {v.data(), rows, kWidth}; }

/// All rows of a pass by entry: [D, K, M], zero where nothing travels. Independent of the cut into chunks.
std::vector<double> ordered(const Routing& r, const std::vector<double>& x, Stream& stream) {
  const auto order = make_order<double>(r.form);
  std::vector<double> out(static_cast<std::size_t>(r.shape.rows * r.shape.width * kWidth), 0.0);
  for (int c = 0; c < r.plan.num_chunks(false); ++c) {
    const RoutingView<double> v = r.view(false, c);
    std::vector<double> rows(static_cast<std::size_t>(r.plan.chunk(false, c).num_send * kWidth));
    order->forward(stream, v, rows_in(rows, r.plan.chunk(false, c).num_send),
                   Matrix<const double>(x.data(), kRows, kWidth));
    for (std::int64_t d = v.begin; d < v.end; ++d)
      for (std::int64_t k = 0; k < r.shape.width; ++k)
        if (const std::int32_t at = v.row.row(d)[k]; at >= 0)
          std::copy_n(rows.begin() + at * kWidth, kWidth, out.begin() + (d * r.shape.width + k) * kWidth);
  }
  return out;
}

/// Rows given by entry, laid out as a chunk has them.
std::vector<double> chunk_rows(const Routing& r, bool backward, int c, const std::vector<double>& by_entry) {
  const RoutingView<double> v = r.view(backward, c);
  std::vector<double> rows(static_cast<std::size_t>(r.plan.chunk(backward, c).num_send * kWidth));
  for (std::int64_t d = v.begin; d < v.end; ++d)
    for (std::int64_t k = 0; k < r.shape.width; ++k)
      if (const std::int32_t at = v.row.row(d)[k]; at >= 0)
        std::copy_n(by_entry.begin() + (d * r.shape.width + k) * kWidth, kWidth, rows.begin() + at * kWidth);
  return rows;
}

std::vector<double> i_ordered(const Routing& r, const std::vector<double>& residual,
                              const std::vector<double>& by_entry, Stream& stream) {
  const auto i_order = make_i_order<double>(r.form);
  std::vector<double> out(residual.size(), -7.0);
  for (int c = 0; c < r.plan.num_chunks(false); ++c) {
    std::vector<double> rows = chunk_rows(r, false, c, by_entry);
    i_order->forward(stream, r.view(false, c), rows_in(out, kRows),
                     Matrix<const double>(residual.data(), kRows, kWidth),
                     rows_in(rows, r.plan.chunk(false, c).num_send));
  }
  return out;
}

RoutingForm any_form() { return GENERATE(RoutingForm::kTokenList, RoutingForm::kSlotList, RoutingForm::kSlotMatrix); }

}  // namespace

TEST_CASE("Order: chunks change nothing, and its backward is its gradient", "[order]") {
  const RoutingForm form = any_form();
  const auto stream = make_inline_stream();
  Routing whole(form, 1, 1, 4), cut(form, 3, 2, 4);
  std::vector<double> x = numbers(kRows * kWidth, 1);
  const std::vector<double> rows = ordered(whole, x, *stream);
  CHECK(rows == ordered(cut, x, *stream));
  const std::vector<double> d_rows = numbers(static_cast<std::int64_t>(rows.size()), 2);
  std::vector<double> dx(x.size(), 0.0), d_mix(cut.mix.size(), 0.0);
  if (form == RoutingForm::kSlotMatrix) std::fill(dx.begin(), dx.end(), -7.0);  // its first chunk clears it
  const auto order = make_order<double>(form);
  for (int c = 0; c < cut.plan.num_chunks(true); ++c) {
    std::vector<double> d = chunk_rows(cut, true, c, d_rows);
    order->backward(*stream, cut.view(true, c), rows_in(dx, kRows), rows_in(d, cut.plan.chunk(true, c).num_send),
                    Matrix<const double>(x.data(), kRows, kWidth), cut.weights(d_mix.data()));
  }
  const auto loss = [&] { return test::dot(ordered(whole, x, *stream), d_rows); };
  CHECK(test::gradient_difference(x, dx, loss) == "");
  if (form == RoutingForm::kSlotMatrix) CHECK(test::gradient_difference(whole.mix, d_mix, loss) == "");
}

TEST_CASE("I-Order: chunks change nothing, and its backward is its gradient", "[order]") {
  const RoutingForm form = any_form();
  const auto stream = make_inline_stream();
  Routing whole(form, 1, 1, 4), cut(form, 3, 2, 4);
  const std::vector<double> residual = numbers(kRows * kWidth, 1), dout = numbers(kRows * kWidth, 3);
  std::vector<double> rows = numbers(whole.shape.rows * whole.shape.width * kWidth, 2);
  const std::vector<double> a = i_ordered(whole, residual, rows, *stream), b = i_ordered(cut, residual, rows, *stream);
  for (std::size_t i = 0; i < a.size(); ++i) CHECK(a[i] == Approx(b[i]).epsilon(1e-13));

  const auto i_order = make_i_order<double>(form);
  std::vector<double> d_rows(rows.size(), 0.0), d_weight(cut.weight.size(), 0.0);
  for (int c = 0; c < cut.plan.num_chunks(true); ++c) {
    std::vector<double> d(static_cast<std::size_t>(cut.plan.chunk(true, c).num_send * kWidth));
    for (int f = 0; f < cut.plan.num_chunks(false); ++f) {
      RoutingView<double> v = cut.view(false, f);
      std::tie(v.begin, v.end) = chunk_overlap(cut.plan.cuts(false), f, cut.plan.cuts(true), c);
      if (v.begin == v.end) continue;
      std::vector<double> forward = chunk_rows(cut, false, f, rows);
      i_order->backward(*stream, v,
                        {rows_in(d, cut.plan.chunk(true, c).num_send),
                         cut.weights(d_weight.data()),
                         cut.table(cut.back_row),
                         {cut.plan.cuts(true)[c], cut.plan.cuts(true)[c + 1] - cut.plan.cuts(true)[c]}},
                        Matrix<const double>(dout.data(), kRows, kWidth),
                        rows_in(forward, cut.plan.chunk(false, f).num_send));
    }
    const RoutingView<double> v = cut.view(true, c);
    for (std::int64_t e = v.begin * cut.shape.width; e < v.end * cut.shape.width; ++e)
      if (const std::int32_t at = cut.back_row[static_cast<std::size_t>(e)]; at >= 0)
        std::copy_n(d.begin() + at * kWidth, kWidth, d_rows.begin() + e * kWidth);
  }
  const auto loss = [&] { return test::dot(i_ordered(whole, residual, rows, *stream), dout); };
  CHECK(test::gradient_difference(rows, d_rows, loss) == "");
  CHECK(test::gradient_difference(whole.weight, d_weight, loss) == "");
}
