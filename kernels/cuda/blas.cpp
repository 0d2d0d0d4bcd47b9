#include "kernels/cuda/blas.h"

#include <cublas_v2.h>

#include <memory>

#include "core/cuda/stream.h"
#include "core/error.h"
#include "core/memory.h"
#include "kernels/blas.h"

namespace weft::kernels::cuda {
namespace {

void check_blas(cublasStatus_t status, const char* call, const char* file = __builtin_FILE(),
                int line = __builtin_LINE()) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  const ErrorCode code = status == CUBLAS_STATUS_ALLOC_FAILED ? ErrorCode::kOutOfMemory : ErrorCode::kDevice;
  throw Error(code, str(call, ": ", cublasGetStatusName(status), ", ", cublasGetStatusString(status)), {}, file, line);
}
#define WEFT_CUBLAS_CHECK(call) check_blas((call), #call)

/// What NVIDIA asks for on Hopper; more than any earlier GPU needs.
constexpr std::int64_t kWorkspaceBytes = std::int64_t{32} << 20;

/// The cuBLAS of one stream. Without a workspace of its own it would share one whose use depends on timing.
class Blas {
 public:
  explicit Blas(weft::cuda::GpuStream& stream) : workspace_(stream.device(), kWorkspaceBytes) {
    cublasHandle_t raw = nullptr;
    WEFT_CUBLAS_CHECK(cublasCreate(&raw));
    handle_ = Handle(raw);
    WEFT_CUBLAS_CHECK(cublasSetStream(raw, static_cast<cudaStream_t>(stream.native())));
    WEFT_CUBLAS_CHECK(cublasSetWorkspace(raw, workspace_.data(), static_cast<std::size_t>(kWorkspaceBytes)));
    WEFT_CUBLAS_CHECK(cublasSetMathMode(raw, CUBLAS_PEDANTIC_MATH));
    WEFT_CUBLAS_CHECK(cublasSetAtomicsMode(raw, CUBLAS_ATOMICS_NOT_ALLOWED));
    WEFT_CUBLAS_CHECK(cublasSetPointerMode(raw, CUBLAS_POINTER_MODE_HOST));
  }
  [[nodiscard]] cublasHandle_t get() const noexcept { return handle_.get(); }

 private:
  using Handle = weft::cuda::Handle<cublasHandle_t, cublasDestroy>;
  Memory workspace_;  // before the handle, which uses it
  Handle handle_;
};

cublasHandle_t handle_of(Stream& stream) {
  auto& gpu = static_cast<weft::cuda::GpuStream&>(stream);
  if (!gpu.attachment()) gpu.attachment() = std::make_shared<Blas>(gpu);
  return static_cast<const Blas*>(gpu.attachment().get())->get();
}

struct Side {
  cublasOperation_t op;
  const void* data;
  int stride;
};

void gemm_of(cublasHandle_t handle, int m, int n, int k, float alpha, const Side& a, const Side& b, float beta,
             float* c, int ldc) {
  WEFT_CUBLAS_CHECK(cublasSgemm(handle, a.op, b.op, m, n, k, &alpha, static_cast<const float*>(a.data), a.stride,
                                static_cast<const float*>(b.data), b.stride, &beta, c, ldc));
}
void gemm_of(cublasHandle_t handle, int m, int n, int k, double alpha, const Side& a, const Side& b, double beta,
             double* c, int ldc) {
  WEFT_CUBLAS_CHECK(cublasDgemm(handle, a.op, b.op, m, n, k, &alpha, static_cast<const double*>(a.data), a.stride,
                                static_cast<const double*>(b.data), b.stride, &beta, c, ldc));
}

template <class T>
Side side(Matrix<const T> m, Transpose transpose) {
  return {transpose == Transpose::kYes ? CUBLAS_OP_T : CUBLAS_OP_N, m.data, static_cast<int>(m.stride)};
}

template <class T>
void zero(Stream& stream, Matrix<T> m) {
  WEFT_CUDA_CHECK(cudaMemset2DAsync(m.data, static_cast<std::size_t>(m.stride) * sizeof(T), 0,
                                    static_cast<std::size_t>(m.cols) * sizeof(T), static_cast<std::size_t>(m.rows),
                                    static_cast<cudaStream_t>(stream.native())));
}

}  // namespace

std::string why_no_blas() {
  try {
    static_cast<void>(cublasGetStatusName(CUBLAS_STATUS_SUCCESS));  // the first call loads the library
    return {};
  } catch (const Error& e) {
    return e.message();
  }
}

template <class T>
void multiply(Stream& stream, Matrix<T> c, Matrix<const T> a, Transpose trans_a, Matrix<const T> b, Transpose trans_b,
              T alpha, Accumulate accumulate) {
  if (c.rows == 0 || c.cols == 0) return;
  const std::int64_t inner = trans_a == Transpose::kYes ? a.rows : a.cols;
  if (inner == 0) {
    if (accumulate == Accumulate::kOverwrite) zero(stream, c);
    return;
  }
  // cuBLAS counts columns first, so it sees every matrix transposed: c^T = op(b)^T op(a)^T
  gemm_of(handle_of(stream), static_cast<int>(c.cols), static_cast<int>(c.rows), static_cast<int>(inner), alpha,
          side(b, trans_b), side(a, trans_a), accumulate == Accumulate::kAdd ? T(1) : T(0), c.data,
          static_cast<int>(c.stride));
}

template decltype(multiply<float>) multiply<float>;
template decltype(multiply<double>) multiply<double>;

}  // namespace weft::kernels::cuda
