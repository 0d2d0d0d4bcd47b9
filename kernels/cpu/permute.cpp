#include <algorithm>

#include "core/error.h"
#include "kernels/cpu/backend.h"

namespace weft::kernels::cpu {
namespace {

void check_index(const char* kernel, std::int64_t index, std::int64_t rows) {
  WEFT_CHECK(index < rows, kernel, ": row index ", index, " of a matrix of ", rows, " rows");
}

template <class T>
void gather_rows(Stream&, Matrix<T> out, Matrix<const T> in, const std::int32_t* index) {
  for (std::int64_t i = 0; i < out.rows; ++i) {
    check_index("gather_rows", index[i], in.rows);
    if (index[i] < 0)
      std::fill_n(out.row(i), out.cols, T(0));
    else
      std::copy_n(in.row(index[i]), out.cols, out.row(i));
  }
}

/// out += factor * x, or out = factor * x.
template <class T>
void add_scaled(T* out, const T* x, T factor, std::int64_t n) {
#pragma omp simd
  for (std::int64_t j = 0; j < n; ++j) out[j] += factor * x[j];
}

template <class T>
void unpermute_weighted(Stream&, Matrix<T> out, Matrix<const T> residual, Matrix<const T> rows,
                        Matrix<const std::int32_t> row, Matrix<const T> weight) {
  for (std::int64_t t = 0; t < out.rows; ++t) {
    if (residual.data == nullptr)
      std::fill_n(out.row(t), out.cols, T(0));
    else if (residual.row(t) != out.row(t))
      std::copy_n(residual.row(t), out.cols, out.row(t));
    for (std::int64_t k = 0; k < row.cols; ++k) {
      const std::int32_t r = row.row(t)[k];
      check_index("unpermute_weighted", r, rows.rows);
      if (r >= 0) add_scaled(out.row(t), rows.row(r), weight.row(t)[k], out.cols);
    }
  }
}

/// Writes weight * dout over a row and returns <dout, row>; the row may be read from where it is written.
template <class T>
T scale_and_dot(T* d_row, const T* dout, const T* row, T weight, std::int64_t n) {
  T dot = 0;
#pragma omp simd reduction(+ : dot)
  for (std::int64_t j = 0; j < n; ++j) {
    dot += dout[j] * row[j];
    d_row[j] = weight * dout[j];
  }
  return dot;
}

template <class T>
void unpermute_weighted_backward(Stream&, const UnpermuteGradient<T>& grad, Matrix<const T> dout, Matrix<const T> rows,
                                 Matrix<const std::int32_t> row, Matrix<const T> weight) {
  for (std::int64_t t = 0; t < dout.rows; ++t)
    for (std::int64_t k = 0; k < row.cols; ++k) {
      const std::int32_t r = row.row(t)[k], d = grad.d_row.row(t)[k];
      check_index("unpermute_weighted_backward", r, rows.rows);
      check_index("unpermute_weighted_backward", d, grad.d_rows.rows);
      grad.d_weight.row(t)[k] =
          r < 0 ? T(0) : scale_and_dot(grad.d_rows.row(d), dout.row(t), rows.row(r), weight.row(t)[k], dout.cols);
    }
}

template <class T>
void permute_backward(Stream&, Matrix<T> dx, Matrix<const T> d_rows, Matrix<const std::int32_t> row,
                      Accumulate accumulate) {
  for (std::int64_t t = 0; t < dx.rows; ++t) {
    if (accumulate == Accumulate::kOverwrite) std::fill_n(dx.row(t), dx.cols, T(0));
    for (std::int64_t k = 0; k < row.cols; ++k) {
      const std::int32_t r = row.row(t)[k];
      check_index("permute_backward", r, d_rows.rows);
      if (r >= 0) add_scaled(dx.row(t), d_rows.row(r), T(1), dx.cols);
    }
  }
}

}  // namespace

template <class T>
void add_permute(Backend<T>& table) {
  table.gather_rows = gather_rows<T>;
  table.unpermute_weighted = unpermute_weighted<T>;
  table.unpermute_weighted_backward = unpermute_weighted_backward<T>;
  table.permute_backward = permute_backward<T>;
}

template void add_permute(Backend<float>& table);
template void add_permute(Backend<double>& table);

}  // namespace weft::kernels::cpu
