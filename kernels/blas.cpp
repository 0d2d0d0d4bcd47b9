#include "kernels/blas.h"

namespace weft::kernels {

std::string why_no_blas(DeviceKind kind) { return kind == DeviceKind::kCpu ? std::string() : cuda::why_no_blas(); }

}  // namespace weft::kernels
