#include "kernels/rope.h"

#include "core/bf16.h"
#include "kernels/backend.h"
#include "kernels/check.h"

namespace weft::kernels {

template <class T>
void rope(Stream& stream, Matrix<T> x, const std::int32_t* position, std::int64_t head_dim, double theta,
          RopeDirection direction) {
  check_matrix("rope", "x", x, x.rows, x.cols);
  check_array("rope", "position", position, x.rows);
  WEFT_CHECK(head_dim > 0 && head_dim % 2 == 0, "rope: head_dim must be even and positive, is ", head_dim);
  WEFT_CHECK(x.cols % head_dim == 0, "rope: ", x.cols, " columns are no whole number of heads of ", head_dim);
  WEFT_CHECK(theta > 0, "rope: theta must be positive, is ", theta);
  backend<T>(stream).rope(stream, x, position, head_dim, theta, direction);
}

template decltype(rope<float>) rope<float>;
template decltype(rope<double>) rope<double>;
template decltype(rope<BF16>) rope<BF16>;

}  // namespace weft::kernels
