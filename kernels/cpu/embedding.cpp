#include <algorithm>

#include "core/error.h"
#include "kernels/cpu/backend.h"

namespace weft::kernels::cpu {
namespace {

void check_ids(const char* kernel, const char* name, const std::int32_t* id, std::int64_t count, std::int64_t size) {
  for (std::int64_t t = 0; t < count; ++t)
    WEFT_CHECK(id[t] >= 0 && id[t] < size, kernel, ": ", name, "[", t, "] = ", id[t], ", the table has ", size,
               " rows");
}

template <class T>
void embedding_forward(Stream&, Matrix<T> x, Matrix<const T> token_table, const std::int32_t* token,
                       Matrix<const T> position_table, const std::int32_t* position) {
  check_ids("embedding_forward", "token", token, x.rows, token_table.rows);
  if (position_table.data != nullptr) check_ids("embedding_forward", "position", position, x.rows, position_table.rows);
  for (std::int64_t t = 0; t < x.rows; ++t) {
    const T* from = token_table.row(token[t]);
    T* out = x.row(t);
    if (position_table.data == nullptr) {
      std::copy_n(from, x.cols, out);
      continue;
    }
    const T* place = position_table.row(position[t]);
#pragma omp simd
    for (std::int64_t j = 0; j < x.cols; ++j) out[j] = from[j] + place[j];
  }
}

template <class T>
void embedding_backward(Stream&, Matrix<T> d_table, const std::int32_t* id, Matrix<const T> dx, Accumulate accumulate) {
  check_ids("embedding_backward", "id", id, dx.rows, d_table.rows);
  if (accumulate == Accumulate::kOverwrite)
    for (std::int64_t i = 0; i < d_table.rows; ++i) std::fill_n(d_table.row(i), d_table.cols, T(0));
  for (std::int64_t t = 0; t < dx.rows; ++t) {
    T* out = d_table.row(id[t]);
    const T* d = dx.row(t);
#pragma omp simd
    for (std::int64_t j = 0; j < dx.cols; ++j) out[j] += d[j];
  }
}

}  // namespace

template <class T>
void add_embedding(Backend<T>& table) {
  table.embedding_forward = embedding_forward<T>;
  table.embedding_backward = embedding_backward<T>;
}

template void add_embedding(Backend<float>& table);
template void add_embedding(Backend<double>& table);

}  // namespace weft::kernels::cpu
