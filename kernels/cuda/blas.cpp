#include "kernels/cuda/blas.h"

#include <cublas_v2.h>

#include <memory>
#include <vector>

#include "core/cuda/memory.h"
#include "core/cuda/stream.h"
#include "core/error.h"
#include "core/memory.h"
#include "kernels/blas.h"
#include "kernels/cuda/pointers.h"

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
    WEFT_CUBLAS_CHECK(cublasSetMathMode(raw, CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION));
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

/// How cuBLAS is to compute with a type, and what it calls it.
template <class T>
inline constexpr cublasComputeType_t kCompute = CUBLAS_COMPUTE_32F_PEDANTIC;
template <>
inline constexpr cublasComputeType_t kCompute<double> = CUBLAS_COMPUTE_64F_PEDANTIC;
template <>
inline constexpr cublasComputeType_t kCompute<BF16> = CUBLAS_COMPUTE_32F;
template <class T>
inline constexpr cudaDataType_t kType = CUDA_R_32F;
template <>
inline constexpr cudaDataType_t kType<double> = CUDA_R_64F;
template <>
inline constexpr cudaDataType_t kType<BF16> = CUDA_R_16BF;

cublasOperation_t op(Transpose transpose) { return transpose == Transpose::kYes ? CUBLAS_OP_T : CUBLAS_OP_N; }

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

namespace {

/// True when there is something to add up. Else c is what a sum of nothing leaves.
template <class T, class Out>
bool has_terms(Stream& stream, const GemmProduct<T, Out>& p, Transpose trans_a, Accumulate accumulate) {
  if (p.c.rows == 0 || p.c.cols == 0) return false;
  if ((trans_a == Transpose::kYes ? p.a.rows : p.a.cols) > 0) return true;
  if (accumulate == Accumulate::kOverwrite) zero(stream, p.c);
  return false;
}

/// What cuBLAS takes as arrays, an entry per product. It counts columns first, so it sees every matrix transposed:
/// c^T = op(b)^T op(a)^T.
template <class Scale>
struct Arrays {
  std::vector<cublasOperation_t> op_b, op_a;
  std::vector<std::int64_t> m, n, k, ldb, lda, ldc, size;
  std::vector<Scale> alpha, beta;
  std::vector<const void*> pointers;  // b of all, a of all, c of all
};
template <class T, class Out>
Arrays<Wide<T>> arrays_of(std::span<const GemmProduct<T, Out>> products, Transpose trans_a, Transpose trans_b,
                          Accumulate accumulate) {
  const std::size_t count = products.size();
  Arrays<Wide<T>> out;
  out.op_b.assign(count, op(trans_b));
  out.op_a.assign(count, op(trans_a));
  out.size.assign(count, 1);
  out.alpha.assign(count, 1);
  out.beta.assign(count, accumulate == Accumulate::kAdd ? 1 : 0);
  out.pointers.resize(3 * count);
  for (std::size_t i = 0; i < count; ++i) {
    const GemmProduct<T, Out>& p = products[i];
    out.m.push_back(p.c.cols);
    out.n.push_back(p.c.rows);
    out.k.push_back(trans_a == Transpose::kYes ? p.a.rows : p.a.cols);
    out.ldb.push_back(p.b.stride);
    out.lda.push_back(p.a.stride);
    out.ldc.push_back(p.c.stride);
    out.pointers[i] = p.b.data;
    out.pointers[count + i] = p.a.data;
    out.pointers[2 * count + i] = p.c.data;
  }
  return out;
}

}  // namespace

template <class T, class Out>
void multiply(Stream& stream, Matrix<Out> c, Matrix<const T> a, Transpose trans_a, Matrix<const T> b, Transpose trans_b,
              Wide<T> alpha, Accumulate accumulate) {
  if (!has_terms(stream, GemmProduct<T, Out>{c, a, b}, trans_a, accumulate)) return;
  const std::int64_t inner = trans_a == Transpose::kYes ? a.rows : a.cols;
  const Wide<T> beta = accumulate == Accumulate::kAdd ? 1 : 0;
  WEFT_CUBLAS_CHECK(cublasGemmEx_64(handle_of(stream), op(trans_b), op(trans_a), c.cols, c.rows, inner, &alpha, b.data,
                                    kType<T>, b.stride, a.data, kType<T>, a.stride, &beta, c.data, kType<Out>, c.stride,
                                    kCompute<T>, CUBLAS_GEMM_DEFAULT));
}

template <class T, class Out>
void multiply_group(Stream& stream, std::span<const GemmProduct<T, Out>> all, Transpose trans_a, Transpose trans_b,
                    Accumulate accumulate) {
  std::vector<GemmProduct<T, Out>> products;
  for (const auto& p : all)
    if (has_terms(stream, p, trans_a, accumulate)) products.push_back(p);
  const auto one_by_one = [&] {
    for (const auto& p : products) multiply(stream, p.c, p.a, trans_a, p.b, trans_b, Wide<T>(1), accumulate);
  };
  if (products.size() < 2) return one_by_one();
  const auto kept = std::make_shared<const Arrays<Wide<T>>>(arrays_of<T, Out>(products, trans_a, trans_b, accumulate));
  const Arrays<Wide<T>>& arrays = *kept;
  // cuBLAS does not say when it reads them; in a recording it may be at each launch
  if (static_cast<weft::cuda::GpuStream&>(stream).recording() != nullptr) stream.keep_alive(kept);
  const auto count = static_cast<std::int64_t>(products.size());
  const weft::cuda::StreamScratch<const void*> table(static_cast<cudaStream_t>(stream.native()), 3 * count);
  write_pointers(stream, table.data(), arrays.pointers);
  const cublasStatus_t status = cublasGemmGroupedBatchedEx_64(
      handle_of(stream), arrays.op_b.data(), arrays.op_a.data(), arrays.m.data(), arrays.n.data(), arrays.k.data(),
      arrays.alpha.data(), table.data(), kType<T>, arrays.ldb.data(), table.data() + count, kType<T>, arrays.lda.data(),
      arrays.beta.data(), const_cast<void**>(table.data() + 2 * count), kType<Out>, arrays.ldc.data(), count,
      arrays.size.data(), kCompute<T>);
  if (status == CUBLAS_STATUS_NOT_SUPPORTED) return one_by_one();  // not every version has every pair of types
  WEFT_CUBLAS_CHECK(status);
}

#define WEFT_INSTANTIATE(T, Out)                        \
  template decltype(multiply<T, Out>) multiply<T, Out>; \
  template decltype(multiply_group<T, Out>) multiply_group<T, Out>;
WEFT_INSTANTIATE(float, float)
WEFT_INSTANTIATE(double, double)
WEFT_INSTANTIATE(BF16, BF16)
WEFT_INSTANTIATE(BF16, float)
#undef WEFT_INSTANTIATE

}  // namespace weft::kernels::cuda
