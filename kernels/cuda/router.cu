// kernels/cuda/router.cu - a warp per row routes; else a thread per row or entry, a block per expert: choices are few,
// and sums over rows keep their order.
#include "kernels/cuda/backend.h"
#include "kernels/cuda/counting.cuh"

namespace weft::kernels::cuda {
namespace {

/// A column and its score, or none: behind every column there is.
template <class T>
struct Candidate {
  T score = std::numeric_limits<T>::quiet_NaN();
  std::int32_t column = std::numeric_limits<std::int32_t>::max();
};

/// Larger scores first, NaN last, ties to the lower column: a total order.
template <class T>
__device__ bool precedes(const Candidate<T>& a, const Candidate<T>& b) {
  const bool nan_a = a.score != a.score, nan_b = b.score != b.score;
  if (a.score > b.score || (nan_b && !nan_a)) return true;
  if (b.score > a.score || (nan_a && !nan_b)) return false;
  return a.column < b.column;
}

/// The first candidate of a row behind `last`, in every lane. A lane looks at the columns that are its own.
template <class T>
__device__ Candidate<T> next_best(const T* row, std::int64_t cols, bool first, const Candidate<T>& last) {
  Candidate<T> best;
  for (std::int64_t j = lane_id(); j < cols; j += kWarp) {
    const Candidate<T> here{row[j], static_cast<std::int32_t>(j)};
    if ((first || precedes(last, here)) && precedes(here, best)) best = here;
  }
  for (int step = kWarp / 2; step > 0; step /= 2) {
    const Candidate<T> other{__shfl_xor_sync(kAllLanes, best.score, step),
                             __shfl_xor_sync(kAllLanes, best.column, step)};
    if (precedes(other, best)) best = other;
  }
  return best;
}

template <class T>
__device__ T sigmoid(T z) {
  return T(1) / (T(1) + std::exp(-z));
}

/// A warp per row. `staged`: the row's probabilities stay in shared memory while the choices are made. A lane reads
/// again only what it wrote itself, there and in the results, so that nothing waits for another lane.
template <class T>
__global__ void route_top_k_kernel(RoutedRows<T> out, Matrix<const T> logits, RouterWeighting weighting, bool staged) {
  const std::int64_t t = static_cast<std::int64_t>(blockIdx.x) * (blockDim.x / kWarp) + warp_id();
  if (t >= logits.rows) return;
  const std::int64_t cols = logits.cols, choices = out.expert.cols;
  const T* z = logits.row(t);
  T* probs = out.probs.row(t);
  T* row = staged ? dynamic_shared<T>() + warp_id() * cols : probs;
  T max = -std::numeric_limits<T>::infinity(), sum = 0;
  for (std::int64_t j = lane_id(); j < cols; j += kWarp) {
    row[j] = z[j];
    max = row[j] > max ? row[j] : max;
  }
  const T shift = finite_or_zero(warp_max(max));
  for (std::int64_t j = lane_id(); j < cols; j += kWarp) sum += row[j] = std::exp(row[j] - shift);
  sum = warp_sum(sum);
  if (lane_id() == 0) out.lse[t] = shift + std::log(sum);
  const T inverse = T(1) / sum;
  for (std::int64_t j = lane_id(); j < cols; j += kWarp) probs[j] = row[j] *= inverse;

  T* weight = out.weight.row(t);
  std::int32_t* expert = out.expert.row(t);
  Candidate<T> best;
  T chosen = 0;
  for (std::int64_t k = 0; k < choices; ++k) {
    best = next_best(row, cols, k == 0, best);
    chosen += best.score;
    if (lane_id() != k % kWarp) continue;
    expert[k] = best.column;
    weight[k] = weighting == RouterWeighting::kSigmoid ? sigmoid(z[best.column]) : best.score;
  }
  if (weighting != RouterWeighting::kRenormalized) return;
  const T scale = T(1) / chosen;
  for (std::int64_t k = lane_id(); k < choices; k += kWarp) weight[k] *= scale;
}

__global__ void order_rows_kernel(std::int32_t* order, Matrix<const std::int32_t> places,
                                  std::int64_t rows_per_sequence) {
  const std::int64_t i = global_thread();
  if (i >= places.rows * places.cols) return;
  const std::int64_t r = i / places.cols, t = i % places.cols, sequence = t / rows_per_sequence;
  order[sequence * rows_per_sequence * places.rows + places.row(r)[t]] = static_cast<std::int32_t>(i);
}

__global__ void router_drop_kernel(Matrix<std::int32_t> kept, ChoiceLists choices, NumbersView numbers,
                                   std::int64_t capacity) {
  const std::int64_t at = global_thread(), group = at / numbers.entries, i = at % numbers.entries;
  if (at >= choices.expert.rows * choices.expert.cols) return;
  const std::int64_t t = choices.row(group, i), k = i / choices.groups.rows;
  if (!choices.groups.wants(t)) return;
  const std::int32_t e = choices.expert.row(t)[k];
  kept.row(t - choices.groups.first)[k] = numbers.in_list(group, i, e) < capacity ? e : -1;
}

struct AddToRow {
  Matrix<double> count;
  __device__ void operator()(std::int64_t group, std::int64_t e, std::int32_t n) const {
    atomicAdd(count.row(group) + e, static_cast<double>(n));
  }
};

/// A block per expert and group.
template <class T>
__global__ void router_mean_probs_kernel(Matrix<double> mean, Matrix<const T> probs, std::int64_t group_rows,
                                         double scale) {
  const std::int64_t e = blockIdx.x, first = blockIdx.y * group_rows;
  double sum = 0.0;
  for (std::int64_t t = first + threadIdx.x; t < first + group_rows; t += blockDim.x)
    sum += static_cast<double>(probs.row(t)[e]);
  sum = block_sum(sum);
  if (threadIdx.x == 0) mean.row(blockIdx.y)[e] = sum / static_cast<double>(group_rows) * scale;
}

__global__ void router_fractions_kernel(Matrix<double> fraction, Matrix<const double> count, double none) {
  const double* row = count.row(count.rows == 1 ? 0 : blockIdx.x);
  double total = 0.0;
  for (std::int64_t e = threadIdx.x; e < fraction.cols; e += blockDim.x) total += row[e];
  total = block_sum(total);
  for (std::int64_t e = threadIdx.x; e < fraction.cols; e += blockDim.x)
    fraction.row(blockIdx.x)[e] = total > 0.0 ? row[e] / total : none;
}

/// A block per row; its first thread adds the few choices.
template <class T>
__global__ void router_backward_kernel(Matrix<T> dprobs, RouterGradient<T> in, std::int64_t group_rows) {
  const std::int64_t t = blockIdx.x;
  T* out = dprobs.row(t);
  for (std::int64_t e = threadIdx.x; e < dprobs.cols; e += blockDim.x)
    out[e] = in.fraction.data == nullptr ? T(0) : static_cast<T>(in.scale * in.fraction.row(t / group_rows)[e]);
  __syncthreads();
  if (threadIdx.x != 0) return;
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

template <class T>
__global__ void router_sigmoid_kernel(Matrix<T> weight, Matrix<const T> logits, Matrix<const std::int32_t> expert) {
  const std::int64_t i = global_thread();
  if (i >= weight.rows * weight.cols) return;
  const std::int64_t t = i / weight.cols, k = i % weight.cols;
  weight.row(t)[k] = sigmoid(logits.row(t)[expert.row(t)[k]]);
}

/// A thread per row: two of its choices may name one expert.
template <class T>
__global__ void router_sigmoid_backward_kernel(Matrix<T> dlogits, Matrix<const T> weight, Matrix<const T> d_weight,
                                               Matrix<const std::int32_t> expert) {
  const std::int64_t t = global_thread();
  if (t >= weight.rows) return;
  for (std::int64_t k = 0; k < weight.cols; ++k) {
    const T w = weight.row(t)[k];
    dlogits.row(t)[expert.row(t)[k]] += d_weight.row(t)[k] * w * (T(1) - w);
  }
}

constexpr double kTwoPi = 6.28318530717958647693;

template <class T>
__global__ void router_draw_kernel(Matrix<T> noise, const PhiloxKey* key, NoiseRows rows) {
  const std::int64_t i = global_thread();
  if (i >= noise.rows * noise.cols) return;
  const std::int64_t t = i / noise.cols, e = i % noise.cols, row = rows.first_row + t;
  const std::int64_t sequence = row / rows.rows_per_sequence;
  const std::int64_t sample = rows.samples != nullptr ? rows.samples[sequence] : sequence;
  const std::int64_t place = rows.places != nullptr ? rows.places[row] : row % rows.rows_per_sequence;
  const PhiloxBits b =
      philox(*key, static_cast<std::uint64_t>(sample), static_cast<std::uint64_t>(place * noise.cols + e));
  noise.row(t)[e] = static_cast<T>(std::sqrt(-2.0 * std::log(unit_interval(b.word[0], b.word[1]))) *
                                   std::cos(kTwoPi * unit_interval(b.word[2], b.word[3])));  // as Rng::normal
}

template <class T>
__global__ void router_noise_kernel(Matrix<T> logits, Matrix<T> noise, Matrix<const T> raw) {
  const std::int64_t i = global_thread();
  if (i >= logits.rows * logits.cols) return;
  const std::int64_t t = i / logits.cols, e = i % logits.cols;
  const T r = raw.row(t)[e], n = noise.row(t)[e];
  logits.row(t)[e] += n * ((r > T(0) ? r : T(0)) + std::log1p(std::exp(-std::abs(r))));
  noise.row(t)[e] = n / (T(1) + std::exp(-r));
}

template <class T>
__global__ void normalize_rows_kernel(Matrix<T> y, T* n, Matrix<const T> x) {
  const std::int64_t t = blockIdx.x;
  T squares = 0;
  for (std::int64_t j = threadIdx.x; j < x.cols; j += blockDim.x) squares += x.row(t)[j] * x.row(t)[j];
  const T root = std::sqrt(block_sum(squares)), norm = root > T(1e-12) ? root : T(1e-12);
  if (threadIdx.x == 0) n[t] = norm;
  for (std::int64_t j = threadIdx.x; j < x.cols; j += blockDim.x) y.row(t)[j] = x.row(t)[j] / norm;
}

template <class T>
__global__ void normalize_rows_backward_kernel(Matrix<T> dx, Matrix<const T> dy, Matrix<const T> y, const T* n) {
  const std::int64_t t = blockIdx.x;
  T dot = 0;
  for (std::int64_t j = threadIdx.x; j < y.cols; j += blockDim.x) dot += dy.row(t)[j] * y.row(t)[j];
  dot = block_sum(dot);
  for (std::int64_t j = threadIdx.x; j < y.cols; j += blockDim.x)
    dx.row(t)[j] = (dy.row(t)[j] - dot * y.row(t)[j]) / n[t];
}

template <class T>
__global__ void multiply_kernel(T* z, const T* x, const T* y, std::int64_t n) {
  if (const std::int64_t i = global_thread(); i < n) z[i] = x[i] * y[i];
}

template <class T>
__global__ void router_temperature_kernel(T* z, const T* x, std::int64_t n, const T* theta, T factor) {
  if (const std::int64_t i = global_thread(); i < n) z[i] = factor * std::exp(-*theta) * x[i];
}

template <class T>
__global__ void router_z_backward_kernel(Matrix<T> dlogits, Matrix<const T> probs, const T* lse, T scale) {
  const std::int64_t i = global_thread();
  if (i >= dlogits.rows * dlogits.cols) return;
  const std::int64_t t = i / dlogits.cols, e = i % dlogits.cols;
  dlogits.row(t)[e] += scale * lse[t] * probs.row(t)[e];
}

/// A block per column of a table with one row a group.
Shape per_column(std::int64_t cols, std::int64_t groups) { return {cols, groups}; }

constexpr std::int64_t kSharedBytes = 48 << 10;  ///< What every GPU gives a block unasked.

template <class T>
void route_top_k(Stream& stream, const RoutedRows<T>& out, Matrix<const T> logits, RouterWeighting weighting) {
  const auto row_bytes = logits.cols * static_cast<std::int64_t>(sizeof(T));
  const bool staged = row_bytes <= kSharedBytes;
  std::int64_t warps = kThreads / kWarp;
  if (staged && row_bytes > 0) warps = std::min(warps, kSharedBytes / row_bytes);
  Shape shape{ceil_div(logits.rows, warps), 1, static_cast<int>(warps * kWarp)};
  if (staged) shape.shared_bytes = static_cast<std::size_t>(warps * row_bytes);
  launch(stream, route_top_k_kernel<T>, shape, out, logits, weighting, staged);
}
void order_rows(Stream& stream, std::int32_t* order, Matrix<const std::int32_t> places,
                std::int64_t rows_per_sequence) {
  launch(stream, order_rows_kernel, per_element(places.rows * places.cols), order, places, rows_per_sequence);
}
void router_drop(Stream& stream, Matrix<std::int32_t> kept, Matrix<const std::int32_t> expert, std::int64_t num_experts,
                 const RoutingGroups& groups, std::int64_t capacity) {
  if (kept.rows == 0 || kept.cols == 0) return;
  if (capacity == 0) {
    constexpr std::size_t kBytes = sizeof(std::int32_t);
    WEFT_CUDA_CHECK(cudaMemcpy2DAsync(kept.data, static_cast<std::size_t>(kept.stride) * kBytes,
                                      expert.row(groups.first), static_cast<std::size_t>(expert.stride) * kBytes,
                                      static_cast<std::size_t>(kept.cols) * kBytes, static_cast<std::size_t>(kept.rows),
                                      cudaMemcpyDefault, native(stream)));
    return;
  }
  const ChoiceLists choices{expert, groups};
  const Numbers numbers(stream, choices, expert.rows / groups.rows, groups.rows * expert.cols, num_experts);
  launch(stream, router_drop_kernel, per_element(expert.rows * expert.cols), kept, choices, numbers.view(), capacity);
}
void router_count(Stream& stream, Matrix<double> count, Matrix<const std::int32_t> expert) {
  if (count.cols == 0) return;
  WEFT_CUDA_CHECK(cudaMemset2DAsync(count.data, static_cast<std::size_t>(count.stride) * sizeof(double), 0,
                                    static_cast<std::size_t>(count.cols) * sizeof(double),
                                    static_cast<std::size_t>(count.rows), native(stream)));
  const std::int64_t group_rows = expert.rows / count.rows;
  count_entries(stream, RowLists{expert, group_rows}, count.rows, group_rows * expert.cols, count.cols,
                AddToRow{count});
}
template <class T>
void router_mean_probs(Stream& stream, Matrix<double> mean, Matrix<const T> probs, double scale) {
  launch(stream, router_mean_probs_kernel<T>, per_column(mean.cols, mean.rows), mean, probs, probs.rows / mean.rows,
         scale);
}
void router_fractions(Stream& stream, Matrix<double> fraction, Matrix<const double> count, double none) {
  launch(stream, router_fractions_kernel, per_row(fraction.rows, fraction.cols), fraction, count, none);
}
template <class T>
void router_backward(Stream& stream, Matrix<T> dprobs, const RouterGradient<T>& in) {
  const std::int64_t groups = in.fraction.data == nullptr ? 1 : in.fraction.rows;
  launch(stream, router_backward_kernel<T>, per_row(dprobs.rows, dprobs.cols), dprobs, in, dprobs.rows / groups);
}
template <class T>
void router_sigmoid(Stream& stream, Matrix<T> weight, Matrix<const T> logits, Matrix<const std::int32_t> expert) {
  launch(stream, router_sigmoid_kernel<T>, per_element(weight.rows * weight.cols), weight, logits, expert);
}
template <class T>
void router_sigmoid_backward(Stream& stream, Matrix<T> dlogits, Matrix<const T> weight, Matrix<const T> d_weight,
                             Matrix<const std::int32_t> expert) {
  launch(stream, router_sigmoid_backward_kernel<T>, per_element(weight.rows), dlogits, weight, d_weight, expert);
}
template <class T>
void router_draw(Stream& stream, Matrix<T> noise, const PhiloxKey* key, const NoiseRows& rows) {
  launch(stream, router_draw_kernel<T>, per_element(noise.rows * noise.cols), noise, key, rows);
}
template <class T>
void router_noise(Stream& stream, Matrix<T> logits, Matrix<T> noise, Matrix<const T> raw) {
  launch(stream, router_noise_kernel<T>, per_element(logits.rows * logits.cols), logits, noise, raw);
}
template <class T>
void normalize_rows(Stream& stream, Matrix<T> y, T* n, Matrix<const T> x) {
  launch(stream, normalize_rows_kernel<T>, per_row(x.rows, x.cols), y, n, x);
}
template <class T>
void normalize_rows_backward(Stream& stream, Matrix<T> dx, Matrix<const T> dy, Matrix<const T> y, const T* n) {
  launch(stream, normalize_rows_backward_kernel<T>, per_row(y.rows, y.cols), dx, dy, y, n);
}
template <class T>
void multiply(Stream& stream, T* z, const T* x, const T* y, std::int64_t n) {
  launch(stream, multiply_kernel<T>, per_element(n), z, x, y, n);
}
template <class T>
void router_temperature(Stream& stream, T* z, const T* x, std::int64_t n, const T* theta, double factor) {
  launch(stream, router_temperature_kernel<T>, per_element(n), z, x, n, theta, static_cast<T>(factor));
}
template <class T>
void router_z_backward(Stream& stream, Matrix<T> dlogits, Matrix<const T> probs, const T* lse, double scale) {
  launch(stream, router_z_backward_kernel<T>, per_element(dlogits.rows * dlogits.cols), dlogits, probs, lse,
         static_cast<T>(scale));
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

}  // namespace weft::kernels::cuda
