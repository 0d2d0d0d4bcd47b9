// kernels/cuda/load_cublas.cpp - the functions of cuBLAS that blas.cpp calls, passed on to the library. Linked, it
// would cost every start of the program 0.1 s and 0.2 GB of address space, GPU or not.
#include <cublas_v2.h>

#include "core/cuda/pass_on.h"

namespace {

const weft::cuda::Library& library() {
  static const weft::cuda::Library cublas("libcublas.so." WEFT_TEXT_OF(CUBLAS_VER_MAJOR), "cuBLAS");
  return cublas;
}

}  // namespace

cublasStatus_t cublasCreate(cublasHandle_t* handle) WEFT_PASS_ON(cublasCreate, handle) cublasStatus_t
    cublasDestroy(cublasHandle_t handle) WEFT_PASS_ON(cublasDestroy, handle) cublasStatus_t
    cublasSetStream(cublasHandle_t handle, cudaStream_t stream)
        WEFT_PASS_ON(cublasSetStream, handle, stream) cublasStatus_t
    cublasSetWorkspace(cublasHandle_t handle, void* data, size_t bytes)
        WEFT_PASS_ON(cublasSetWorkspace, handle, data, bytes) cublasStatus_t
    cublasSetMathMode(cublasHandle_t handle, cublasMath_t mode)
        WEFT_PASS_ON(cublasSetMathMode, handle, mode) cublasStatus_t
    cublasSetAtomicsMode(cublasHandle_t handle, cublasAtomicsMode_t mode)
        WEFT_PASS_ON(cublasSetAtomicsMode, handle, mode) cublasStatus_t
    cublasSetPointerMode(cublasHandle_t handle, cublasPointerMode_t mode)
        WEFT_PASS_ON(cublasSetPointerMode, handle, mode) const char* cublasGetStatusName(cublasStatus_t status)
            WEFT_PASS_ON(cublasGetStatusName, status) const char* cublasGetStatusString(cublasStatus_t status)
                WEFT_PASS_ON(cublasGetStatusString, status) cublasStatus_t
    cublasSgemm(cublasHandle_t handle, cublasOperation_t op_a, cublasOperation_t op_b, int m, int n, int k,
                const float* alpha, const float* a, int lda, const float* b, int ldb, const float* beta, float* c,
                int ldc)
        WEFT_PASS_ON(cublasSgemm, handle, op_a, op_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc) cublasStatus_t
    cublasDgemm(cublasHandle_t handle, cublasOperation_t op_a, cublasOperation_t op_b, int m, int n, int k,
                const double* alpha, const double* a, int lda, const double* b, int ldb, const double* beta, double* c,
                int ldc) WEFT_PASS_ON(cublasDgemm, handle, op_a, op_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc)
