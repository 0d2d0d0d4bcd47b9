#include "kernels/check.h"

#include <limits>

namespace weft::kernels {
namespace {

constexpr std::int64_t kMaxSide = std::numeric_limits<std::int32_t>::max();  // BLAS and row indices have 32 bits

}  // namespace

void check_matrix(const char* kernel, const char* name, MatrixShape m, std::int64_t rows, std::int64_t cols) {
  WEFT_CHECK(m.rows == rows && m.cols == cols && rows >= 0 && cols >= 0, kernel, ": ", name, " is [", m.rows, ", ",
             m.cols, "], expected [", rows, ", ", cols, "]");
  WEFT_CHECK(m.stride >= m.cols, kernel, ": ", name, " has row stride ", m.stride, " for ", m.cols, " columns");
  WEFT_CHECK(rows <= kMaxSide && m.stride <= kMaxSide, kernel, ": ", name, " is [", rows, ", ", cols, "], row stride ",
             m.stride, ": a side does not fit 32 bits");
  check_array(kernel, name, m.data, rows * cols);
}

void check_array(const char* kernel, const char* name, const void* data, std::int64_t count) {
  WEFT_CHECK(count >= 0, kernel, ": ", name, " has ", count, " elements");
  WEFT_CHECK(data != nullptr || count == 0, kernel, ": ", name, " is null, expected ", count, " elements");
}

}  // namespace weft::kernels
