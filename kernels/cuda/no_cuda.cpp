// kernels/cuda/no_cuda.cpp - the CUDA backend of builds without CUDA.
#include "core/error.h"
#include "kernels/backend.h"
#include "kernels/blas.h"

namespace weft::kernels::cuda {

std::string why_no_blas() { return "this build of Weft has no CUDA kernels"; }

template <class T>
const Backend<T>& backend() {
  throw Error(ErrorCode::kUnavailable, "this build of Weft has no CUDA kernels", "use the CPU backend");
}

template const Backend<float>& backend<float>();
template const Backend<double>& backend<double>();

}  // namespace weft::kernels::cuda
