#include "parallel/attention/heads.h"

#include <numeric>

#include "core/error.h"
#include "kernels/reduce.h"

namespace weft::parallel {

using kernels::Accumulate;
using kernels::copy_rows;

std::int64_t HeadSplit::kv_head(int rank, std::int64_t i) const {
  const std::int64_t first_query = rank * heads + i * (heads / kv_heads);
  return first_query / (num_heads / num_kv_heads);
}

HeadSplit split_heads(std::int64_t num_heads, std::int64_t num_kv_heads, std::int64_t head_dim, int num_ranks) {
  WEFT_CHECK(num_kv_heads >= 1 && num_heads % num_kv_heads == 0, num_heads, " query heads over ", num_kv_heads,
             " key/value heads");
  WEFT_CHECK(num_ranks >= 1 && num_heads % num_ranks == 0, num_heads, " query heads do not divide among ", num_ranks,
             " ranks");
  const std::int64_t heads = num_heads / num_ranks, readers = num_heads / num_kv_heads;
  return {num_ranks, head_dim, heads, heads / std::gcd(heads, readers), num_heads, num_kv_heads};
}

namespace {

/// Visits every block of columns that one rank's packed rows share with the whole ones: visit(rank, packed column,
/// whole column, columns).
template <class Visit>
void for_each_block(const HeadSplit& split, const Visit& visit) {
  const std::int64_t d = split.head_dim, k = split.num_heads * d, v = k + split.num_kv_heads * d;
  for (int rank = 0; rank < split.num_ranks; ++rank) {
    visit(rank, std::int64_t{0}, rank * split.q_width(), split.q_width());
    for (std::int64_t i = 0; i < split.kv_heads; ++i) {
      const std::int64_t at = split.q_width() + i * d, head = split.kv_head(rank, i) * d;
      visit(rank, at, k + head, d);
      visit(rank, at + split.kv_width(), v + head, d);
    }
  }
}

}  // namespace

template <class T>
void pack_heads(Stream& stream, Matrix<T> packed, Matrix<const T> qkv, const HeadSplit& split) {
  for_each_block(split, [&](int rank, std::int64_t to, std::int64_t from, std::int64_t cols) {
    copy_rows<T>(stream, packed.row_range(rank * qkv.rows, qkv.rows).col_range(to, cols), qkv.col_range(from, cols));
  });
}

template <class T>
void unpack_head_gradients(Stream& stream, Matrix<T> d_qkv, Matrix<const T> packed, const HeadSplit& split) {
  const std::int64_t q_width = split.num_heads * split.head_dim;
  std::int64_t next_kv = 0;  // heads come in ascending order: the first copy of each replaces, the others are added
  for_each_block(split, [&](int rank, std::int64_t from, std::int64_t to, std::int64_t cols) {
    const bool is_key = to >= q_width && to < q_width + split.num_kv_heads * split.head_dim;
    const bool is_value = to >= q_width && !is_key;
    const std::int64_t head = (to - q_width) / split.head_dim - (is_value ? split.num_kv_heads : 0);
    const bool again = (is_key || is_value) && head < next_kv;
    copy_rows<T>(stream, d_qkv.col_range(to, cols),
                 packed.row_range(rank * d_qkv.rows, d_qkv.rows).col_range(from, cols),
                 again ? Accumulate::kAdd : Accumulate::kOverwrite);
    if (is_value) next_kv = head + 1;
  });
}

template <class T>
void pack_context(Stream& stream, Matrix<T> packed, Matrix<const T> context, const HeadSplit& split) {
  for (int rank = 0; rank < split.num_ranks; ++rank)
    copy_rows<T>(stream, packed.row_range(rank * context.rows, context.rows),
                 context.col_range(rank * split.q_width(), split.q_width()));
}

template <class T>
void unpack_context(Stream& stream, Matrix<T> context, Matrix<const T> packed, const HeadSplit& split) {
  for (int rank = 0; rank < split.num_ranks; ++rank)
    copy_rows<T>(stream, context.col_range(rank * split.q_width(), split.q_width()),
                 packed.row_range(rank * context.rows, context.rows));
}

namespace {

/// visit(first row in core order, first row in packed order) of each run of rows_per_sequence rows.
template <class Visit>
void for_each_run(const CoreOrder& order, const Visit& visit) {
  const std::int64_t n = order.rows_per_sequence;
  for (std::int64_t s = 0; s < order.sequences; ++s)
    for (std::int64_t rank = 0; rank < order.num_ranks; ++rank)
      visit((s * order.num_ranks + rank) * n, (rank * order.sequences + s) * n);
}

}  // namespace

template <class T>
void to_core_order(Stream& stream, Matrix<T> core, Matrix<const T> packed, const CoreOrder& order) {
  const std::int64_t n = order.rows_per_sequence;
  for_each_run(order, [&](std::int64_t to, std::int64_t from) {
    copy_rows<T>(stream, core.row_range(to, n), packed.row_range(from, n));
  });
}

template <class T>
void from_core_order(Stream& stream, Matrix<T> packed, Matrix<const T> core, const CoreOrder& order) {
  const std::int64_t n = order.rows_per_sequence;
  for_each_run(order, [&](std::int64_t from, std::int64_t to) {
    copy_rows<T>(stream, packed.row_range(to, n), core.row_range(from, n));
  });
}

#define WEFT_INSTANTIATE(T)                                             \
  template decltype(pack_heads<T>) pack_heads<T>;                       \
  template decltype(unpack_head_gradients<T>) unpack_head_gradients<T>; \
  template decltype(pack_context<T>) pack_context<T>;                   \
  template decltype(unpack_context<T>) unpack_context<T>;               \
  template decltype(to_core_order<T>) to_core_order<T>;                 \
  template decltype(from_core_order<T>) from_core_order<T>;
WEFT_INSTANTIATE(float)
WEFT_INSTANTIATE(double)
WEFT_INSTANTIATE(BF16)
#undef WEFT_INSTANTIATE

}  // namespace weft::parallel
