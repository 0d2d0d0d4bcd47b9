// kernels/blas.h - whether matrix products can be had on a kind of device.
#pragma once

#include <string>

#include "core/device.h"

namespace weft::kernels {

/// Why not, although the device may be there: cuBLAS is not in the build, or not installed; "" when they can.
[[nodiscard]] std::string why_no_blas(DeviceKind kind);

namespace cuda {
[[nodiscard]] std::string why_no_blas();
}

}  // namespace weft::kernels
