#include "kernels/permute.h"

#include "kernels/backend.h"
#include "kernels/check.h"

namespace weft::kernels {

template <class T>
void gather_rows(Stream& stream, Matrix<T> out, Matrix<const T> in, const std::int32_t* index) {
  check_matrix("gather_rows", "in", in, in.rows, in.cols);
  check_matrix("gather_rows", "out", out, out.rows, in.cols);
  check_array("gather_rows", "index", index, out.rows);
  backend<T>(stream).gather_rows(stream, out, in, index);
}

template <class T>
void unpermute_weighted(Stream& stream, Matrix<T> out, Matrix<const T> residual, Matrix<const T> rows,
                        Matrix<const std::int32_t> row, Matrix<const Wide<T>> weight) {
  check_matrix("unpermute_weighted", "out", out, out.rows, rows.cols);
  if (residual.data != nullptr) check_matrix("unpermute_weighted", "residual", residual, out.rows, out.cols);
  check_matrix("unpermute_weighted", "rows", rows, rows.rows, rows.cols);
  check_matrix("unpermute_weighted", "row", row, out.rows, row.cols);
  check_matrix("unpermute_weighted", "weight", weight, out.rows, row.cols);
  backend<T>(stream).unpermute_weighted(stream, out, residual, rows, row, weight);
}

template <class T>
void unpermute_weighted_backward(Stream& stream, const UnpermuteGradient<T>& grad, Matrix<const T> dout,
                                 Matrix<const T> rows, Matrix<const std::int32_t> row, Matrix<const Wide<T>> weight) {
  check_matrix("unpermute_weighted_backward", "d_rows", grad.d_rows, grad.d_rows.rows, dout.cols);
  check_matrix("unpermute_weighted_backward", "d_weight", grad.d_weight, dout.rows, row.cols);
  check_matrix("unpermute_weighted_backward", "d_row", grad.d_row, dout.rows, row.cols);
  check_matrix("unpermute_weighted_backward", "dout", dout, dout.rows, dout.cols);
  check_matrix("unpermute_weighted_backward", "rows", rows, rows.rows, dout.cols);
  check_matrix("unpermute_weighted_backward", "row", row, dout.rows, row.cols);
  check_matrix("unpermute_weighted_backward", "weight", weight, dout.rows, row.cols);
  backend<T>(stream).unpermute_weighted_backward(stream, grad, dout, rows, row, weight);
}

template <class T>
void permute_backward(Stream& stream, Matrix<T> dx, Matrix<const T> d_rows, Matrix<const std::int32_t> row,
                      Accumulate accumulate) {
  check_matrix("permute_backward", "dx", dx, dx.rows, dx.cols);
  check_matrix("permute_backward", "d_rows", d_rows, d_rows.rows, dx.cols);
  check_matrix("permute_backward", "row", row, dx.rows, row.cols);
  backend<T>(stream).permute_backward(stream, dx, d_rows, row, accumulate);
}

#define WEFT_INSTANTIATE(T)                                                         \
  template decltype(gather_rows<T>) gather_rows<T>;                                 \
  template decltype(unpermute_weighted<T>) unpermute_weighted<T>;                   \
  template decltype(unpermute_weighted_backward<T>) unpermute_weighted_backward<T>; \
  template decltype(permute_backward<T>) permute_backward<T>;
WEFT_INSTANTIATE(float)
WEFT_INSTANTIATE(double)
WEFT_INSTANTIATE(BF16)
#undef WEFT_INSTANTIATE

}  // namespace weft::kernels
