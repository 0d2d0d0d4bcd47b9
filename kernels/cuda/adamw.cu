// kernels/cuda/adamw.cu - a thread per element; the formula as in kernels/cpu/adamw.cpp.
#include "kernels/cuda/backend.h"
#include "kernels/cuda/launch.cuh"

namespace weft::kernels::cuda {
namespace {

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
__global__ void adamw_kernel(S* weight, AdamWState<S> state, const Wide<S>* grad, std::int64_t n, const double* clip,
                             const AdamWFactors* factors) {
  using T = Wide<S>;
  constexpr bool kOwnMaster = std::is_same_v<S, T>;
  const std::int64_t i = global_thread();
  if (i >= n || (clip != nullptr && !std::isfinite(*clip))) return;
  const AdamWFactors& f = *factors;
  const T g = clip != nullptr ? grad[i] * static_cast<T>(*clip) : grad[i];
  const T m_new = static_cast<T>(f.beta1) * state.m[i] + static_cast<T>(f.rest1) * g;
  const T v_new = static_cast<T>(f.beta2) * state.v[i] + static_cast<T>(f.rest2) * g * g;
  state.m[i] = m_new;
  state.v[i] = v_new;
  const T before = kOwnMaster ? static_cast<T>(weight[i]) : state.master[i];
  const T after =
      static_cast<T>(f.keep) * before -
      static_cast<T>(f.rate) * m_new / (std::sqrt(v_new) * static_cast<T>(f.correction2) + static_cast<T>(f.eps));
  if (!kOwnMaster) state.master[i] = after;
  weight[i] = after;
}

template <class S>
void adamw(Stream& stream, S* weight, const AdamWState<S>& state, const Wide<S>* grad, std::int64_t n,
           const double* clip, const AdamWFactors* factors) {
  launch(stream, adamw_kernel<S>, per_element(n), weight, state, grad, n, clip, factors);
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
