#include <algorithm>

#include "core/bf16.h"
#include "kernels/cpu/backend.h"
#include "kernels/cpu/row_index.h"

namespace weft::kernels::cpu {
namespace {

template <class T>
void gather_rows(Stream&, Matrix<T> out, Matrix<const T> in, const std::int32_t* index) {
  for (std::int64_t i = 0; i < out.rows; ++i) {
    check_index("gather_rows", index[i], in.rows);
    if (index[i] < 0)
      std::fill_n(out.row(i), out.cols, T(0));
    else
      std::copy_n(in.row(index[i]), out.cols, out.row(i));
  }
}

template <class T>
void fill(Stream&, T* x, std::int64_t n, Wide<T> value) {
  std::fill_n(x, n, value);
}

template <class T>
void copy(Stream&, T* y, const T* x, std::int64_t n) {
  std::copy_n(x, n, y);
}

template <class T>
void copy_blocks(Stream&, Matrix<T> out, Matrix<const T> in, std::span<const RowBlock> blocks) {
  const bool dense = out.stride == out.cols && in.stride == in.cols;
  for (const RowBlock& b : blocks) {
    if (dense) {
      std::copy_n(in.row(b.from), b.count * in.cols, out.row(b.to));
      continue;
    }
    for (std::int64_t i = 0; i < b.count; ++i) std::copy_n(in.row(b.from + i), in.cols, out.row(b.to + i));
  }
}

}  // namespace

template <class T>
void add_moves(RowKernels<T>& table) {
  table.gather_rows = gather_rows<T>;
  table.fill = fill<T>;
  table.copy = copy<T>;
  table.copy_blocks = copy_blocks<T>;
}

template void add_moves(RowKernels<float>& table);
template void add_moves(RowKernels<double>& table);
template void add_moves(RowKernels<BF16>& table);

}  // namespace weft::kernels::cpu
