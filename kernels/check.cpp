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

void check_routing_groups(const char* kernel, const RoutingGroups& groups, std::int64_t table_rows) {
  WEFT_CHECK(groups.rows > 0 && table_rows % groups.rows == 0, kernel, ": ", table_rows,
             " rows are no multiple of the group's ", groups.rows);
  WEFT_CHECK(groups.first >= 0 && groups.count >= 0 && groups.first + groups.count <= table_rows, kernel,
             ": results for rows ", groups.first, " to ", groups.first + groups.count, " of ", table_rows);
}

}  // namespace weft::kernels
