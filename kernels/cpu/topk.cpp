#include <algorithm>
#include <cmath>

#include "kernels/cpu/backend.h"
#include "kernels/cpu/rowwise.h"

namespace weft::kernels::cpu {
namespace {

template <class T>
void softmax_forward(Stream&, Matrix<T> probs, T* lse, Matrix<const T> logits) {
  for (std::int64_t t = 0; t < logits.rows; ++t) {
    const T* in = logits.row(t);
    T* out = probs.row(t);
    const T max = finite_or_zero(max_of(in, logits.cols));
    const T sum = exp_minus(out, in, max, logits.cols);
    const T inverse = T(1) / sum;
#pragma omp simd
    for (std::int64_t j = 0; j < logits.cols; ++j) out[j] *= inverse;
    if (lse != nullptr) lse[t] = max + std::log(sum);
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

/// Insertion into a sorted list of the K best so far. Columns come in ascending order, so a newcomer must be strictly
/// better to pass, and ties go to the lower column.
template <class T>
void top_k(Stream&, Matrix<std::int32_t> expert, Matrix<const T> scores) {
  const auto better = [](T a, T b) { return a > b || (std::isnan(b) && !std::isnan(a)); };
  for (std::int64_t t = 0; t < scores.rows; ++t) {
    const T* score = scores.row(t);
    std::int32_t* best = expert.row(t);
    for (std::int64_t j = 0; j < scores.cols; ++j) {
      std::int64_t place = std::min(j, expert.cols);
      if (place == expert.cols && (place == 0 || !better(score[j], score[best[place - 1]]))) continue;
      if (place == expert.cols) --place;  // the last one falls out
      for (; place > 0 && better(score[j], score[best[place - 1]]); --place) best[place] = best[place - 1];
      best[place] = static_cast<std::int32_t>(j);
    }
  }
}

}  // namespace

template <class T>
void add_topk(Backend<T>& table) {
  table.softmax_forward = softmax_forward<T>;
  table.softmax_backward = softmax_backward<T>;
  table.top_k = top_k<T>;
}

template void add_topk(Backend<float>& table);
template void add_topk(Backend<double>& table);

}  // namespace weft::kernels::cpu
