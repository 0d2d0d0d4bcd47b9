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

template <class S>
__global__ void adamw_kernel(S* weight, AdamWState<S> state, const Wide<S>* grad, std::int64_t n, const double* factor,
                             AdamWFactors<Wide<S>> f) {
  using T = Wide<S>;
  constexpr bool kOwnMaster = std::is_same_v<S, T>;
  const std::int64_t i = global_thread();
  if (i >= n || (factor != nullptr && !std::isfinite(*factor))) return;
  const T g = factor != nullptr ? grad[i] * static_cast<T>(*factor) : grad[i];
  const T m_new = f.beta1 * state.m[i] + f.rest1 * g;
  const T v_new = f.beta2 * state.v[i] + f.rest2 * g * g;
  state.m[i] = m_new;
  state.v[i] = v_new;
  const T before = kOwnMaster ? static_cast<T>(weight[i]) : state.master[i];
  const T after = f.keep * before - f.rate * m_new / (std::sqrt(v_new) * f.correction2 + f.eps);
  if (!kOwnMaster) state.master[i] = after;
  weight[i] = after;
}

template <class S>
void adamw(Stream& stream, S* weight, const AdamWState<S>& state, const Wide<S>* grad, std::int64_t n,
           const double* factor, const AdamWOptions& options) {
  using T = Wide<S>;
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
  launch(stream, adamw_kernel<S>, per_element(n), weight, state, grad, n, factor, f);
}

}  // namespace

template <class T>
void add_clip_factor(Backend<T>& table) {
  table.clip_factor = clip_factor;
}
template <class T>
void add_adamw(RowKernels<T>& table) {
  table.adamw = adamw<T>;
}

template void add_clip_factor(Backend<float>& table);
template void add_clip_factor(Backend<double>& table);
template void add_adamw(RowKernels<float>& table);
template void add_adamw(RowKernels<double>& table);
template void add_adamw(RowKernels<BF16>& table);

}  // namespace weft::kernels::cuda
