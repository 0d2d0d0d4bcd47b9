// kernels/check.h - the shape checks of the kernels' entry points.
#pragma once

#include <cstdint>

#include "core/error.h"
#include "core/matrix.h"
#include "kernels/routing_groups.h"

namespace weft::kernels {

/// What check_matrix looks at: any Matrix without its element type.
struct MatrixShape {
  const void* data;
  std::int64_t rows, cols, stride;
  template <class T>
  MatrixShape(const Matrix<T>& m) : data(m.data), rows(m.rows), cols(m.cols), stride(m.stride) {}
};

/// Throws kInvalidArgument, naming `kernel` and `name`, unless `m` is [rows, cols] with a stride of at least its
/// columns and has memory when it has elements.
void check_matrix(const char* kernel, const char* name, MatrixShape m, std::int64_t rows, std::int64_t cols);

/// Throws kInvalidArgument unless `data` is there, or `count` elements are none.
void check_array(const char* kernel, const char* name, const void* data, std::int64_t count);

/// Throws kInvalidArgument unless `groups` are groups of a table of `table_rows` rows, and what is wanted lies in it.
void check_routing_groups(const char* kernel, const RoutingGroups& groups, std::int64_t table_rows);

}  // namespace weft::kernels
