// tests/support/reference.h - the definition of every kernel: plain loops in f64, to be checked by eye.
// Kernels are right if they agree with these. Contracts and letters: see kernels/*.h; `Dense` is a value.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "core/matrix.h"
#include "kernels/adamw.h"
#include "kernels/attention.h"

namespace weft::reference {

using Ints = std::vector<std::int32_t>;
using Reals = std::vector<double>;

/// A [rows, cols] matrix of f64, row-major, zero at first.
struct Dense {
  std::int64_t rows = 0, cols = 0;
  Reals data;

  Dense() = default;
  Dense(std::int64_t rows_, std::int64_t cols_)
      : rows(rows_), cols(cols_), data(static_cast<std::size_t>(rows_ * cols_), 0.0) {}
  template <class T>
  explicit Dense(Matrix<T> m) : Dense(m.rows, m.cols) {
    for (std::int64_t i = 0; i < rows; ++i)
      for (std::int64_t j = 0; j < cols; ++j) (*this)(i, j) = static_cast<double>(m.row(i)[j]);
  }
  double& operator()(std::int64_t i, std::int64_t j) { return data[static_cast<std::size_t>(i * cols + j)]; }
  double operator()(std::int64_t i, std::int64_t j) const { return data[static_cast<std::size_t>(i * cols + j)]; }
};

[[nodiscard]] Dense transpose(const Dense& a);
[[nodiscard]] Dense product(const Dense& a, const Dense& b);
[[nodiscard]] Dense sum(const Dense& a, const Dense& b);
[[nodiscard]] Dense scaled(const Dense& a, double factor);
/// Rows [first, last).
[[nodiscard]] Dense rows_of(const Dense& a, std::int64_t first, std::int64_t last);
/// [1, cols]: each column's sum.
[[nodiscard]] Dense column_sums(const Dense& a);

struct NormForward {
  Dense y;
  Reals mean, rstd;  // mean: of layer norm only
};
struct NormBackward {
  Dense dx;
  Reals dweight, dbias;  // dbias: of layer norm only
};
[[nodiscard]] NormForward rms_norm(const Dense& x, const Reals& weight, double eps);
[[nodiscard]] NormBackward rms_norm_backward(const Dense& dy, const Dense& x, const Reals& weight, double eps);
[[nodiscard]] NormForward layer_norm(const Dense& x, const Reals& weight, const Reals& bias, double eps);
[[nodiscard]] NormBackward layer_norm_backward(const Dense& dy, const Dense& x, const Reals& weight, double eps);

[[nodiscard]] Dense swiglu(const Dense& gate_up);
[[nodiscard]] Dense swiglu_backward(const Dense& dh, const Dense& gate_up);
[[nodiscard]] Dense gelu(const Dense& x);
[[nodiscard]] Dense gelu_backward(const Dense& dh, const Dense& x);

/// direction: +1 or -1.
[[nodiscard]] Dense rope(const Dense& x, const Ints& position, std::int64_t head_dim, double theta, double direction);

struct Rows {
  Ints segment, position;
};
struct AttentionForward {
  Dense out, lse;
};
struct AttentionBackward {
  Dense dq, dk, dv;
};
[[nodiscard]] AttentionForward attention(const Dense& q, const Dense& k, const Dense& v, const Rows& q_rows,
                                         const Rows& k_rows, const kernels::AttentionShape& shape);
/// Holds all probabilities of a head at once, as the formula is written.
[[nodiscard]] AttentionBackward attention_backward(const Dense& dout, const Dense& q, const Dense& k, const Dense& v,
                                                   const Rows& q_rows, const Rows& k_rows,
                                                   const kernels::AttentionShape& shape);

struct Softmax {
  Dense probs;
  Reals lse;
};
[[nodiscard]] Softmax softmax(const Dense& logits);
[[nodiscard]] Dense softmax_backward(const Dense& dprobs, const Dense& probs);
/// [T, K], by sorting all columns.
[[nodiscard]] std::vector<Ints> top_k(const Dense& scores, std::int64_t k);

/// out: [index.size(), M].
[[nodiscard]] Dense gather_rows(const Dense& in, const Ints& index);
/// row: [T * K]; residual may be empty.
[[nodiscard]] Dense unpermute_weighted(const Dense& residual, const Dense& rows, const Ints& row, const Dense& weight);
struct UnpermuteBackward {
  Dense d_rows, d_weight;
};
[[nodiscard]] UnpermuteBackward unpermute_weighted_backward(const Dense& dout, const Dense& rows, const Ints& row,
                                                            const Dense& weight);
/// d_rows summed into num_tokens rows; row: [num_tokens * K].
[[nodiscard]] Dense permute_backward(const Dense& d_rows, const Ints& row, std::int64_t num_tokens);

[[nodiscard]] Dense embedding(const Dense& token_table, const Ints& token, const Dense& position_table,
                              const Ints& position);
[[nodiscard]] Dense embedding_backward(Dense d_table, const Ints& id, const Dense& dx);

struct CrossEntropy {
  Reals loss;
  Dense dlogits;
};
[[nodiscard]] CrossEntropy cross_entropy(const Dense& logits, const Ints& target, double grad_scale);

struct AdamW {
  Reals weight, m, v;
};
[[nodiscard]] AdamW adamw(AdamW state, const Reals& grad, double factor, const kernels::AdamWOptions& options);

}  // namespace weft::reference
