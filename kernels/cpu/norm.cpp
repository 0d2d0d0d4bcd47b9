#include <algorithm>
#include <cmath>

#include "kernels/cpu/backend.h"

namespace weft::kernels::cpu {
namespace {

template <class T>
void rms_norm_forward(Stream&, Matrix<T> y, T* rstd, Matrix<const T> x, const T* weight, double eps) {
  const std::int64_t width = x.cols;
  for (std::int64_t t = 0; t < x.rows; ++t) {
    const T* xt = x.row(t);
    T* yt = y.row(t);
    T sum = 0;
#pragma omp simd reduction(+ : sum)
    for (std::int64_t j = 0; j < width; ++j) sum += xt[j] * xt[j];
    const T r = T(1) / std::sqrt(sum / static_cast<T>(width) + static_cast<T>(eps));
    if (rstd != nullptr) rstd[t] = r;
#pragma omp simd
    for (std::int64_t j = 0; j < width; ++j) yt[j] = xt[j] * r * weight[j];
  }
}

/// With x_hat = x * rstd and g = dy * weight: dx = rstd * (g - x_hat * mean(g * x_hat)); dweight = sum of dy * x_hat.
template <class T, bool kAdd>
void rms_norm_backward_rows(Matrix<T> dx, T* dweight, Matrix<const T> dy, Matrix<const T> x, const T* rstd,
                            const T* weight) {
  const std::int64_t width = x.cols;
  for (std::int64_t t = 0; t < x.rows; ++t) {
    const T *xt = x.row(t), *dyt = dy.row(t);
    T* dxt = dx.row(t);
    const T r = rstd[t];
    T dot = 0;
#pragma omp simd reduction(+ : dot)
    for (std::int64_t j = 0; j < width; ++j) {
      const T product = dyt[j] * xt[j];
      dweight[j] += product * r;
      dot += product * weight[j];
    }
    const T factor = r * r * r * dot / static_cast<T>(width);
#pragma omp simd
    for (std::int64_t j = 0; j < width; ++j) {
      const T d = r * dyt[j] * weight[j] - factor * xt[j];
      dxt[j] = kAdd ? dxt[j] + d : d;
    }
  }
}

template <class T>
void rms_norm_backward(Stream&, Matrix<T> dx, T* dweight, Matrix<const T> dy, Matrix<const T> x, const T* rstd,
                       const T* weight, Accumulate accumulate_dx, Accumulate accumulate_dw) {
  if (accumulate_dw == Accumulate::kOverwrite) std::fill_n(dweight, x.cols, T(0));
  if (accumulate_dx == Accumulate::kAdd)
    rms_norm_backward_rows<T, true>(dx, dweight, dy, x, rstd, weight);
  else
    rms_norm_backward_rows<T, false>(dx, dweight, dy, x, rstd, weight);
}

template <class T>
void layer_norm_forward(Stream&, Matrix<T> y, T* mean, T* rstd, Matrix<const T> x, const T* weight, const T* bias,
                        double eps) {
  const std::int64_t width = x.cols;
  for (std::int64_t t = 0; t < x.rows; ++t) {
    const T* xt = x.row(t);
    T* yt = y.row(t);
    T sum = 0;
#pragma omp simd reduction(+ : sum)
    for (std::int64_t j = 0; j < width; ++j) sum += xt[j];
    const T m = sum / static_cast<T>(width);
    T squares = 0;
#pragma omp simd reduction(+ : squares)
    for (std::int64_t j = 0; j < width; ++j) squares += (xt[j] - m) * (xt[j] - m);
    const T r = T(1) / std::sqrt(squares / static_cast<T>(width) + static_cast<T>(eps));
    if (mean != nullptr) mean[t] = m;
    if (rstd != nullptr) rstd[t] = r;
#pragma omp simd
    for (std::int64_t j = 0; j < width; ++j) yt[j] = (xt[j] - m) * r * weight[j] + bias[j];
  }
}

/// With x_hat = (x - mean) * rstd and g = dy * weight: dx = rstd * (g - mean(g) - x_hat * mean(g * x_hat)).
template <class T, bool kAdd>
void layer_norm_backward_row(T* dx, T* dweight, T* dbias, const T* dy, const T* x, T mean, T rstd, const T* weight,
                             std::int64_t width) {
  T sum = 0, dot = 0;
#pragma omp simd reduction(+ : sum, dot)
  for (std::int64_t j = 0; j < width; ++j) {
    const T x_hat = (x[j] - mean) * rstd, g = dy[j] * weight[j];
    dweight[j] += dy[j] * x_hat;
    dbias[j] += dy[j];
    sum += g;
    dot += g * x_hat;
  }
  const T mean_g = sum / static_cast<T>(width), mean_dot = dot / static_cast<T>(width);
#pragma omp simd
  for (std::int64_t j = 0; j < width; ++j) {
    const T x_hat = (x[j] - mean) * rstd;
    const T d = rstd * (dy[j] * weight[j] - mean_g - x_hat * mean_dot);
    dx[j] = kAdd ? dx[j] + d : d;
  }
}

template <class T>
void layer_norm_backward(Stream&, Matrix<T> dx, T* dweight, T* dbias, Matrix<const T> dy, Matrix<const T> x,
                         const T* mean, const T* rstd, const T* weight, Accumulate accumulate_dx,
                         Accumulate accumulate_dw) {
  if (accumulate_dw == Accumulate::kOverwrite) {
    std::fill_n(dweight, x.cols, T(0));
    std::fill_n(dbias, x.cols, T(0));
  }
  const auto row =
      accumulate_dx == Accumulate::kAdd ? layer_norm_backward_row<T, true> : layer_norm_backward_row<T, false>;
  for (std::int64_t t = 0; t < x.rows; ++t)
    row(dx.row(t), dweight, dbias, dy.row(t), x.row(t), mean[t], rstd[t], weight, x.cols);
}

}  // namespace

template <class T>
void add_norm(Backend<T>& table) {
  table.rms_norm_forward = rms_norm_forward<T>;
  table.rms_norm_backward = rms_norm_backward<T>;
  table.layer_norm_forward = layer_norm_forward<T>;
  table.layer_norm_backward = layer_norm_backward<T>;
}

template void add_norm(Backend<float>& table);
template void add_norm(Backend<double>& table);

}  // namespace weft::kernels::cpu
