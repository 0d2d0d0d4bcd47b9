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
    cublasGemmEx_64(cublasHandle_t handle, cublasOperation_t op_a, cublasOperation_t op_b, int64_t m, int64_t n,
                    int64_t k, const void* alpha, const void* a, cudaDataType_t type_a, int64_t lda, const void* b,
                    cudaDataType_t type_b, int64_t ldb, const void* beta, void* c, cudaDataType_t type_c, int64_t ldc,
                    cublasComputeType_t compute, cublasGemmAlgo_t algorithm)
        WEFT_PASS_ON(cublasGemmEx_64, handle, op_a, op_b, m, n, k, alpha, a, type_a, lda, b, type_b, ldb, beta, c,
                     type_c, ldc, compute, algorithm) cublasStatus_t
    cublasGemmGroupedBatchedEx_64(cublasHandle_t handle, const cublasOperation_t op_a[], const cublasOperation_t op_b[],
                                  const int64_t m[], const int64_t n[], const int64_t k[], const void* alpha,
                                  const void* const a[], cudaDataType_t type_a, const int64_t lda[],
                                  const void* const b[], cudaDataType_t type_b, const int64_t ldb[], const void* beta,
                                  void* const c[], cudaDataType_t type_c, const int64_t ldc[], int64_t count,
                                  const int64_t size[], cublasComputeType_t compute)
        WEFT_PASS_ON(cublasGemmGroupedBatchedEx_64, handle, op_a, op_b, m, n, k, alpha, a, type_a, lda, b, type_b, ldb,
                     beta, c, type_c, ldc, count, size, compute)
