#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "kernels/cpu/backend.h"
#include "kernels/cpu/rowwise.h"

namespace weft::kernels::cpu {
namespace {

template <class T>
T sum_exp_minus(const T* x, T shift, std::int64_t n) {
  T sum = 0;
#pragma omp simd reduction(+ : sum)
  for (std::int64_t j = 0; j < n; ++j) sum += exp(x[j] - shift);
  return sum;
}

/// One row: its loss; with `grad_scale`, the row becomes its gradient.
template <class T>
double row_loss(T* row, std::int64_t vocab, std::int32_t target, const double* grad_scale) {
  const T max = finite_or_zero(max_of(row, vocab));
  const T target_logit = row[target];
  const T sum = grad_scale ? exp_minus(row, row, max, vocab) : sum_exp_minus(row, max, vocab);
  if (grad_scale != nullptr) {
    const T scale = static_cast<T>(*grad_scale), factor = scale / sum;
#pragma omp simd
    for (std::int64_t j = 0; j < vocab; ++j) row[j] *= factor;
    row[target] -= scale;
  }
  return std::log(static_cast<double>(sum)) + (static_cast<double>(max) - static_cast<double>(target_logit));
}

template <class T>
void cross_entropy(Stream&, double* loss, Matrix<T> logits, const std::int32_t* target, const double* grad_scale) {
  for (std::int64_t t = 0; t < logits.rows; ++t)
    WEFT_CHECK(target[t] == kIgnoreTarget || (target[t] >= 0 && target[t] < logits.cols), "cross_entropy: target[", t,
               "] = ", target[t], ", the vocabulary has ", logits.cols, " entries");
  for (std::int64_t t = 0; t < logits.rows; ++t) {
    if (target[t] != kIgnoreTarget) {
      loss[t] = row_loss(logits.row(t), logits.cols, target[t], grad_scale);
      continue;
    }
    loss[t] = 0.0;
    if (grad_scale != nullptr) std::fill_n(logits.row(t), logits.cols, T(0));
  }
}

}  // namespace

template <class T>
void add_cross_entropy(Backend<T>& table) {
  table.cross_entropy = cross_entropy<T>;
}

template void add_cross_entropy(Backend<float>& table);
template void add_cross_entropy(Backend<double>& table);

}  // namespace weft::kernels::cpu
