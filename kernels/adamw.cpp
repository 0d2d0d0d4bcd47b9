#include "kernels/adamw.h"

#include "kernels/backend.h"
#include "kernels/check.h"

namespace weft::kernels {

template <class T>
void adamw(Stream& stream, T* weight, T* m, T* v, const T* grad, std::int64_t n, const AdamWOptions& options) {
  check_array("adamw", "weight", weight, n);
  check_array("adamw", "m", m, n);
  check_array("adamw", "v", v, n);
  check_array("adamw", "grad", grad, n);
  WEFT_CHECK(options.step >= 1, "adamw: steps count from 1, this is ", options.step);
  WEFT_CHECK(options.beta1 >= 0 && options.beta1 < 1 && options.beta2 >= 0 && options.beta2 < 1, "adamw: beta1 ",
             options.beta1, " and beta2 ", options.beta2, " must lie in [0, 1)");
  backend<T>(stream).adamw(stream, weight, m, v, grad, n, options);
}

template decltype(adamw<float>) adamw<float>;
template decltype(adamw<double>) adamw<double>;

}  // namespace weft::kernels
