#include "kernels/router.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/error.h"

namespace weft::kernels {
namespace {

template <class T>
void check_choices(Matrix<T> a, Matrix<const std::int32_t> expert, const char* what) {
  WEFT_CHECK(a.rows == expert.rows && a.cols == expert.cols, what, " is [", a.rows, ", ", a.cols, "], but expert is [",
             expert.rows, ", ", expert.cols, "]");
}

}  // namespace

template <class T>
void router_weights(Stream&, Matrix<T> weight, Matrix<const T> probs, Matrix<const std::int32_t> expert,
                    bool renormalize) {
  check_choices(weight, expert, "weight");
  for (std::int64_t t = 0; t < weight.rows; ++t) {
    T sum = 0;
    for (std::int64_t k = 0; k < weight.cols; ++k) sum += weight.row(t)[k] = probs.row(t)[expert.row(t)[k]];
    if (!renormalize) continue;
    const T scale = T(1) / sum;
    for (std::int64_t k = 0; k < weight.cols; ++k) weight.row(t)[k] *= scale;
  }
}

void router_drop(Stream&, Matrix<std::int32_t> kept, Matrix<const std::int32_t> expert, std::int64_t num_experts,
                 std::int64_t group_rows, std::int64_t capacity) {
  check_choices(kept, expert, "kept");
  WEFT_CHECK(group_rows > 0 && expert.rows % group_rows == 0, expert.rows, " rows are no multiple of the group's ",
             group_rows);
  std::vector<std::int64_t> used(static_cast<std::size_t>(num_experts));
  for (std::int64_t first = 0; first < expert.rows; first += group_rows) {
    std::fill(used.begin(), used.end(), 0);
    for (std::int64_t k = 0; k < expert.cols; ++k)
      for (std::int64_t t = first; t < first + group_rows; ++t) {
        const std::int32_t e = expert.row(t)[k];
        kept.row(t)[k] = capacity == 0 || used[static_cast<std::size_t>(e)]++ < capacity ? e : -1;
      }
  }
}

void router_count(Stream&, Matrix<std::int64_t> count, Matrix<const std::int32_t> expert) {
  WEFT_CHECK(count.rows > 0 && expert.rows % count.rows == 0, expert.rows, " rows in ", count.rows, " groups");
  const std::int64_t group_rows = expert.rows / count.rows;
  for (std::int64_t g = 0; g < count.rows; ++g) {
    std::fill_n(count.row(g), count.cols, 0);
    for (std::int64_t t = g * group_rows; t < (g + 1) * group_rows; ++t)
      for (std::int64_t k = 0; k < expert.cols; ++k)
        if (expert.row(t)[k] >= 0) ++count.row(g)[expert.row(t)[k]];
  }
}

template <class T>
void router_mean_probs(Stream&, Matrix<double> mean, Matrix<const T> probs) {
  WEFT_CHECK(mean.rows > 0 && probs.rows % mean.rows == 0, probs.rows, " rows in ", mean.rows, " groups");
  const std::int64_t group_rows = probs.rows / mean.rows;
  for (std::int64_t g = 0; g < mean.rows; ++g) {
    double* out = mean.row(g);
    std::fill_n(out, mean.cols, 0.0);
    for (std::int64_t t = g * group_rows; t < (g + 1) * group_rows; ++t)
      for (std::int64_t e = 0; e < probs.cols; ++e) out[e] += static_cast<double>(probs.row(t)[e]);
    for (std::int64_t e = 0; e < probs.cols; ++e) out[e] /= static_cast<double>(group_rows);
  }
}

template <class T>
void router_backward(Stream&, Matrix<T> dprobs, const RouterGradient<T>& in) {
  check_choices(in.d_weight, in.expert, "d_weight");
  check_choices(in.weight, in.expert, "weight");
  const std::int64_t group_rows =
      in.fraction.data == nullptr ? 1 : dprobs.rows / std::max<std::int64_t>(1, in.fraction.rows);
  for (std::int64_t t = 0; t < dprobs.rows; ++t) {
    T* out = dprobs.row(t);
    if (in.fraction.data == nullptr) {
      std::fill_n(out, dprobs.cols, T(0));
    } else {
      const double* fraction = in.fraction.row(t / group_rows);
      for (std::int64_t e = 0; e < dprobs.cols; ++e) out[e] = static_cast<T>(in.scale * fraction[e]);
    }
    T sum = 0, dot = 0;
    for (std::int64_t k = 0; k < in.expert.cols; ++k) {
      sum += in.probs.row(t)[in.expert.row(t)[k]];
      dot += in.d_weight.row(t)[k] * in.weight.row(t)[k];
    }
    for (std::int64_t k = 0; k < in.expert.cols; ++k) {
      const T dw = in.d_weight.row(t)[k];
      out[in.expert.row(t)[k]] += in.renormalize ? (dw - dot) / sum : dw;
    }
  }
}

template <class T>
void router_z_backward(Stream&, Matrix<T> dlogits, Matrix<const T> probs, const T* lse, double scale) {
  for (std::int64_t t = 0; t < dlogits.rows; ++t) {
    const T factor = static_cast<T>(scale) * lse[t];
    for (std::int64_t e = 0; e < dlogits.cols; ++e) dlogits.row(t)[e] += factor * probs.row(t)[e];
  }
}

template <class T>
void router_sigmoid(Stream&, Matrix<T> weight, Matrix<const T> logits, Matrix<const std::int32_t> expert) {
  check_choices(weight, expert, "weight");
  for (std::int64_t t = 0; t < weight.rows; ++t)
    for (std::int64_t k = 0; k < weight.cols; ++k)
      weight.row(t)[k] = T(1) / (T(1) + std::exp(-logits.row(t)[expert.row(t)[k]]));
}

template <class T>
void router_sigmoid_backward(Stream&, Matrix<T> dlogits, Matrix<const T> weight, Matrix<const T> d_weight,
                             Matrix<const std::int32_t> expert) {
  check_choices(weight, expert, "weight");
  check_choices(d_weight, expert, "d_weight");
  for (std::int64_t t = 0; t < weight.rows; ++t)
    for (std::int64_t k = 0; k < weight.cols; ++k) {
      const T w = weight.row(t)[k];
      dlogits.row(t)[expert.row(t)[k]] += d_weight.row(t)[k] * w * (T(1) - w);
    }
}

template <class T>
void router_noise(Stream&, Matrix<T> logits, Matrix<T> noise, Matrix<const T> raw) {
  for (std::int64_t t = 0; t < logits.rows; ++t)
    for (std::int64_t e = 0; e < logits.cols; ++e) {
      const T r = raw.row(t)[e], n = noise.row(t)[e];
      logits.row(t)[e] += n * (std::max(r, T(0)) + std::log1p(std::exp(-std::abs(r))));  // softplus, no overflow
      noise.row(t)[e] = n / (T(1) + std::exp(-r));
    }
}

template <class T>
void normalize_rows(Stream&, Matrix<T> y, T* n, Matrix<const T> x) {
  for (std::int64_t t = 0; t < x.rows; ++t) {
    T squares = 0;
    for (std::int64_t j = 0; j < x.cols; ++j) squares += x.row(t)[j] * x.row(t)[j];
    n[t] = std::max(std::sqrt(squares), T(1e-12));
    for (std::int64_t j = 0; j < x.cols; ++j) y.row(t)[j] = x.row(t)[j] / n[t];
  }
}

template <class T>
void normalize_rows_backward(Stream&, Matrix<T> dx, Matrix<const T> dy, Matrix<const T> y, const T* n) {
  for (std::int64_t t = 0; t < y.rows; ++t) {
    T dot = 0;
    for (std::int64_t j = 0; j < y.cols; ++j) dot += dy.row(t)[j] * y.row(t)[j];
    for (std::int64_t j = 0; j < y.cols; ++j) dx.row(t)[j] = (dy.row(t)[j] - dot * y.row(t)[j]) / n[t];
  }
}

template <class T>
void multiply(Stream&, T* z, const T* x, const T* y, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) z[i] = x[i] * y[i];
}

