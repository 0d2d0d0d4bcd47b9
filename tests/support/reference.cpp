#include "tests/support/reference.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

namespace weft::reference {

Dense transpose(const Dense& a) {
  Dense t(a.cols, a.rows);
  for (std::int64_t i = 0; i < a.rows; ++i)
    for (std::int64_t j = 0; j < a.cols; ++j) t(j, i) = a(i, j);
  return t;
}

Dense product(const Dense& a, const Dense& b) {
  Dense c(a.rows, b.cols);
  for (std::int64_t i = 0; i < a.rows; ++i)
    for (std::int64_t j = 0; j < b.cols; ++j)
      for (std::int64_t p = 0; p < a.cols; ++p) c(i, j) += a(i, p) * b(p, j);
  return c;
}

Dense sum(const Dense& a, const Dense& b) {
  Dense c = a;
  for (std::size_t i = 0; i < c.data.size(); ++i) c.data[i] += b.data[i];
  return c;
}

Dense scaled(const Dense& a, double factor) {
  Dense c = a;
  for (double& value : c.data) value *= factor;
  return c;
}

Dense rows_of(const Dense& a, std::int64_t first, std::int64_t last) {
  Dense c(last - first, a.cols);
  for (std::int64_t i = first; i < last; ++i)
    for (std::int64_t j = 0; j < a.cols; ++j) c(i - first, j) = a(i, j);
  return c;
}

Dense column_sums(const Dense& a) {
  Dense c(1, a.cols);
  for (std::int64_t i = 0; i < a.rows; ++i)
    for (std::int64_t j = 0; j < a.cols; ++j) c(0, j) += a(i, j);
  return c;
}

namespace {

double at(const Reals& values, std::int64_t i) { return values[static_cast<std::size_t>(i)]; }
double& at(Reals& values, std::int64_t i) { return values[static_cast<std::size_t>(i)]; }
std::int32_t at(const Ints& values, std::int64_t i) { return values[static_cast<std::size_t>(i)]; }
Reals zeros(std::int64_t n) { return Reals(static_cast<std::size_t>(n), 0.0); }

double sigmoid(double x) { return 1.0 / (1.0 + std::exp(-x)); }

/// Both norms: x_hat = (x - mean) * rstd, y = x_hat * weight + bias; RMSNorm has mean 0 and bias 0.
NormForward normalize(const Dense& x, const Reals& weight, const Reals& bias, double eps, bool center) {
  NormForward result{Dense(x.rows, x.cols), zeros(x.rows), zeros(x.rows)};
  for (std::int64_t t = 0; t < x.rows; ++t) {
    double mean = 0.0, variance = 0.0;
    if (center)
      for (std::int64_t j = 0; j < x.cols; ++j) mean += x(t, j) / static_cast<double>(x.cols);
    for (std::int64_t j = 0; j < x.cols; ++j)
      variance += (x(t, j) - mean) * (x(t, j) - mean) / static_cast<double>(x.cols);
    at(result.mean, t) = mean;
    at(result.rstd, t) = 1.0 / std::sqrt(variance + eps);
    for (std::int64_t j = 0; j < x.cols; ++j)
      result.y(t, j) = (x(t, j) - mean) * at(result.rstd, t) * at(weight, j) + at(bias, j);
  }
  return result;
}

NormBackward normalize_backward(const Dense& dy, const Dense& x, const Reals& weight, double eps, bool center) {
  const NormForward forward = normalize(x, weight, zeros(x.cols), eps, center);
  NormBackward grad{Dense(x.rows, x.cols), zeros(x.cols), zeros(x.cols)};
  const auto width = static_cast<double>(x.cols);
  for (std::int64_t t = 0; t < x.rows; ++t) {
    const double mean = at(forward.mean, t), rstd = at(forward.rstd, t);
    double mean_g = 0.0, mean_gx = 0.0;
    for (std::int64_t j = 0; j < x.cols; ++j) {
      const double x_hat = (x(t, j) - mean) * rstd, g = dy(t, j) * at(weight, j);
      at(grad.dweight, j) += dy(t, j) * x_hat;
      at(grad.dbias, j) += dy(t, j);
      if (center) mean_g += g / width;
      mean_gx += g * x_hat / width;
    }
    for (std::int64_t j = 0; j < x.cols; ++j)
      grad.dx(t, j) = rstd * (dy(t, j) * at(weight, j) - mean_g - (x(t, j) - mean) * rstd * mean_gx);
  }
  return grad;
}

}  // namespace

NormForward rms_norm(const Dense& x, const Reals& weight, double eps) {
  return normalize(x, weight, zeros(x.cols), eps, false);
}
NormBackward rms_norm_backward(const Dense& dy, const Dense& x, const Reals& weight, double eps) {
  return normalize_backward(dy, x, weight, eps, false);
}
NormForward layer_norm(const Dense& x, const Reals& weight, const Reals& bias, double eps) {
  return normalize(x, weight, bias, eps, true);
}
NormBackward layer_norm_backward(const Dense& dy, const Dense& x, const Reals& weight, double eps) {
  return normalize_backward(dy, x, weight, eps, true);
}

Dense swiglu(const Dense& gate_up) {
  Dense h(gate_up.rows, gate_up.cols / 2);
  for (std::int64_t i = 0; i < h.rows; ++i)
    for (std::int64_t j = 0; j < h.cols; ++j) h(i, j) = gate_up(i, j) * sigmoid(gate_up(i, j)) * gate_up(i, h.cols + j);
  return h;
}

Dense swiglu_backward(const Dense& dh, const Dense& gate_up) {
  Dense d(gate_up.rows, gate_up.cols);
  for (std::int64_t i = 0; i < dh.rows; ++i)
    for (std::int64_t j = 0; j < dh.cols; ++j) {
      const double gate = gate_up(i, j), up = gate_up(i, dh.cols + j), s = sigmoid(gate);
      d(i, j) = dh(i, j) * up * (s + gate * s * (1.0 - s));
      d(i, dh.cols + j) = dh(i, j) * gate * s;
    }
  return d;
}

namespace {
const double kGeluA = std::sqrt(2.0 / std::acos(-1.0));
constexpr double kGeluB = 0.044715;
}  // namespace

Dense gelu(const Dense& x) {
  Dense h = x;
  for (double& v : h.data) v = 0.5 * v * (1.0 + std::tanh(kGeluA * (v + kGeluB * v * v * v)));
  return h;
}

Dense gelu_backward(const Dense& dh, const Dense& x) {
  Dense dx = dh;
  for (std::size_t i = 0; i < dx.data.size(); ++i) {
    const double v = x.data[i], t = std::tanh(kGeluA * (v + kGeluB * v * v * v));
    dx.data[i] *= 0.5 * (1.0 + t) + 0.5 * v * (1.0 - t * t) * kGeluA * (1.0 + 3.0 * kGeluB * v * v);
  }
  return dx;
}

Dense rope(const Dense& x, const Ints& position, std::int64_t head_dim, double theta, double direction) {
  Dense y = x;
  const std::int64_t half = head_dim / 2;
  for (std::int64_t t = 0; t < x.rows; ++t)
    for (std::int64_t head = 0; head < x.cols; head += head_dim)
      for (std::int64_t i = 0; i < half; ++i) {
        const double frequency = std::pow(theta, -2.0 * static_cast<double>(i) / static_cast<double>(head_dim));
        const double angle = direction * at(position, t) * frequency;
        const double a = x(t, head + i), b = x(t, head + half + i);
        y(t, head + i) = a * std::cos(angle) - b * std::sin(angle);
        y(t, head + half + i) = b * std::cos(angle) + a * std::sin(angle);
      }
  return y;
}

namespace {

/// Scaled scores of one head, -infinity where the query does not see the key: [Tq, Tk].
Dense head_scores(const Dense& q, const Dense& k, const Rows& q_rows, const Rows& k_rows,
                  const kernels::AttentionShape& shape, std::int64_t head) {
  const std::int64_t d = shape.head_dim, kv_head = head / (shape.num_heads / shape.num_kv_heads);
  Dense scores(q.rows, k.rows);
  for (std::int64_t i = 0; i < q.rows; ++i)
    for (std::int64_t j = 0; j < k.rows; ++j) {
      double dot = 0.0;
      for (std::int64_t c = 0; c < d; ++c) dot += q(i, head * d + c) * k(j, kv_head * d + c);
      const bool visible =
          at(q_rows.segment, i) == at(k_rows.segment, j) && at(k_rows.position, j) <= at(q_rows.position, i);
      scores(i, j) = visible ? shape.scale * dot : -std::numeric_limits<double>::infinity();
    }
  return scores;
}

double log_sum_exp(const Dense& scores, std::int64_t row) {
  double max = -std::numeric_limits<double>::infinity(), total = 0.0;
  for (std::int64_t j = 0; j < scores.cols; ++j) max = std::max(max, scores(row, j));
  if (std::isinf(max)) return max;
  for (std::int64_t j = 0; j < scores.cols; ++j) total += std::exp(scores(row, j) - max);
  return max + std::log(total);
}

}  // namespace

AttentionForward attention(const Dense& q, const Dense& k, const Dense& v, const Rows& q_rows, const Rows& k_rows,
                           const kernels::AttentionShape& shape) {
  const std::int64_t d = shape.head_dim, group = shape.num_heads / shape.num_kv_heads;
  AttentionForward result{Dense(q.rows, q.cols), Dense(q.rows, shape.num_heads)};
  for (std::int64_t h = 0; h < shape.num_heads; ++h) {
    const Dense scores = head_scores(q, k, q_rows, k_rows, shape, h);
    for (std::int64_t i = 0; i < q.rows; ++i) {
      result.lse(i, h) = log_sum_exp(scores, i);
      for (std::int64_t j = 0; j < k.rows; ++j) {
        if (std::isinf(scores(i, j))) continue;
        const double p = std::exp(scores(i, j) - result.lse(i, h));
        for (std::int64_t c = 0; c < d; ++c) result.out(i, h * d + c) += p * v(j, h / group * d + c);
      }
    }
  }
  return result;
}

AttentionBackward attention_backward(const Dense& dout, const Dense& q, const Dense& k, const Dense& v,
                                     const Rows& q_rows, const Rows& k_rows, const kernels::AttentionShape& shape) {
  const std::int64_t d = shape.head_dim, group = shape.num_heads / shape.num_kv_heads;
  AttentionBackward grad{Dense(q.rows, q.cols), Dense(k.rows, k.cols), Dense(v.rows, v.cols)};
  for (std::int64_t h = 0; h < shape.num_heads; ++h) {
    const std::int64_t g = h / group;
    const Dense scores = head_scores(q, k, q_rows, k_rows, shape, h);
    Dense p(q.rows, k.rows), dp(q.rows, k.rows);
    for (std::int64_t i = 0; i < q.rows; ++i) {
      const double lse = log_sum_exp(scores, i);
      double delta = 0.0;
      for (std::int64_t j = 0; j < k.rows; ++j) {
        p(i, j) = std::isinf(scores(i, j)) ? 0.0 : std::exp(scores(i, j) - lse);
        for (std::int64_t c = 0; c < d; ++c) dp(i, j) += dout(i, h * d + c) * v(j, g * d + c);
        delta += p(i, j) * dp(i, j);
      }
      for (std::int64_t j = 0; j < k.rows; ++j)
        for (std::int64_t c = 0; c < d; ++c) {
          const double ds = shape.scale * p(i, j) * (dp(i, j) - delta);
          grad.dv(j, g * d + c) += p(i, j) * dout(i, h * d + c);
          grad.dq(i, h * d + c) += ds * k(j, g * d + c);
          grad.dk(j, g * d + c) += ds * q(i, h * d + c);
        }
    }
  }
  return grad;
}

Softmax softmax(const Dense& logits) {
  Softmax result{Dense(logits.rows, logits.cols), zeros(logits.rows)};
  for (std::int64_t t = 0; t < logits.rows; ++t) {
    double max = -std::numeric_limits<double>::infinity(), total = 0.0;
    for (std::int64_t j = 0; j < logits.cols; ++j) max = std::max(max, logits(t, j));
    for (std::int64_t j = 0; j < logits.cols; ++j) total += std::exp(logits(t, j) - max);
    for (std::int64_t j = 0; j < logits.cols; ++j) result.probs(t, j) = std::exp(logits(t, j) - max) / total;
    at(result.lse, t) = max + std::log(total);
  }
  return result;
}

Dense softmax_backward(const Dense& dprobs, const Dense& probs) {
  Dense d(probs.rows, probs.cols);
  for (std::int64_t t = 0; t < probs.rows; ++t) {
    double dot = 0.0;
    for (std::int64_t j = 0; j < probs.cols; ++j) dot += dprobs(t, j) * probs(t, j);
    for (std::int64_t j = 0; j < probs.cols; ++j) d(t, j) = probs(t, j) * (dprobs(t, j) - dot);
  }
  return d;
}

std::vector<Ints> top_k(const Dense& scores, std::int64_t k) {
  std::vector<Ints> best;
  for (std::int64_t t = 0; t < scores.rows; ++t) {
    Ints order(static_cast<std::size_t>(scores.cols));
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](std::int32_t a, std::int32_t b) {
      if (std::isnan(scores(t, a)) || std::isnan(scores(t, b))) return !std::isnan(scores(t, a));
      return scores(t, a) > scores(t, b);
    });
    order.resize(static_cast<std::size_t>(k));
    best.push_back(order);
  }
  return best;
}

