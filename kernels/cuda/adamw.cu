// kernels/cuda/adamw.cu - a thread per element; the formula as in kernels/cpu/adamw.cpp.
#include "kernels/cuda/backend.h"
#include "kernels/cuda/launch.cuh"

namespace weft::kernels::cuda {
namespace {

template <class T>
struct AdamWFactors {
  T beta1, beta2, rest1, rest2, rate, correction2, keep, eps;
};

__global__ void clip_factor_kernel(double* factor, const double* loss, const double* squares, double clip_norm) {
  const double norm = std::sqrt(*squares);
  if (std::isfinite(*loss) && std::isfinite(norm))
    *factor = clip_norm > 0.0 && norm > clip_norm ? clip_norm / norm : 1.0;
  else
    *factor = std::numeric_limits<double>::quiet_NaN();
}

void clip_factor(Stream& stream, double* factor, const double* loss, const double* squares, double clip_norm) {
  launch(stream, clip_factor_kernel, {1, 1, kWarp}, factor, loss, squares, clip_norm);
}

template <class T>
__global__ void adamw_kernel(T* weight, T* m, T* v, const T* grad, std::int64_t n, const double* factor,
                             AdamWFactors<T> f) {
  const std::int64_t i = global_thread();
  if (i >= n || (factor != nullptr && !std::isfinite(*factor))) return;
  const T g = factor != nullptr ? grad[i] * static_cast<T>(*factor) : grad[i];
  const T m_new = f.beta1 * m[i] + f.rest1 * g;
  const T v_new = f.beta2 * v[i] + f.rest2 * g * g;
  m[i] = m_new;
  v[i] = v_new;
  weight[i] = f.keep * weight[i] - f.rate * m_new / (std::sqrt(v_new) * f.correction2 + f.eps);
}

template <class T>
void adamw(Stream& stream, T* weight, T* m, T* v, const T* grad, std::int64_t n, const double* factor,
           const AdamWOptions& options) {
  const auto step = static_cast<double>(options.step);
  AdamWFactors<T> f;
  f.beta1 = static_cast<T>(options.beta1);
  f.beta2 = static_cast<T>(options.beta2);
  f.rest1 = static_cast<T>(1.0 - options.beta1);
  f.rest2 = static_cast<T>(1.0 - options.beta2);
  f.rate = static_cast<T>(options.lr / (1.0 - std::pow(options.beta1, step)));
  f.correction2 = static_cast<T>(1.0 / std::sqrt(1.0 - std::pow(options.beta2, step)));
  f.keep = static_cast<T>(1.0 - options.lr * options.weight_decay);
  f.eps = static_cast<T>(options.eps);
  launch(stream, adamw_kernel<T>, per_element(n), weight, m, v, grad, n, factor, f);
}

}  // namespace

template <class T>
void add_adamw(Backend<T>& table) {
  table.clip_factor = clip_factor;
  table.adamw = adamw<T>;
}

template void add_adamw(Backend<float>& table);
template void add_adamw(Backend<double>& table);

}  // namespace weft::kernels::cuda
