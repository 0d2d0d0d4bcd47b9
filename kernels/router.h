// kernels/router.h - what a top-k router does around its softmax: weights, capacity, balance statistics, and their
// backward. Letters: T rows, E experts, K choices per row, G routing groups of T / G consecutive rows each.
#pragma once

#include <cstdint>

#include "core/matrix.h"
#include "core/stream.h"

namespace weft::kernels {

/// weight[t, k] = probs[t, expert[t, k]], divided by the row's sum over k when `renormalize`. weight, expert: [T, K].
template <class T>
void router_weights(Stream& stream, Matrix<T> weight, Matrix<const T> probs, Matrix<const std::int32_t> expert,
                    bool renormalize);

/// Capacity: within each group of `group_rows` rows an expert keeps its first `capacity` choices, in the order of
/// (choice k, row); the others become -1 in `kept`. capacity = 0 keeps all. kept, expert: [T, K]. Source: GShard,
/// arXiv:2006.16668, algorithm 1 (first choices of all tokens come before second choices).
void router_drop(Stream& stream, Matrix<std::int32_t> kept, Matrix<const std::int32_t> expert, std::int64_t num_experts,
                 std::int64_t group_rows, std::int64_t capacity);

/// count[g, e] = choices of expert e in group g. count: [G, E].
void router_count(Stream& stream, Matrix<std::int64_t> count, Matrix<const std::int32_t> expert);

/// mean[g, e] = mean over the rows of group g of probs[t, e]. mean: [G, E] f64; probs: [T, E].
template <class T>
void router_mean_probs(Stream& stream, Matrix<double> mean, Matrix<const T> probs);

/// dprobs[t, e] = fraction[g(t), e] * scale + the gradient of the weights: with p_k = probs[t, expert[t, k]],
/// renormalised dp_k = (dw_k - sum_j dw_j w_j) / sum_j p_j, else dp_k = dw_k. dprobs: [T, E] (overwritten); fraction:
/// [G, E] f64 (data may be nullptr: no balance loss); d_weight, weight, expert: [T, K]. A dropped choice has d_weight =
/// 0.
template <class T>
struct RouterGradient {
  Matrix<const T> probs;
  Matrix<const std::int32_t> expert;
  Matrix<const T> weight;
  Matrix<const T> d_weight;
  Matrix<const double> fraction;
  double scale = 0.0;
  bool renormalize = true;
};
template <class T>
void router_backward(Stream& stream, Matrix<T> dprobs, const RouterGradient<T>& in);

/// weight[t, k] = sigmoid(logits[t, expert[t, k]]). weight, expert: [T, K]; logits: [T, E].
template <class T>
void router_sigmoid(Stream& stream, Matrix<T> weight, Matrix<const T> logits, Matrix<const std::int32_t> expert);
/// dlogits[t, expert[t, k]] += d_weight[t, k] * w (1 - w), w = weight[t, k].
template <class T>
void router_sigmoid_backward(Stream& stream, Matrix<T> dlogits, Matrix<const T> weight, Matrix<const T> d_weight,
                             Matrix<const std::int32_t> expert);

/// logits += noise * softplus(raw), then noise *= sigmoid(raw): the derivative of the sum by raw. All [T, E].
template <class T>
void router_noise(Stream& stream, Matrix<T> logits, Matrix<T> noise, Matrix<const T> raw);

/// y[t] = x[t] / n[t], n[t] = max(|x[t]|, 1e-12). y, x: [T, W]; n: [T]. y may be the memory of x.
template <class T>
void normalize_rows(Stream& stream, Matrix<T> y, T* n, Matrix<const T> x);
/// dx[t] = (dy[t] - <dy[t], y[t]> y[t]) / n[t]; dx may be the memory of dy.
template <class T>
void normalize_rows_backward(Stream& stream, Matrix<T> dx, Matrix<const T> dy, Matrix<const T> y, const T* n);

/// z = x * y, element by element.
template <class T>
void multiply(Stream& stream, T* z, const T* x, const T* y, std::int64_t n);
/// sum of x[i] * y[i].
template <class T>
[[nodiscard]] T inner_product(Stream& stream, const T* x, const T* y, std::int64_t n);

/// dlogits[t, e] += scale * lse[t] * probs[t, e]: the z-loss. Source: ST-MoE, arXiv:2202.08906, eq. 5.
template <class T>
void router_z_backward(Stream& stream, Matrix<T> dlogits, Matrix<const T> probs, const T* lse, double scale);

}  // namespace weft::kernels
