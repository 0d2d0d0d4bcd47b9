// kernels/cpu/row_index.h - the check of row indices that kernels read.
#pragma once

#include <cstdint>

#include "core/error.h"

namespace weft::kernels::cpu {

inline void check_index(const char* kernel, std::int64_t index, std::int64_t rows) {
  WEFT_CHECK(index < rows, kernel, ": row index ", index, " of a matrix of ", rows, " rows");
}

}  // namespace weft::kernels::cpu
