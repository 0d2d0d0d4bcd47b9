// tests/support/cuda/cublas_v2.h - what Weft uses of cuBLAS, as plain loops on the emulated GPU. Checks the strides
// that cuBLAS checks. Names and meanings: cuBLAS Library reference.
#pragma once

#include "core/bf16.h"
#include "tests/support/cuda/cuda_runtime_api.h"

enum cublasStatus_t {
  CUBLAS_STATUS_SUCCESS,
  CUBLAS_STATUS_ALLOC_FAILED,
  CUBLAS_STATUS_INVALID_VALUE,
  CUBLAS_STATUS_NOT_SUPPORTED
};
enum cublasOperation_t { CUBLAS_OP_N, CUBLAS_OP_T };
enum cublasSetting_t {
  CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION,
  CUBLAS_ATOMICS_NOT_ALLOWED,
  CUBLAS_POINTER_MODE_HOST
};
enum cudaDataType_t { CUDA_R_32F, CUDA_R_64F, CUDA_R_16BF };
enum cublasComputeType_t { CUBLAS_COMPUTE_32F, CUBLAS_COMPUTE_32F_PEDANTIC, CUBLAS_COMPUTE_64F_PEDANTIC };
enum cublasGemmAlgo_t { CUBLAS_GEMM_DEFAULT };
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

struct Operand {
  const void* data;
  cublasOperation_t op;
  std::int64_t stride;
};
/// c = alpha op(a) op(b) + beta c, columns first. [m, k] x [k, n].
struct Gemm {
  std::int64_t m, n, k;
  double alpha;
  Operand a, b;
  cudaDataType_t type;
  double beta;
  void* c;
  cudaDataType_t type_c;
  std::int64_t ldc;
  cublasComputeType_t compute;

  [[nodiscard]] cublasStatus_t check() const {
    if (a.stride < (a.op == CUBLAS_OP_N ? m : k) || b.stride < (b.op == CUBLAS_OP_N ? k : n) || ldc < m)
      return CUBLAS_STATUS_INVALID_VALUE;
    const cublasComputeType_t wanted = type == CUDA_R_32F   ? CUBLAS_COMPUTE_32F_PEDANTIC
                                       : type == CUDA_R_64F ? CUBLAS_COMPUTE_64F_PEDANTIC
                                                            : CUBLAS_COMPUTE_32F;
    const bool known = type == type_c || (type == CUDA_R_16BF && type_c == CUDA_R_32F);
    return known && compute == wanted ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_SUPPORTED;
  }
  void run() const {
    if (type == CUDA_R_64F) return run_as<double, double, double>();
    if (type == CUDA_R_32F) return run_as<float, float, float>();
    return type_c == CUDA_R_32F ? run_as<float, weft::BF16, float>() : run_as<float, weft::BF16, weft::BF16>();
  }

 private:
  template <class S, class In, class Out>
  void run_as() const {
    const auto factor = static_cast<S>(alpha), keep = static_cast<S>(beta);
    const auto at = [](const Operand& x, std::int64_t row, std::int64_t col) {
      return static_cast<S>(
          static_cast<const In*>(x.data)[x.op == CUBLAS_OP_N ? row + col * x.stride : col + row * x.stride]);
    };
    for (std::int64_t j = 0; j < n; ++j)
      for (std::int64_t i = 0; i < m; ++i) {
        S sum = 0;
        for (std::int64_t l = 0; l < k; ++l) sum += at(a, i, l) * at(b, l, j);
        Out& to = static_cast<Out*>(c)[i + j * ldc];
        to = static_cast<Out>(keep == S(0) ? factor * sum : factor * sum + keep * static_cast<S>(to));
      }
  }
};

/// Entry `i` of an array of factors, which are as wide as the sums.
inline double factor(const void* factors, cudaDataType_t type, std::int64_t i = 0) {
  return type == CUDA_R_64F ? static_cast<const double*>(factors)[i] : static_cast<const float*>(factors)[i];
}

}  // namespace weft::emulation

inline cublasStatus_t cublasGemmEx_64(cublasHandle_t handle, cublasOperation_t op_a, cublasOperation_t op_b,
                                      std::int64_t m, std::int64_t n, std::int64_t k, const void* alpha, const void* a,
                                      cudaDataType_t type, std::int64_t lda, const void* b, cudaDataType_t type_b,
                                      std::int64_t ldb, const void* beta, void* c, cudaDataType_t type_c,
                                      std::int64_t ldc, cublasComputeType_t compute, cublasGemmAlgo_t) {
  if (type != type_b) return CUBLAS_STATUS_NOT_SUPPORTED;
  using weft::emulation::factor;
  const weft::emulation::Gemm gemm{
      m, n, k, factor(alpha, type), {a, op_a, lda}, {b, op_b, ldb}, type, factor(beta, type), c, type_c, ldc, compute};
  if (const cublasStatus_t status = gemm.check(); status != CUBLAS_STATUS_SUCCESS) return status;
  handle->stream->push([gemm] { gemm.run(); });
  return CUBLAS_STATUS_SUCCESS;
}

/// Groups of one product each. The pointers are memory of the device: read when the work runs. Not for BF16 with
/// results in F32: what uses it must do without.
inline cublasStatus_t cublasGemmGroupedBatchedEx_64(
    cublasHandle_t handle, const cublasOperation_t op_a[], const cublasOperation_t op_b[], const std::int64_t m[],
    const std::int64_t n[], const std::int64_t k[], const void* alpha, const void* const a[], cudaDataType_t type,
    const std::int64_t lda[], const void* const b[], cudaDataType_t type_b, const std::int64_t ldb[], const void* beta,
    void* const c[], cudaDataType_t type_c, const std::int64_t ldc[], std::int64_t count, const std::int64_t size[],
    cublasComputeType_t compute) {
  if (type != type_b || type != type_c) return CUBLAS_STATUS_NOT_SUPPORTED;
  using weft::emulation::factor;
  for (std::int64_t g = 0; g < count; ++g) {
    weft::emulation::Gemm gemm{m[g],
                               n[g],
                               k[g],
                               factor(alpha, type, g),
                               {nullptr, op_a[g], lda[g]},
                               {nullptr, op_b[g], ldb[g]},
                               type,
                               factor(beta, type, g),
                               nullptr,
                               type_c,
                               ldc[g],
                               compute};
    if (size[g] != 1) return CUBLAS_STATUS_INVALID_VALUE;
    if (const cublasStatus_t status = gemm.check(); status != CUBLAS_STATUS_SUCCESS) return status;
    handle->stream->push([=]() mutable {
      gemm.a.data = a[g], gemm.b.data = b[g], gemm.c = c[g];
      gemm.run();
    });
  }
  return CUBLAS_STATUS_SUCCESS;
}