Dense gather_rows(const Dense& in, const Ints& index) {
  Dense out(static_cast<std::int64_t>(index.size()), in.cols);
  for (std::int64_t i = 0; i < out.rows; ++i)
    for (std::int64_t j = 0; j < in.cols && at(index, i) >= 0; ++j) out(i, j) = in(at(index, i), j);
  return out;
}

Dense unpermute_weighted(const Dense& residual, const Dense& rows, const Ints& row, const Dense& weight) {
  Dense out(weight.rows, rows.cols);
  if (!residual.data.empty()) out = residual;
  for (std::int64_t t = 0; t < weight.rows; ++t)
    for (std::int64_t k = 0; k < weight.cols; ++k) {
      const std::int32_t r = at(row, t * weight.cols + k);
      for (std::int64_t j = 0; j < rows.cols && r >= 0; ++j) out(t, j) += weight(t, k) * rows(r, j);
    }
  return out;
}

UnpermuteBackward unpermute_weighted_backward(const Dense& dout, const Dense& rows, const Ints& row,
                                              const Dense& weight) {
  UnpermuteBackward grad{Dense(rows.rows, rows.cols), Dense(weight.rows, weight.cols)};
  for (std::int64_t t = 0; t < weight.rows; ++t)
    for (std::int64_t k = 0; k < weight.cols; ++k) {
      const std::int32_t r = at(row, t * weight.cols + k);
      for (std::int64_t j = 0; j < rows.cols && r >= 0; ++j) {
        grad.d_rows(r, j) = weight(t, k) * dout(t, j);
        grad.d_weight(t, k) += dout(t, j) * rows(r, j);
      }
    }
  return grad;
}

