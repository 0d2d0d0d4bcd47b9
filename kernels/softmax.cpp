#include "kernels/softmax.h"

#include "kernels/backend.h"
#include "kernels/check.h"

namespace weft::kernels {

template <class T>
void softmax_forward(Stream& stream, Matrix<T> probs, T* lse, Matrix<const T> logits) {
  check_matrix("softmax_forward", "logits", logits, logits.rows, logits.cols);
  check_matrix("softmax_forward", "probs", probs, logits.rows, logits.cols);
  backend<T>(stream).softmax_forward(stream, probs, lse, logits);
}

template <class T>
void softmax_backward(Stream& stream, Matrix<T> dlogits, Matrix<const T> dprobs, Matrix<const T> probs) {
  check_matrix("softmax_backward", "probs", probs, probs.rows, probs.cols);
  check_matrix("softmax_backward", "dlogits", dlogits, probs.rows, probs.cols);
  check_matrix("softmax_backward", "dprobs", dprobs, probs.rows, probs.cols);
  backend<T>(stream).softmax_backward(stream, dlogits, dprobs, probs);
}

#define WEFT_INSTANTIATE(T)                                 \
  template decltype(softmax_forward<T>) softmax_forward<T>; \
  template decltype(softmax_backward<T>) softmax_backward<T>;
WEFT_INSTANTIATE(float)
WEFT_INSTANTIATE(double)
#undef WEFT_INSTANTIATE

}  // namespace weft::kernels
