#include "kernels/adamw.h"

#include <cmath>

#include "kernels/backend.h"
#include "kernels/check.h"

namespace weft::kernels {

void clip_factor(Stream& stream, double* factor, const double* loss, const double* squares, double clip_norm) {
  check_array("clip_factor", "factor", factor, 1);
  check_array("clip_factor", "loss", loss, 1);
  check_array("clip_factor", "squares", squares, 1);
  backend<float>(stream).clip_factor(stream, factor, loss, squares, clip_norm);
}

AdamWFactors adamw_factors(const AdamWOptions& o) {
  WEFT_CHECK(o.step >= 1, "adamw: steps count from 1, this is ", o.step);
  WEFT_CHECK(o.beta1 >= 0 && o.beta1 < 1 && o.beta2 >= 0 && o.beta2 < 1, "adamw: beta1 ", o.beta1, " and beta2 ",
             o.beta2, " must lie in [0, 1)");
  const auto step = static_cast<double>(o.step);
  AdamWFactors f{};
  f.beta1 = o.beta1;
  f.rest1 = 1.0 - o.beta1;
  f.beta2 = o.beta2;
  f.rest2 = 1.0 - o.beta2;
  f.rate = o.lr / (1.0 - std::pow(o.beta1, step));
  f.correction2 = 1.0 / std::sqrt(1.0 - std::pow(o.beta2, step));
  f.keep = 1.0 - o.lr * o.weight_decay;
  f.eps = o.eps;
  return f;
}

template <class T>
void adamw(Stream& stream, T* weight, const AdamWState<T>& state, const Wide<T>* grad, std::int64_t n,
           const double* clip, const AdamWFactors* factors) {
  check_array("adamw", "weight", weight, n);
  check_array("adamw", "m", state.m, n);
  check_array("adamw", "v", state.v, n);
  if constexpr (!std::is_same_v<T, Wide<T>>) check_array("adamw", "master", state.master, n);
  check_array("adamw", "grad", grad, n);
  check_array("adamw", "factors", factors, 1);
  backend<T>(stream).adamw(stream, weight, state, grad, n, clip, factors);
}

template decltype(adamw<float>) adamw<float>;
template decltype(adamw<double>) adamw<double>;
template decltype(adamw<BF16>) adamw<BF16>;

}  // namespace weft::kernels
