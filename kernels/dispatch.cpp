#include "kernels/dispatch.h"

#include "kernels/backend.h"
#include "kernels/check.h"

namespace weft::kernels {

void count_rows(Stream& stream, const RowCounts& counts, Matrix<const std::int32_t> expert,
                std::span<const std::int64_t> cuts) {
  check_matrix("count_rows", "expert", expert, expert.rows, expert.cols);
  check_array("count_rows", "counts", counts.data, counts.num_experts);
  WEFT_CHECK(counts.num_local_experts > 0 && counts.num_experts % counts.num_local_experts == 0,
             "count_rows: ", counts.num_experts, " experts in ranks of ", counts.num_local_experts);
  WEFT_CHECK(!cuts.empty() && cuts.front() == 0 && cuts.back() == expert.rows, "count_rows: cuts of ", expert.rows,
             " rows");
  backend<float>(stream).count_rows(stream, counts, expert, cuts);
}

void place_rows(Stream& stream, const RowPlaces& out, Matrix<const std::int32_t> expert,
                Matrix<const std::int32_t> source, std::int64_t num_experts) {
  check_matrix("place_rows", "row", out.row, out.row.rows, out.row.cols);
  if (expert.data != nullptr) check_matrix("place_rows", "expert", expert, out.row.rows, out.row.cols);
  WEFT_CHECK(expert.data != nullptr || out.row.rows == 0 || out.row.cols == num_experts, "place_rows: ", out.row.cols,
             " columns for ", num_experts, " experts");
  if (source.data != nullptr) check_matrix("place_rows", "source", source, out.row.rows, out.row.cols);
  backend<float>(stream).place_rows(stream, out, expert, source, num_experts);
}

template <class T>
void copy_blocks(Stream& stream, Matrix<T> out, Matrix<const T> in, std::span<const RowBlock> blocks) {
  check_matrix("copy_blocks", "in", in, in.rows, out.cols);
  check_matrix("copy_blocks", "out", out, out.rows, out.cols);
  for (const RowBlock& b : blocks)
    WEFT_CHECK(b.count >= 0 && b.to >= 0 && b.from >= 0 && b.to + b.count <= out.rows && b.from + b.count <= in.rows,
               "copy_blocks: ", b.count, " rows from ", b.from, " of ", in.rows, " to ", b.to, " of ", out.rows);
  backend<T>(stream).copy_blocks(stream, out, in, blocks);
}

template decltype(copy_blocks<float>) copy_blocks<float>;
template decltype(copy_blocks<double>) copy_blocks<double>;
template decltype(copy_blocks<BF16>) copy_blocks<BF16>;

}  // namespace weft::kernels
