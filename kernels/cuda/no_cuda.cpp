// kernels/cuda/no_cuda.cpp - the CUDA backend of builds without CUDA.
#include "core/error.h"
#include "kernels/backend.h"
#include "kernels/blas.h"
#include "kernels/cuda/sort.h"

namespace weft::kernels::cuda {
namespace {

[[noreturn]] void refuse() {
  throw Error(ErrorCode::kUnavailable, "this build of Weft has no CUDA kernels", "use the CPU backend");
}

}  // namespace

std::string why_no_blas() { return "this build of Weft has no CUDA kernels"; }

void sort_by_id(Stream&, std::uint64_t*, const std::uint64_t*, std::int64_t, std::int64_t) { refuse(); }

template <class T>
const Backend<T>& backend() {
  refuse();
}

template const Backend<float>& backend<float>();
template const Backend<double>& backend<double>();
template const Backend<BF16>& backend<BF16>();

}  // namespace weft::kernels::cuda
