// tests/support/cuda/cublas_v2.h - what Weft uses of cuBLAS, as plain loops on the emulated GPU. Checks the strides
// that cuBLAS checks. Names and meanings: cuBLAS Library reference.
#pragma once

#include "tests/support/cuda/cuda_runtime_api.h"

enum cublasStatus_t { CUBLAS_STATUS_SUCCESS, CUBLAS_STATUS_ALLOC_FAILED, CUBLAS_STATUS_INVALID_VALUE };
enum cublasOperation_t { CUBLAS_OP_N, CUBLAS_OP_T };
enum cublasSetting_t { CUBLAS_PEDANTIC_MATH, CUBLAS_ATOMICS_NOT_ALLOWED, CUBLAS_POINTER_MODE_HOST };
struct cublasContext {
  cudaStream_t stream = nullptr;
};
using cublasHandle_t = cublasContext*;

inline const char* cublasGetStatusName(cublasStatus_t) { return "CUBLAS_STATUS"; }
inline const char* cublasGetStatusString(cublasStatus_t) { return "an error of the emulated cuBLAS"; }
inline cublasStatus_t cublasCreate(cublasHandle_t* handle) {
  return *handle = new cublasContext, CUBLAS_STATUS_SUCCESS;
}
inline cublasStatus_t cublasDestroy(cublasHandle_t handle) { return delete handle, CUBLAS_STATUS_SUCCESS; }
inline cublasStatus_t cublasSetStream(cublasHandle_t handle, cudaStream_t stream) {
  return handle->stream = stream, CUBLAS_STATUS_SUCCESS;
}
inline cublasStatus_t cublasSetWorkspace(cublasHandle_t, void*, std::size_t) { return CUBLAS_STATUS_SUCCESS; }
inline cublasStatus_t cublasSetMathMode(cublasHandle_t, cublasSetting_t) { return CUBLAS_STATUS_SUCCESS; }
inline cublasStatus_t cublasSetAtomicsMode(cublasHandle_t, cublasSetting_t) { return CUBLAS_STATUS_SUCCESS; }
inline cublasStatus_t cublasSetPointerMode(cublasHandle_t, cublasSetting_t) { return CUBLAS_STATUS_SUCCESS; }

namespace weft::emulation {

/// c = alpha op(a) op(b) + beta c, columns first. [m, k] x [k, n].
template <class T>
cublasStatus_t gemm(cublasHandle_t handle, cublasOperation_t op_a, cublasOperation_t op_b, int m, int n, int k, T alpha,
                    const T* a, int lda, const T* b, int ldb, T beta, T* c, int ldc) {
  if (lda < (op_a == CUBLAS_OP_N ? m : k) || ldb < (op_b == CUBLAS_OP_N ? k : n) || ldc < m)
    return CUBLAS_STATUS_INVALID_VALUE;
  handle->stream->push([=] {
    for (std::int64_t j = 0; j < n; ++j)
      for (std::int64_t i = 0; i < m; ++i) {
        T sum = 0;
        for (std::int64_t l = 0; l < k; ++l)
          sum += (op_a == CUBLAS_OP_N ? a[i + l * lda] : a[l + i * lda]) *
                 (op_b == CUBLAS_OP_N ? b[l + j * ldb] : b[j + l * ldb]);
        c[i + j * ldc] = beta == T(0) ? alpha * sum : alpha * sum + beta * c[i + j * ldc];
      }
  });
  return CUBLAS_STATUS_SUCCESS;
}

}  // namespace weft::emulation

inline cublasStatus_t cublasSgemm(cublasHandle_t handle, cublasOperation_t op_a, cublasOperation_t op_b, int m, int n,
                                  int k, const float* alpha, const float* a, int lda, const float* b, int ldb,
                                  const float* beta, float* c, int ldc) {
  return weft::emulation::gemm(handle, op_a, op_b, m, n, k, *alpha, a, lda, b, ldb, *beta, c, ldc);
}
inline cublasStatus_t cublasDgemm(cublasHandle_t handle, cublasOperation_t op_a, cublasOperation_t op_b, int m, int n,
                                  int k, const double* alpha, const double* a, int lda, const double* b, int ldb,
                                  const double* beta, double* c, int ldc) {
  return weft::emulation::gemm(handle, op_a, op_b, m, n, k, *alpha, a, lda, b, ldb, *beta, c, ldc);
}
