#include "kernels/attention.h"

#include "kernels/backend.h"
#include "kernels/check.h"

namespace weft::kernels {
namespace {

template <class T>
void check_inputs(const char* kernel, const AttentionInputs<T>& in, const AttentionShape& shape) {
  WEFT_CHECK(shape.head_dim > 0 && shape.num_heads > 0 && shape.num_kv_heads > 0, kernel, ": ", shape.num_heads,
             " heads, ", shape.num_kv_heads, " key/value heads of width ", shape.head_dim, ": all must be positive");
  WEFT_CHECK(shape.num_heads % shape.num_kv_heads == 0, kernel, ": ", shape.num_heads,
             " query heads do not divide among ", shape.num_kv_heads, " key/value heads");
  check_matrix(kernel, "q", in.q, in.q.rows, shape.num_heads * shape.head_dim);
  check_matrix(kernel, "k", in.k, in.k.rows, shape.num_kv_heads * shape.head_dim);
  check_matrix(kernel, "v", in.v, in.k.rows, shape.num_kv_heads * shape.head_dim);
  check_array(kernel, "q_rows.segment", in.q_rows.segment, in.q.rows);
  check_array(kernel, "q_rows.position", in.q_rows.position, in.q.rows);
  check_array(kernel, "k_rows.segment", in.k_rows.segment, in.k.rows);
  check_array(kernel, "k_rows.position", in.k_rows.position, in.k.rows);
}

}  // namespace

template <class T>
void attention_forward(Stream& stream, Matrix<T> out, Matrix<Wide<T>> lse, const AttentionInputs<T>& in,
                       const AttentionShape& shape) {
  check_inputs("attention_forward", in, shape);
  check_matrix("attention_forward", "out", out, in.q.rows, in.q.cols);
  check_matrix("attention_forward", "lse", lse, in.q.rows, shape.num_heads);
  backend<T>(stream).attention_forward(stream, out, lse, in, shape);
}

template <class T>
void attention_merge(Stream& stream, Matrix<Wide<T>> out, Matrix<Wide<T>> lse, Matrix<const T> part_out,
                     Matrix<const Wide<T>> part_lse) {
  check_matrix("attention_merge", "out", out, out.rows, out.cols);
  check_matrix("attention_merge", "lse", lse, out.rows, lse.cols);
  WEFT_CHECK(lse.cols > 0 && out.cols % lse.cols == 0, "attention_merge: ", out.cols,
             " columns of out do not divide among ", lse.cols, " heads");
  check_matrix("attention_merge", "part_out", part_out, out.rows, out.cols);
  check_matrix("attention_merge", "part_lse", part_lse, out.rows, lse.cols);
  backend<T>(stream).attention_merge(stream, out, lse, part_out, part_lse);
}

template <class T>
void attention_backward(Stream& stream, const AttentionGradients<T>& grad, Matrix<const T> dout, Matrix<const T> out,
                        Matrix<const Wide<T>> lse, const AttentionInputs<T>& in, const AttentionShape& shape) {
  check_inputs("attention_backward", in, shape);
  check_matrix("attention_backward", "dq", grad.dq, in.q.rows, in.q.cols);
  check_matrix("attention_backward", "dk", grad.dk, in.k.rows, in.k.cols);
  check_matrix("attention_backward", "dv", grad.dv, in.k.rows, in.k.cols);
  check_matrix("attention_backward", "dout", dout, in.q.rows, in.q.cols);
  check_matrix("attention_backward", "out", out, in.q.rows, in.q.cols);
  check_matrix("attention_backward", "lse", lse, in.q.rows, shape.num_heads);
  backend<T>(stream).attention_backward(stream, grad, dout, out, lse, in, shape);
}

#define WEFT_INSTANTIATE(T)                                     \
  template decltype(attention_forward<T>) attention_forward<T>; \
  template decltype(attention_merge<T>) attention_merge<T>;     \
  template decltype(attention_backward<T>) attention_backward<T>;
WEFT_INSTANTIATE(float)
WEFT_INSTANTIATE(double)
WEFT_INSTANTIATE(BF16)
#undef WEFT_INSTANTIATE

}  // namespace weft::kernels
