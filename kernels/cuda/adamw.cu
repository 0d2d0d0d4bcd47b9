// kernels/cuda/adamw.cu - a thread per element; the formula as in kernels/cpu/adamw.cpp.
#include "kernels/cuda/backend.h"
#include "kernels/cuda/launch.cuh"

namespace weft::kernels::cuda {
namespace {

template <class T>
struct AdamWFactors {
  T beta1, beta2, rest1, rest2, rate, correction2, keep, eps, scale;
};

template <class T>
__global__ void adamw_kernel(T* weight, T* m, T* v, const T* grad, std::int64_t n, AdamWFactors<T> f) {
  const std::int64_t i = global_thread();
  if (i >= n) return;
  const T g = grad[i] * f.scale;
  const T m_new = f.beta1 * m[i] + f.rest1 * g;
  const T v_new = f.beta2 * v[i] + f.rest2 * g * g;
  m[i] = m_new;
  v[i] = v_new;
  weight[i] = f.keep * weight[i] - f.rate * m_new / (std::sqrt(v_new) * f.correction2 + f.eps);
}

template <class T>
void adamw(Stream& stream, T* weight, T* m, T* v, const T* grad, std::int64_t n, const AdamWOptions& options) {
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
  f.scale = static_cast<T>(options.grad_scale);
  launch(stream, adamw_kernel<T>, per_element(n), weight, m, v, grad, n, f);
}

}  // namespace

template <class T>
void add_adamw(Backend<T>& table) {
  table.adamw = adamw<T>;
}

template void add_adamw(Backend<float>& table);
template void add_adamw(Backend<double>& table);

}  // namespace weft::kernels::cuda
