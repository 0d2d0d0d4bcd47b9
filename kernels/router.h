// kernels/router.h - what a top-k router does: softmax, choices, weights, capacity, balance statistics, and their
// backward. Letters: T rows, E experts, K choices per row, G routing groups of T / G consecutive rows each.
#pragma once

#include <cstdint>

#include "core/matrix.h"
#include "core/rng.h"
#include "core/stream.h"
#include "kernels/routing_groups.h"

namespace weft::kernels {

/// The weight of a choice: its probability p, p over the sum of the row's K, or sigmoid(logit).
enum class RouterWeighting : std::uint8_t { kProbability, kRenormalized, kSigmoid };

/// What route_top_k writes. None of it may be the memory of the logits.
template <class T>
struct RoutedRows {
  Matrix<T> probs;   ///< [T, E]: softmax of the logits.
  T* lse = nullptr;  ///< [T]: their logsumexp.
  Matrix<std::int32_t>
      expert;        ///< [T, K]: the K largest probabilities, best first, ties to the lower expert, NaN last.
  Matrix<T> weight;  ///< [T, K]
};
/// Routes each row by its logits, which are read once. logits: [T, E]; K > E throws kInvalidArgument.
template <class T>
void route_top_k(Stream& stream, const RoutedRows<T>& out, Matrix<const T> logits, RouterWeighting weighting);

/// order[s * S + places[r, t]] = r * T + t: the rows of all ranks in the order of sequences and of their places in
/// them, where SP ranks hold T rows each of the same sequences of S = SP * rows_per_sequence tokens, s = t /
/// rows_per_sequence. places: [SP, T], each place of a sequence once; order: [SP * T].
void order_rows(Stream& stream, std::int32_t* order, Matrix<const std::int32_t> places, std::int64_t rows_per_sequence);

/// Capacity: within each group an expert keeps its first `capacity` choices, in the order of (choice k, row of the
/// group); the others become -1 in `kept`. capacity = 0 keeps all. expert: [T, K]; kept: [groups.count, K]. Source:
/// GShard, arXiv:2006.16668, algorithm 1 (first choices of all tokens come before second choices).
void router_drop(Stream& stream, Matrix<std::int32_t> kept, Matrix<const std::int32_t> expert, std::int64_t num_experts,
                 const RoutingGroups& groups, std::int64_t capacity);

/// count[g, e] = choices of expert e in group g, -1 passed over; whole numbers, in f64. count: [G, E].
void router_count(Stream& stream, Matrix<double> count, Matrix<const std::int32_t> expert);

/// mean[g, e] = scale * mean over the rows of group g of probs[t, e]. mean: [G, E] f64; probs: [T, E].
template <class T>
void router_mean_probs(Stream& stream, Matrix<double> mean, Matrix<const T> probs, double scale);

/// fraction[g, e] = count[g, e] over the sum of row g; `none` where the sum is 0. fraction: [G, E]; count: [G, E], or
/// [1, E] for all groups.
void router_fractions(Stream& stream, Matrix<double> fraction, Matrix<const double> count, double none);

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

/// Where the rows of a unit stand in their sequences: the counters of their noise. Row t belongs to sequence
/// s = (first_row + t) / rows_per_sequence of the micro-batch.
struct NoiseRows {
  const std::int64_t* samples = nullptr;  ///< [sequences]: the key of sequence s; null: s itself.
  const std::int32_t* places = nullptr;   ///< [rows of the micro-batch]: place in the sequence; null: rows in order.
  std::int64_t first_row = 0;
  std::int64_t rows_per_sequence = 1;
};
/// noise[t, e] = Rng(*key).normal(sample of t, place of t * E + e). noise: [T, E]; key: [1], on the stream's device.
template <class T>
void router_draw(Stream& stream, Matrix<T> noise, const PhiloxKey* key, const NoiseRows& rows);
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
/// z = x * factor * exp(-*theta): a division by a learned temperature. theta: [1], on the stream's device.
template <class T>
void router_temperature(Stream& stream, T* z, const T* x, std::int64_t n, const T* theta, double factor);

/// dlogits[t, e] += scale * lse[t] * probs[t, e]: the z-loss. Source: ST-MoE, arXiv:2202.08906, eq. 5.
template <class T>
void router_z_backward(Stream& stream, Matrix<T> dlogits, Matrix<const T> probs, const T* lse, double scale);

}  // namespace weft::kernels
