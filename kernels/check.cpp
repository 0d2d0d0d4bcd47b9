#include "kernels/check.h"

namespace weft::kernels {

void check_matrix(const char* kernel, const char* name, MatrixShape m, std::int64_t rows, std::int64_t cols) {
  WEFT_CHECK(m.rows == rows && m.cols == cols && rows >= 0 && cols >= 0, kernel, ": ", name, " is [", m.rows, ", ",
             m.cols, "], expected [", rows, ", ", cols, "]");
  WEFT_CHECK(m.stride >= m.cols, kernel, ": ", name, " has row stride ", m.stride, " for ", m.cols, " columns");
  check_array(kernel, name, m.data, rows * cols);
}

void check_array(const char* kernel, const char* name, const void* data, std::int64_t count) {
  WEFT_CHECK(count >= 0, kernel, ": ", name, " has ", count, " elements");
  WEFT_CHECK(data != nullptr || count == 0, kernel, ": ", name, " is null, expected ", count, " elements");
}

}  // namespace weft::kernels