template <class T>
T inner_product(Stream&, const T* x, const T* y, std::int64_t n) {
  T sum = 0;
  for (std::int64_t i = 0; i < n; ++i) sum += x[i] * y[i];
  return sum;
}

#define WEFT_INSTANTIATE(T)                                                                            \
  template void router_weights(Stream&, Matrix<T>, Matrix<const T>, Matrix<const std::int32_t>, bool); \
  template void router_mean_probs(Stream&, Matrix<double>, Matrix<const T>);                           \
  template void router_backward(Stream&, Matrix<T>, const RouterGradient<T>&);                         \
  template decltype(router_sigmoid<T>) router_sigmoid<T>;                                              \
  template decltype(router_sigmoid_backward<T>) router_sigmoid_backward<T>;                            \
  template decltype(router_noise<T>) router_noise<T>;                                                  \
  template decltype(normalize_rows<T>) normalize_rows<T>;                                              \
  template decltype(normalize_rows_backward<T>) normalize_rows_backward<T>;                            \
  template decltype(multiply<T>) multiply<T>;                                                          \
  template decltype(inner_product<T>) inner_product<T>;                                                \
  template void router_z_backward(Stream&, Matrix<T>, Matrix<const T>, const T*, double);
WEFT_INSTANTIATE(float)
WEFT_INSTANTIATE(double)
#undef WEFT_INSTANTIATE

}  // namespace weft::kernels
