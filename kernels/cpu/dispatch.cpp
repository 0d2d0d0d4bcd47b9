#include <algorithm>
#include <numeric>
#include <vector>

#include "kernels/cpu/backend.h"

namespace weft::kernels::cpu {
namespace {

void count_rows(Stream&, const RowCounts& counts, Matrix<const std::int32_t> expert,
                std::span<const std::int64_t> cuts) {
  const std::int64_t local = counts.num_local_experts, pieces = static_cast<std::int64_t>(cuts.size()) - 1;
  std::fill_n(counts.data, counts.num_experts * pieces, std::int64_t{0});
  for (std::int64_t p = 0; p < pieces; ++p)
    for (std::int64_t t = cuts[static_cast<std::size_t>(p)]; t < cuts[static_cast<std::size_t>(p) + 1]; ++t)
      for (std::int64_t k = 0; k < expert.cols; ++k)
        if (const std::int32_t e = expert.row(t)[k]; e >= 0)
          ++counts.data[(e / local * pieces + p) * local + e % local];
}

void place_rows(Stream&, const RowPlaces& out, Matrix<const std::int32_t> expert, Matrix<const std::int32_t> source,
                std::int64_t num_experts) {
  const auto expert_of = [&](std::int64_t t, std::int64_t k) {
    return expert.data != nullptr ? expert.row(t)[k] : static_cast<std::int32_t>(k);
  };
  std::vector<std::int64_t> next(static_cast<std::size_t>(num_experts) + 1, 0);  // counting sort by expert
  for (std::int64_t t = 0; t < out.row.rows; ++t)
    for (std::int64_t k = 0; k < out.row.cols; ++k)
      if (const std::int32_t e = expert_of(t, k); e >= 0) ++next[static_cast<std::size_t>(e) + 1];
  std::partial_sum(next.begin(), next.end(), next.begin());
  for (std::int64_t t = 0; t < out.row.rows; ++t)
    for (std::int64_t k = 0; k < out.row.cols; ++k) {
      const std::int32_t e = expert_of(t, k);
      const std::int64_t at = e < 0 ? -1 : next[static_cast<std::size_t>(e)]++;
      out.row.row(t)[k] = static_cast<std::int32_t>(at);
      if (at >= 0)
        out.token[at] = source.data != nullptr ? source.row(t)[k] : static_cast<std::int32_t>(out.first_token + t);
    }
}

}  // namespace

template <class T>
void add_dispatch(Backend<T>& table) {
  table.count_rows = count_rows;
  table.place_rows = place_rows;
}

template void add_dispatch(Backend<float>& table);
template void add_dispatch(Backend<double>& table);

}  // namespace weft::kernels::cpu
