#include "kernels/embedding.h"

#include "kernels/backend.h"
#include "kernels/check.h"

namespace weft::kernels {

template <class T>
void embedding_forward(Stream& stream, Matrix<T> x, Matrix<const T> token_table, const std::int32_t* token,
                       Matrix<const T> position_table, const std::int32_t* position) {
  check_matrix("embedding_forward", "x", x, x.rows, x.cols);
  check_matrix("embedding_forward", "token_table", token_table, token_table.rows, x.cols);
  check_array("embedding_forward", "token", token, x.rows);
  if (position_table.data != nullptr) {
    check_matrix("embedding_forward", "position_table", position_table, position_table.rows, x.cols);
    check_array("embedding_forward", "position", position, x.rows);
  }
  backend<T>(stream).embedding_forward(stream, x, token_table, token, position_table, position);
}

template <class T>
void embedding_backward(Stream& stream, Matrix<Wide<T>> d_table, const std::int32_t* id, Matrix<const T> dx,
                        Accumulate accumulate) {
  check_matrix("embedding_backward", "dx", dx, dx.rows, dx.cols);
  check_matrix("embedding_backward", "d_table", d_table, d_table.rows, dx.cols);
  check_array("embedding_backward", "id", id, dx.rows);
  backend<T>(stream).embedding_backward(stream, d_table, id, dx, accumulate);
}

#define WEFT_INSTANTIATE(T)                                     \
  template decltype(embedding_forward<T>) embedding_forward<T>; \
  template decltype(embedding_backward<T>) embedding_backward<T>;
WEFT_INSTANTIATE(float)
WEFT_INSTANTIATE(double)
WEFT_INSTANTIATE(BF16)
#undef WEFT_INSTANTIATE

}  // namespace weft::kernels
