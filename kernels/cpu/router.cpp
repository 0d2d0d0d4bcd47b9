#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "kernels/cpu/backend.h"
#include "kernels/cpu/rowwise.h"

namespace weft::kernels::cpu {
namespace {

/// Insertion into a sorted list of the K best so far. Columns come in ascending order, so a newcomer must be strictly
/// better to pass, and ties go to the lower column.
template <class T>
void best_of(std::int32_t* best, std::int64_t k, const T* score, std::int64_t n) {
  const auto better = [](T a, T b) { return a > b || (std::isnan(b) && !std::isnan(a)); };
  for (std::int64_t j = 0; j < n; ++j) {
    std::int64_t place = std::min(j, k);
    if (place == k && (place == 0 || !better(score[j], score[best[place - 1]]))) continue;
    if (place == k) --place;  // the last one falls out
    for (; place > 0 && better(score[j], score[best[place - 1]]); --place) best[place] = best[place - 1];
    best[place] = static_cast<std::int32_t>(j);
  }
}

template <class T>
T sigmoid(T z) {
  return T(1) / (T(1) + std::exp(-z));
}

template <class T>
void route_top_k(Stream&, const RoutedRows<T>& out, Matrix<const T> logits, RouterWeighting weighting) {
  const std::int64_t choices = out.expert.cols;
  for (std::int64_t t = 0; t < logits.rows; ++t) {
    const T *z = logits.row(t), *p = out.probs.row(t);
    out.lse[t] = softmax_row(out.probs.row(t), z, logits.cols);
    std::int32_t* expert = out.expert.row(t);
    best_of(expert, choices, p, logits.cols);
    T *weight = out.weight.row(t), sum = 0;
    for (std::int64_t k = 0; k < choices; ++k) {
      sum += p[expert[k]];
      weight[k] = weighting == RouterWeighting::kSigmoid ? sigmoid(z[expert[k]]) : p[expert[k]];
    }
    if (weighting != RouterWeighting::kRenormalized) continue;
    const T scale = T(1) / sum;
    for (std::int64_t k = 0; k < choices; ++k) weight[k] *= scale;
  }
}

void order_rows(Stream&, std::int32_t* order, Matrix<const std::int32_t> places, std::int64_t rows_per_sequence) {
  for (std::int64_t r = 0; r < places.rows; ++r)
    for (std::int64_t t = 0; t < places.cols; ++t)
      order[t / rows_per_sequence * rows_per_sequence * places.rows + places.row(r)[t]] =
          static_cast<std::int32_t>(r * places.cols + t);
}

void router_drop(Stream&, Matrix<std::int32_t> kept, Matrix<const std::int32_t> expert, std::int64_t num_experts,
                 const RoutingGroups& groups, std::int64_t capacity) {
  std::vector<std::int64_t> used(static_cast<std::size_t>(num_experts));
  for (std::int64_t first = 0; first < expert.rows; first += groups.rows) {
    std::fill(used.begin(), used.end(), 0);
    for (std::int64_t k = 0; k < expert.cols; ++k)
      for (std::int64_t i = first; i < first + groups.rows; ++i) {
        const std::int64_t t = groups.row(i);
        const std::int32_t e = expert.row(t)[k];
        const bool fits = capacity == 0 || used[static_cast<std::size_t>(e)]++ < capacity;
        if (groups.wants(t)) kept.row(t - groups.first)[k] = fits ? e : -1;
      }
  }
}

void router_count(Stream&, Matrix<double> count, Matrix<const std::int32_t> expert) {
  const std::int64_t group_rows = expert.rows / count.rows;
  for (std::int64_t g = 0; g < count.rows; ++g) {
    std::fill_n(count.row(g), count.cols, 0.0);
    for (std::int64_t t = g * group_rows; t < (g + 1) * group_rows; ++t)
      for (std::int64_t k = 0; k < expert.cols; ++k)
        if (expert.row(t)[k] >= 0) ++count.row(g)[expert.row(t)[k]];
  }
}

template <class T>
void router_mean_probs(Stream&, Matrix<double> mean, Matrix<const T> probs, double scale) {
  const std::int64_t group_rows = probs.rows / mean.rows;
  for (std::int64_t g = 0; g < mean.rows; ++g) {
    double* out = mean.row(g);
    std::fill_n(out, mean.cols, 0.0);
    for (std::int64_t t = g * group_rows; t < (g + 1) * group_rows; ++t)
      for (std::int64_t e = 0; e < probs.cols; ++e) out[e] += static_cast<double>(probs.row(t)[e]);
    for (std::int64_t e = 0; e < probs.cols; ++e) out[e] = out[e] / static_cast<double>(group_rows) * scale;
  }
}

void router_fractions(Stream&, Matrix<double> fraction, Matrix<const double> count, double none) {
  for (std::int64_t g = 0; g < fraction.rows; ++g) {
    const double* row = count.row(count.rows == 1 ? 0 : g);
    const double total = std::accumulate(row, row + fraction.cols, 0.0);
    for (std::int64_t e = 0; e < fraction.cols; ++e) fraction.row(g)[e] = total > 0.0 ? row[e] / total : none;
  }
}

template <class T>
void router_backward(Stream&, Matrix<T> dprobs, const RouterGradient<T>& in) {
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
  for (std::int64_t t = 0; t < weight.rows; ++t)
    for (std::int64_t k = 0; k < weight.cols; ++k) weight.row(t)[k] = sigmoid(logits.row(t)[expert.row(t)[k]]);
}

template <class T>
void router_sigmoid_backward(Stream&, Matrix<T> dlogits, Matrix<const T> weight, Matrix<const T> d_weight,
                             Matrix<const std::int32_t> expert) {
  for (std::int64_t t = 0; t < weight.rows; ++t)
    for (std::int64_t k = 0; k < weight.cols; ++k) {
      const T w = weight.row(t)[k];
      dlogits.row(t)[expert.row(t)[k]] += d_weight.row(t)[k] * w * (T(1) - w);
    }
}

template <class T>
void router_draw(Stream&, Matrix<T> noise, const PhiloxKey* key, const NoiseRows& rows) {
  const Rng rng(*key);
  for (std::int64_t t = 0; t < noise.rows; ++t) {
    const std::int64_t row = rows.first_row + t, sequence = row / rows.rows_per_sequence;
    const auto sample = static_cast<std::uint64_t>(rows.samples != nullptr ? rows.samples[sequence] : sequence);
    const std::int64_t place = rows.places != nullptr ? rows.places[row] : row % rows.rows_per_sequence;
    for (std::int64_t e = 0; e < noise.cols; ++e)
      noise.row(t)[e] = static_cast<T>(rng.normal(sample, static_cast<std::uint64_t>(place * noise.cols + e)));
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
void router_temperature(Stream&, T* z, const T* x, std::int64_t n, const T* theta, double factor) {
  const T scale = static_cast<T>(factor) * std::exp(-*theta);
  for (std::int64_t i = 0; i < n; ++i) z[i] = scale * x[i];
}

}  // namespace

template <class T>
void add_router(Backend<T>& table) {
  table.route_top_k = route_top_k<T>;
  table.order_rows = order_rows;
  table.router_drop = router_drop;
  table.router_count = router_count;
  table.router_mean_probs = router_mean_probs<T>;
  table.router_fractions = router_fractions;
  table.router_backward = router_backward<T>;
  table.router_sigmoid = router_sigmoid<T>;
  table.router_sigmoid_backward = router_sigmoid_backward<T>;
  table.router_draw = router_draw<T>;
  table.router_noise = router_noise<T>;
  table.normalize_rows = normalize_rows<T>;
  table.normalize_rows_backward = normalize_rows_backward<T>;
  table.multiply = multiply<T>;
  table.router_temperature = router_temperature<T>;
  table.router_z_backward = router_z_backward<T>;
}

template void add_router(Backend<float>& table);
template void add_router(Backend<double>& table);

}  // namespace weft::kernels::cpu