Dense permute_backward(const Dense& d_rows, const Ints& row, std::int64_t num_tokens) {
  Dense dx(num_tokens, d_rows.cols);
  const std::int64_t choices = num_tokens == 0 ? 0 : static_cast<std::int64_t>(row.size()) / num_tokens;
  for (std::int64_t i = 0; i < num_tokens * choices; ++i)
    for (std::int64_t j = 0; j < d_rows.cols && at(row, i) >= 0; ++j) dx(i / choices, j) += d_rows(at(row, i), j);
  return dx;
}

Dense embedding(const Dense& token_table, const Ints& token, const Dense& position_table, const Ints& position) {
  Dense x(static_cast<std::int64_t>(token.size()), token_table.cols);
  for (std::int64_t t = 0; t < x.rows; ++t)
    for (std::int64_t j = 0; j < x.cols; ++j)
      x(t, j) = token_table(at(token, t), j) + (position.empty() ? 0.0 : position_table(at(position, t), j));
  return x;
}

Dense embedding_backward(Dense d_table, const Ints& id, const Dense& dx) {
  for (std::int64_t t = 0; t < dx.rows; ++t)
    for (std::int64_t j = 0; j < dx.cols; ++j) d_table(at(id, t), j) += dx(t, j);
  return d_table;
}

