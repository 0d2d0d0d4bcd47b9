#include "kernels/grouped_gemm.h"

#include "kernels/backend.h"
#include "kernels/check.h"

namespace weft::kernels {
namespace {

void check_offsets(const char* kernel, std::span<const std::int64_t> offsets, std::int64_t rows) {
  WEFT_CHECK(!offsets.empty(), kernel, ": offsets are empty, expected one more than the experts");
  for (std::size_t e = 0; e + 1 < offsets.size(); ++e)
    WEFT_CHECK(offsets[e] <= offsets[e + 1], kernel, ": offsets descend at expert ", e, ": ", offsets[e], " to ",
               offsets[e + 1]);
  WEFT_CHECK(offsets.front() >= 0 && offsets.back() <= rows, kernel, ": offsets reach from ", offsets.front(), " to ",
             offsets.back(), ", the matrix has ", rows, " rows");
}

template <class T>
void check_weights(const char* kernel, const ExpertWeights<T>& w, std::size_t num_offsets) {
  const auto num_experts = static_cast<std::int64_t>(num_offsets) - 1;
  check_matrix(kernel, "an expert's weight", Matrix<T>(w.data, num_experts > 0 ? w.out_width : 0, w.in_width),
               num_experts > 0 ? w.out_width : 0, w.in_width);
  WEFT_CHECK(num_experts < 2 || w.expert_stride >= w.out_width * w.in_width, kernel, ": expert stride ",
             w.expert_stride, " for weights of ", w.out_width, " x ", w.in_width);
  WEFT_CHECK(num_experts < 2 || w.bias == nullptr || w.bias_stride >= w.out_width, kernel, ": bias stride ",
             w.bias_stride, " for biases of ", w.out_width);
}

}  // namespace

template <class T>
void grouped_linear_forward(Stream& stream, Matrix<T> y, Matrix<const T> x, ExpertWeights<const T> w,
                            std::span<const std::int64_t> offsets) {
  check_offsets("grouped_linear_forward", offsets, x.rows);
  check_weights("grouped_linear_forward", w, offsets.size());
  check_matrix("grouped_linear_forward", "y", y, x.rows, w.out_width);
  check_matrix("grouped_linear_forward", "x", x, x.rows, w.in_width);
  backend<T>(stream).grouped_linear_forward(stream, y, x, w, offsets);
}

template <class T>
void grouped_linear_backward_input(Stream& stream, Matrix<T> dx, Matrix<const T> dy, ExpertWeights<const T> w,
                                   std::span<const std::int64_t> offsets, Accumulate accumulate) {
  check_offsets("grouped_linear_backward_input", offsets, dy.rows);
  check_weights("grouped_linear_backward_input", w, offsets.size());
  check_matrix("grouped_linear_backward_input", "dx", dx, dy.rows, w.in_width);
  check_matrix("grouped_linear_backward_input", "dy", dy, dy.rows, w.out_width);
  backend<T>(stream).grouped_linear_backward_input(stream, dx, dy, w, offsets, accumulate);
}

template <class T>
void grouped_linear_backward_weight(Stream& stream, ExpertWeights<Wide<T>> dw, Matrix<const T> dy, Matrix<const T> x,
                                    std::span<const std::int64_t> offsets, Accumulate accumulate) {
  check_offsets("grouped_linear_backward_weight", offsets, x.rows);
  check_weights("grouped_linear_backward_weight", dw, offsets.size());
  check_matrix("grouped_linear_backward_weight", "dy", dy, x.rows, dw.out_width);
  check_matrix("grouped_linear_backward_weight", "x", x, x.rows, dw.in_width);
  backend<T>(stream).grouped_linear_backward_weight(stream, dw, dy, x, offsets, accumulate);
}

#define WEFT_INSTANTIATE(T)                                                             \
  template decltype(grouped_linear_forward<T>) grouped_linear_forward<T>;               \
  template decltype(grouped_linear_backward_input<T>) grouped_linear_backward_input<T>; \
  template decltype(grouped_linear_backward_weight<T>) grouped_linear_backward_weight<T>;
WEFT_INSTANTIATE(float)
WEFT_INSTANTIATE(double)
WEFT_INSTANTIATE(BF16)
#undef WEFT_INSTANTIATE

}  // namespace weft::kernels
