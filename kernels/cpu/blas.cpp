#include "kernels/cpu/blas.h"

#include <cblas.h>

#include <algorithm>

namespace weft::kernels {
namespace {

/// OpenBLAS starts with one thread per core; a rank owns one core unless it says otherwise.
void default_to_one_thread() {
  static const bool done = (openblas_set_num_threads(1), true);
  static_cast<void>(done);
}

void cblas_gemm(CBLAS_TRANSPOSE ta, CBLAS_TRANSPOSE tb, int m, int n, int k, float alpha, const float* a, int lda,
                const float* b, int ldb, float beta, float* c, int ldc) {
  cblas_sgemm(CblasRowMajor, ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}
void cblas_gemm(CBLAS_TRANSPOSE ta, CBLAS_TRANSPOSE tb, int m, int n, int k, double alpha, const double* a, int lda,
                const double* b, int ldb, double beta, double* c, int ldc) {
  cblas_dgemm(CblasRowMajor, ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}

}  // namespace

void set_blas_threads(int num_threads) {
  default_to_one_thread();  // so that the default cannot come later and undo this
  openblas_set_num_threads(std::max(num_threads, 1));
}

namespace cpu {

template <class T>
void multiply(Matrix<T> c, Matrix<const T> a, Transpose trans_a, Matrix<const T> b, Transpose trans_b, T alpha,
              Accumulate accumulate) {
  default_to_one_thread();
  if (c.rows == 0 || c.cols == 0) return;
  const std::int64_t inner = trans_a == Transpose::kYes ? a.rows : a.cols;
  if (inner == 0) {
    if (accumulate == Accumulate::kOverwrite)
      for (std::int64_t i = 0; i < c.rows; ++i) std::fill_n(c.row(i), c.cols, T(0));
    return;
  }
  cblas_gemm(trans_a == Transpose::kYes ? CblasTrans : CblasNoTrans,
             trans_b == Transpose::kYes ? CblasTrans : CblasNoTrans, static_cast<int>(c.rows), static_cast<int>(c.cols),
             static_cast<int>(inner), alpha, a.data, static_cast<int>(a.stride), b.data, static_cast<int>(b.stride),
             accumulate == Accumulate::kAdd ? T(1) : T(0), c.data, static_cast<int>(c.stride));
}

template <class T>
void sum_rows(T* out, Matrix<const T> m, Accumulate accumulate) {
  if (accumulate == Accumulate::kOverwrite) std::fill_n(out, m.cols, T(0));
  for (std::int64_t i = 0; i < m.rows; ++i) {
    const T* row = m.row(i);
#pragma omp simd
    for (std::int64_t j = 0; j < m.cols; ++j) out[j] += row[j];
  }
}

template <class T>
void broadcast_row(Matrix<T> m, const T* row) {
  for (std::int64_t i = 0; i < m.rows; ++i) std::copy_n(row, m.cols, m.row(i));
}

#define WEFT_INSTANTIATE(T)                   \
  template decltype(multiply<T>) multiply<T>; \
  template decltype(sum_rows<T>) sum_rows<T>; \
  template decltype(broadcast_row<T>) broadcast_row<T>;
WEFT_INSTANTIATE(float)
WEFT_INSTANTIATE(double)
#undef WEFT_INSTANTIATE

}  // namespace cpu
}  // namespace weft::kernels
