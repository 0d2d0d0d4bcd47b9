#include "kernels/cpu/few_rows.h"

#include "kernels/cpu/block_gemm.h"

namespace weft::kernels::cpu {
namespace {

/// Columns [first, first + kCols) of c: kRows x kCols inner products of rows of a with rows of b.
template <class T, int kRows, int kCols>
void inner_products(Matrix<T> c, Matrix<const T> a, Matrix<const T> b, std::int64_t first, T alpha, bool add) {
  using S = Simd<T>;
  typename S::Vector sum[kRows][kCols] = {};
  std::int64_t p = 0;
  for (; p + S::kLanes <= a.cols; p += S::kLanes)
    for (int j = 0; j < kCols; ++j) {
      const typename S::Vector value = S::load(b.row(first + j) + p);
      for (int i = 0; i < kRows; ++i) sum[i][j] += S::load(a.row(i) + p) * value;
    }
  for (int i = 0; i < kRows; ++i)
    for (int j = 0; j < kCols; ++j) {
      T total = 0;
      for (std::int64_t lane = 0; lane < S::kLanes; ++lane) total += sum[i][j][lane];
      for (std::int64_t rest = p; rest < a.cols; ++rest) total += a.row(i)[rest] * b.row(first + j)[rest];
      T& to = c.row(i)[first + j];
      to = add ? to + alpha * total : alpha * total;
    }
}

template <class T, int kRows>
void multiply_rows(Matrix<T> c, Matrix<const T> a, Matrix<const T> b, T alpha, bool add) {
  std::int64_t j = 0;
  for (; j + 4 <= c.cols; j += 4) inner_products<T, kRows, 4>(c, a, b, j, alpha, add);
  for (; j < c.cols; ++j) inner_products<T, kRows, 1>(c, a, b, j, alpha, add);
}

}  // namespace

template <class T>
void multiply_few_rows(Matrix<T> c, Matrix<const T> a, Matrix<const T> b, T alpha, Accumulate accumulate) {
  const bool add = accumulate == Accumulate::kAdd;
  switch (c.rows) {
    case 1:
      return multiply_rows<T, 1>(c, a, b, alpha, add);
    case 2:
      return multiply_rows<T, 2>(c, a, b, alpha, add);
    case 3:
      return multiply_rows<T, 3>(c, a, b, alpha, add);
    default:
      return multiply_rows<T, 4>(c, a, b, alpha, add);
  }
}

template decltype(multiply_few_rows<float>) multiply_few_rows<float>;
template decltype(multiply_few_rows<double>) multiply_few_rows<double>;

}  // namespace weft::kernels::cpu
