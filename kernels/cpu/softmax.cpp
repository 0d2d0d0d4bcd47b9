#include "kernels/cpu/backend.h"
#include "kernels/cpu/rowwise.h"

namespace weft::kernels::cpu {
namespace {

template <class T>
void softmax_forward(Stream&, Matrix<T> probs, T* lse, Matrix<const T> logits) {
  for (std::int64_t t = 0; t < logits.rows; ++t) {
    const T logsumexp = softmax_row(probs.row(t), logits.row(t), logits.cols);
    if (lse != nullptr) lse[t] = logsumexp;
  }
}

template <class T>
void softmax_backward(Stream&, Matrix<T> dlogits, Matrix<const T> dprobs, Matrix<const T> probs) {
  for (std::int64_t t = 0; t < probs.rows; ++t) {
    const T *p = probs.row(t), *dp = dprobs.row(t);
    T* out = dlogits.row(t);
    T dot = 0;
#pragma omp simd reduction(+ : dot)
    for (std::int64_t j = 0; j < probs.cols; ++j) dot += p[j] * dp[j];
#pragma omp simd
    for (std::int64_t j = 0; j < probs.cols; ++j) out[j] = p[j] * (dp[j] - dot);
  }
}

}  // namespace

template <class T>
void add_softmax(Backend<T>& table) {
  table.softmax_forward = softmax_forward<T>;
  table.softmax_backward = softmax_backward<T>;
}

template void add_softmax(Backend<float>& table);
template void add_softmax(Backend<double>& table);

}  // namespace weft::kernels::cpu