CrossEntropy cross_entropy(const Dense& logits, const Ints& target, double grad_scale) {
  const Softmax p = softmax(logits);
  CrossEntropy result{zeros(logits.rows), Dense(logits.rows, logits.cols)};
  for (std::int64_t t = 0; t < logits.rows; ++t) {
    if (at(target, t) < 0) continue;
    at(result.loss, t) = at(p.lse, t) - logits(t, at(target, t));
    for (std::int64_t j = 0; j < logits.cols; ++j)
      result.dlogits(t, j) = grad_scale * (p.probs(t, j) - (j == at(target, t) ? 1.0 : 0.0));
  }
  return result;
}

AdamW adamw(AdamW state, const Reals& grad, double factor, const kernels::AdamWOptions& o) {
  const auto step = static_cast<double>(o.step);
  for (std::size_t i = 0; i < grad.size(); ++i) {
    const double g = grad[i] * factor;
    state.m[i] = o.beta1 * state.m[i] + (1.0 - o.beta1) * g;
    state.v[i] = o.beta2 * state.v[i] + (1.0 - o.beta2) * g * g;
    const double m_hat = state.m[i] / (1.0 - std::pow(o.beta1, step));
    const double v_hat = state.v[i] / (1.0 - std::pow(o.beta2, step));
    state.weight[i] -= o.lr * (m_hat / (std::sqrt(v_hat) + o.eps) + o.weight_decay * state.weight[i]);
  }
  return state;
}

}  // namespace weft::reference
