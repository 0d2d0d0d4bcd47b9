#include <cmath>
#include <cstring>
#include <limits>

#include "kernels/cpu/backend.h"

namespace weft::kernels::cpu {
namespace {

void clip_factor(Stream&, double* factor, const double* loss, const double* squares, double clip_norm) {
  const double norm = std::sqrt(*squares);
  if (std::isfinite(*loss) && std::isfinite(norm))
    *factor = clip_norm > 0.0 && norm > clip_norm ? clip_norm / norm : 1.0;
  else
    *factor = std::numeric_limits<double>::quiet_NaN();
}

/// Rounds once. g++ 12 takes the assignment of a class for a copy of memory, which keeps a loop from being vectorised.
void store(BF16* to, float value) {
  const std::uint16_t bits = BF16(value).bits();
  std::memcpy(static_cast<void*>(to), &bits, sizeof bits);
}

template <class S>
void adamw(Stream&, S* weight, const AdamWState<S>& state, const Wide<S>* grad, std::int64_t n, const double* clip,
           const AdamWFactors* factors) {
  using T = Wide<S>;
  constexpr bool kOwnMaster = std::is_same_v<S, T>;
  T *m = state.m, *v = state.v, *master = state.master;
  if constexpr (kOwnMaster) master = weight;
  if (clip != nullptr && !std::isfinite(*clip)) return;
  const AdamWFactors& f = *factors;
  const T beta1 = static_cast<T>(f.beta1), beta2 = static_cast<T>(f.beta2);
  const T rest1 = static_cast<T>(f.rest1), rest2 = static_cast<T>(f.rest2);
  const T rate = static_cast<T>(f.rate), correction2 = static_cast<T>(f.correction2), keep = static_cast<T>(f.keep);
  const T eps = static_cast<T>(f.eps), scale = clip != nullptr ? static_cast<T>(*clip) : T(1);
#pragma omp simd
  for (std::int64_t i = 0; i < n; ++i) {
    const T g = grad[i] * scale;
    const T m_new = beta1 * m[i] + rest1 * g;
    const T v_new = beta2 * v[i] + rest2 * g * g;
    m[i] = m_new;
    v[i] = v_new;
    master[i] = keep * master[i] - rate * m_new / (std::sqrt(v_new) * correction2 + eps);
    if constexpr (!kOwnMaster) store(weight + i, master[i]);
  }
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

}  // namespace weft::kernels::cpu
