#include "kernels/cross_entropy.h"

#include "kernels/backend.h"
#include "kernels/check.h"

namespace weft::kernels {

template <class T>
void cross_entropy(Stream& stream, double* loss, Matrix<T> logits, const std::int32_t* target,
                   const double* grad_scale) {
  check_matrix("cross_entropy", "logits", logits, logits.rows, logits.cols);
  check_array("cross_entropy", "loss", loss, logits.rows);
  check_array("cross_entropy", "target", target, logits.rows);
  backend<T>(stream).cross_entropy(stream, loss, logits, target, grad_scale);
}

template decltype(cross_entropy<float>) cross_entropy<float>;
template decltype(cross_entropy<BF16>) cross_entropy<BF16>;
template decltype(cross_entropy<double>) cross_entropy<double>;

}  // namespace weft::kernels
