#include "kernels/router.h"

#include "kernels/backend.h"
#include "kernels/check.h"

namespace weft::kernels {
namespace {

void check_groups(const char* kernel, std::int64_t rows, std::int64_t groups) {
  WEFT_CHECK(groups > 0 && rows % groups == 0, kernel, ": ", rows, " rows in ", groups, " groups");
}

}  // namespace

template <class T>
void route_top_k(Stream& stream, const RoutedRows<T>& out, Matrix<const T> logits, RouterWeighting weighting) {
  check_matrix("route_top_k", "logits", logits, logits.rows, logits.cols);
  check_matrix("route_top_k", "probs", out.probs, logits.rows, logits.cols);
  check_array("route_top_k", "lse", out.lse, logits.rows);
  check_matrix("route_top_k", "expert", out.expert, logits.rows, out.expert.cols);
  check_matrix("route_top_k", "weight", out.weight, logits.rows, out.expert.cols);
  WEFT_CHECK(out.expert.cols <= logits.cols, "route_top_k: ", out.expert.cols, " choices among ", logits.cols,
             " experts");
  backend<T>(stream).route_top_k(stream, out, logits, weighting);
}

void order_rows(Stream& stream, std::int32_t* order, Matrix<const std::int32_t> places,
                std::int64_t rows_per_sequence) {
  check_matrix("order_rows", "places", places, places.rows, places.cols);
  check_array("order_rows", "order", order, places.rows * places.cols);
  WEFT_CHECK(rows_per_sequence > 0 && places.cols % rows_per_sequence == 0, "order_rows: ", places.cols,
             " rows are no multiple of a sequence's ", rows_per_sequence);
  backend<float>(stream).order_rows(stream, order, places, rows_per_sequence);
}

void router_drop(Stream& stream, Matrix<std::int32_t> kept, Matrix<const std::int32_t> expert, std::int64_t num_experts,
                 const RoutingGroups& groups, std::int64_t capacity) {
  check_matrix("router_drop", "expert", expert, expert.rows, expert.cols);
  check_matrix("router_drop", "kept", kept, groups.count, expert.cols);
  check_routing_groups("router_drop", groups, expert.rows);
  backend<float>(stream).router_drop(stream, kept, expert, num_experts, groups, capacity);
}

void router_count(Stream& stream, Matrix<double> count, Matrix<const std::int32_t> expert) {
  check_matrix("router_count", "expert", expert, expert.rows, expert.cols);
  check_matrix("router_count", "count", count, count.rows, count.cols);
  check_groups("router_count", expert.rows, count.rows);
  backend<float>(stream).router_count(stream, count, expert);
}

template <class T>
void router_mean_probs(Stream& stream, Matrix<double> mean, Matrix<const T> probs, double scale) {
  check_matrix("router_mean_probs", "probs", probs, probs.rows, mean.cols);
  check_matrix("router_mean_probs", "mean", mean, mean.rows, mean.cols);
  check_groups("router_mean_probs", probs.rows, mean.rows);
  backend<T>(stream).router_mean_probs(stream, mean, probs, scale);
}

void router_fractions(Stream& stream, Matrix<double> fraction, Matrix<const double> count, double none) {
  check_matrix("router_fractions", "fraction", fraction, fraction.rows, fraction.cols);
  check_matrix("router_fractions", "count", count, count.rows == 1 ? 1 : fraction.rows, fraction.cols);
  backend<float>(stream).router_fractions(stream, fraction, count, none);
}

template <class T>
void router_backward(Stream& stream, Matrix<T> dprobs, const RouterGradient<T>& in) {
  check_matrix("router_backward", "dprobs", dprobs, dprobs.rows, dprobs.cols);
  check_matrix("router_backward", "probs", in.probs, dprobs.rows, dprobs.cols);
  check_matrix("router_backward", "expert", in.expert, dprobs.rows, in.expert.cols);
  check_matrix("router_backward", "weight", in.weight, dprobs.rows, in.expert.cols);
  check_matrix("router_backward", "d_weight", in.d_weight, dprobs.rows, in.expert.cols);
  if (in.fraction.data != nullptr) {
    check_matrix("router_backward", "fraction", in.fraction, in.fraction.rows, dprobs.cols);
    check_groups("router_backward", dprobs.rows, in.fraction.rows);
  }
  backend<T>(stream).router_backward(stream, dprobs, in);
}

template <class T>
void router_sigmoid(Stream& stream, Matrix<T> weight, Matrix<const T> logits, Matrix<const std::int32_t> expert) {
  check_matrix("router_sigmoid", "logits", logits, logits.rows, logits.cols);
  check_matrix("router_sigmoid", "expert", expert, logits.rows, expert.cols);
  check_matrix("router_sigmoid", "weight", weight, logits.rows, expert.cols);
  backend<T>(stream).router_sigmoid(stream, weight, logits, expert);
}

template <class T>
void router_sigmoid_backward(Stream& stream, Matrix<T> dlogits, Matrix<const T> weight, Matrix<const T> d_weight,
                             Matrix<const std::int32_t> expert) {
  check_matrix("router_sigmoid_backward", "dlogits", dlogits, dlogits.rows, dlogits.cols);
  check_matrix("router_sigmoid_backward", "expert", expert, dlogits.rows, expert.cols);
  check_matrix("router_sigmoid_backward", "weight", weight, dlogits.rows, expert.cols);
  check_matrix("router_sigmoid_backward", "d_weight", d_weight, dlogits.rows, expert.cols);
  backend<T>(stream).router_sigmoid_backward(stream, dlogits, weight, d_weight, expert);
}

template <class T>
void router_draw(Stream& stream, Matrix<T> noise, const PhiloxKey* key, const NoiseRows& rows) {
  check_matrix("router_draw", "noise", noise, noise.rows, noise.cols);
  WEFT_CHECK(rows.first_row >= 0 && rows.rows_per_sequence > 0, "router_draw: row ", rows.first_row,
             " of sequences of ", rows.rows_per_sequence);
  check_array("router_draw", "key", key, 1);
  backend<T>(stream).router_draw(stream, noise, key, rows);
}

template <class T>
void router_noise(Stream& stream, Matrix<T> logits, Matrix<T> noise, Matrix<const T> raw) {
  check_matrix("router_noise", "logits", logits, logits.rows, logits.cols);
  check_matrix("router_noise", "noise", noise, logits.rows, logits.cols);
  check_matrix("router_noise", "raw", raw, logits.rows, logits.cols);
  backend<T>(stream).router_noise(stream, logits, noise, raw);
}

template <class T>
void normalize_rows(Stream& stream, Matrix<T> y, T* n, Matrix<const T> x) {
  check_matrix("normalize_rows", "x", x, x.rows, x.cols);
  check_matrix("normalize_rows", "y", y, x.rows, x.cols);
  check_array("normalize_rows", "n", n, x.rows);
  backend<T>(stream).normalize_rows(stream, y, n, x);
}

template <class T>
void normalize_rows_backward(Stream& stream, Matrix<T> dx, Matrix<const T> dy, Matrix<const T> y, const T* n) {
  check_matrix("normalize_rows_backward", "y", y, y.rows, y.cols);
  check_matrix("normalize_rows_backward", "dx", dx, y.rows, y.cols);
  check_matrix("normalize_rows_backward", "dy", dy, y.rows, y.cols);
  check_array("normalize_rows_backward", "n", n, y.rows);
  backend<T>(stream).normalize_rows_backward(stream, dx, dy, y, n);
}

template <class T>
void multiply(Stream& stream, T* z, const T* x, const T* y, std::int64_t n) {
  check_array("multiply", "z", z, n);
  check_array("multiply", "x", x, n);
  check_array("multiply", "y", y, n);
  backend<T>(stream).multiply(stream, z, x, y, n);
}

template <class T>
void router_temperature(Stream& stream, T* z, const T* x, std::int64_t n, const T* theta, double factor) {
  check_array("router_temperature", "z", z, n);
  check_array("router_temperature", "x", x, n);
  check_array("router_temperature", "theta", theta, 1);
  backend<T>(stream).router_temperature(stream, z, x, n, theta, factor);
}

template <class T>
void router_z_backward(Stream& stream, Matrix<T> dlogits, Matrix<const T> probs, const T* lse, double scale) {
  check_matrix("router_z_backward", "dlogits", dlogits, dlogits.rows, dlogits.cols);
  check_matrix("router_z_backward", "probs", probs, dlogits.rows, dlogits.cols);
  check_array("router_z_backward", "lse", lse, dlogits.rows);
  backend<T>(stream).router_z_backward(stream, dlogits, probs, lse, scale);
}

#define WEFT_INSTANTIATE(T)                                                 \
  template decltype(route_top_k<T>) route_top_k<T>;                         \
  template decltype(router_mean_probs<T>) router_mean_probs<T>;             \
  template decltype(router_backward<T>) router_backward<T>;                 \
  template decltype(router_sigmoid<T>) router_sigmoid<T>;                   \
  template decltype(router_sigmoid_backward<T>) router_sigmoid_backward<T>; \
  template decltype(router_draw<T>) router_draw<T>;                         \
  template decltype(router_noise<T>) router_noise<T>;                       \
  template decltype(normalize_rows<T>) normalize_rows<T>;                   \
  template decltype(normalize_rows_backward<T>) normalize_rows_backward<T>; \
  template decltype(multiply<T>) multiply<T>;                               \
  template decltype(router_temperature<T>) router_temperature<T>;           \
  template decltype(router_z_backward<T>) router_z_backward<T>;
WEFT_INSTANTIATE(float)
WEFT_INSTANTIATE(double)
#undef WEFT_INSTANTIATE

}  // namespace weft::kernels
