#include "kernels/adamw.h"

#include "kernels/backend.h"
#include "kernels/check.h"

namespace weft::kernels {

void clip_factor(Stream& stream, double* factor, const double* loss, const double* squares, double clip_norm) {
  check_array("clip_factor", "factor", factor, 1);
  check_array("clip_factor", "loss", loss, 1);
  check_array("clip_factor", "squares", squares, 1);
  backend<float>(stream).clip_factor(stream, factor, loss, squares, clip_norm);
}

template <class T>
void adamw(Stream& stream, T* weight, const AdamWState<T>& state, const Wide<T>* grad, std::int64_t n,
           const double* factor, const AdamWOptions& options) {
  check_array("adamw", "weight", weight, n);
  check_array("adamw", "m", state.m, n);
  check_array("adamw", "v", state.v, n);
  if constexpr (!std::is_same_v<T, Wide<T>>) check_array("adamw", "master", state.master, n);
  check_array("adamw", "grad", grad, n);
  WEFT_CHECK(options.step >= 1, "adamw: steps count from 1, this is ", options.step);
  WEFT_CHECK(options.beta1 >= 0 && options.beta1 < 1 && options.beta2 >= 0 && options.beta2 < 1, "adamw: beta1 ",
             options.beta1, " and beta2 ", options.beta2, " must lie in [0, 1)");
  backend<T>(stream).adamw(stream, weight, state, grad, n, factor, options);
}

template decltype(adamw<float>) adamw<float>;
template decltype(adamw<double>) adamw<double>;
template decltype(adamw<BF16>) adamw<BF16>;

}  // namespace weft::kernels
