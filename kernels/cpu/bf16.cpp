// kernels/cpu/bf16.cpp - the kernels on rows stored as BF16: arguments are widened, the F32 kernel runs, results are
// rounded once. A CPU gains memory by it and no speed; what it is for is the same training on any machine.
#include <algorithm>
#include <cstddef>
#include <deque>
#include <exception>
#include <vector>

#include "core/bf16.h"
#include "kernels/cpu/backend.h"

namespace weft::kernels::cpu {
namespace {

const Backend<float>& f32() { return cpu::backend<float>(); }

/// The arguments of one call in F32. What was given as output is rounded into its place by the destructor, unless the
/// kernel threw. All inputs are read before anything is written, so arguments may share memory wherever the F32
/// kernel's may.
class Widened {
 public:
  Widened() = default;
  Widened(const Widened&) = delete;
  Widened& operator=(const Widened&) = delete;
  ~Widened() {
    if (std::uncaught_exceptions() > 0) return;  // nothing was computed
    for (const Output& out : outputs_)
      for (std::int64_t i = 0; i < out.to.rows; ++i) std::copy_n(out.from.row(i), out.to.cols, out.to.row(i));
  }

  Matrix<const float> in(Matrix<const BF16> m) {
    if (m.data == nullptr) return {nullptr, m.rows, m.cols, m.stride};
    return read(m);
  }
  const float* in(const BF16* data, std::int64_t count) {
    return data == nullptr ? nullptr : read(Matrix<const BF16>(data, 1, count)).data;
  }
  /// `keep`: the kernel reads the elements first, or leaves some as they are.
  Matrix<float> out(Matrix<BF16> m, bool keep) {
    const Matrix<float> wide = keep ? read(m) : room(m.rows, m.cols);
    outputs_.push_back({m, wide});
    return wide;
  }
  /// For a kernel that takes a matrix it leaves as it is as output.
  Matrix<float> copy(Matrix<const BF16> m) { return read(m); }
  Matrix<float> out(Matrix<BF16> m, Accumulate accumulate) { return out(m, accumulate == Accumulate::kAdd); }
  /// Weights of L experts, packed.
  ExpertWeights<const float> in(const ExpertWeights<const BF16>& w, std::span<const std::int64_t> offsets) {
    const std::int64_t experts = static_cast<std::int64_t>(offsets.size()) - 1, size = w.out_width * w.in_width;
    const Matrix<float> weight = read(Matrix<const BF16>(w.data, experts, size, w.expert_stride));
    const float* bias = nullptr;
    if (w.bias != nullptr) bias = read(Matrix<const BF16>(w.bias, experts, w.out_width, w.bias_stride)).data;
    return {weight.data, size, bias, w.out_width, w.out_width, w.in_width};
  }
  AttentionInputs<float> in(const AttentionInputs<BF16>& a) { return {in(a.q), in(a.k), in(a.v), a.q_rows, a.k_rows}; }

 private:
  struct Output {
    Matrix<BF16> to;
    Matrix<float> from;
  };
  Matrix<float> room(std::int64_t rows, std::int64_t cols) {
    return {buffers_.emplace_back(static_cast<std::size_t>(rows * cols)).data(), rows, cols};
  }
  Matrix<float> read(Matrix<const BF16> m) {
    const Matrix<float> wide = room(m.rows, m.cols);
    for (std::int64_t i = 0; i < m.rows; ++i) std::copy_n(m.row(i), m.cols, wide.row(i));
    return wide;
  }
  std::deque<std::vector<float>> buffers_;
  std::vector<Output> outputs_;
};

using Rows = Matrix<BF16>;
using ConstRows = Matrix<const BF16>;
using Offsets = std::span<const std::int64_t>;

void gemm(Stream& stream, Rows c, ConstRows a, Transpose ta, ConstRows b, Transpose tb, float alpha,
          Accumulate accumulate) {
  Widened w;
  f32().gemm(stream, w.out(c, accumulate), w.in(a), ta, w.in(b), tb, alpha, accumulate);
}
void gemm_group(Stream& stream, std::span<const GemmProduct<BF16>> products, Transpose ta, Transpose tb,
                Accumulate accumulate) {
  for (const auto& p : products) gemm(stream, p.c, p.a, ta, p.b, tb, 1.0F, accumulate);
}
void gemm_group_wide(Stream& stream, std::span<const GemmProduct<BF16, float>> products, Transpose ta, Transpose tb,
                     Accumulate accumulate) {
  for (const auto& p : products) {
    Widened w;
    f32().gemm(stream, p.c, w.in(p.a), ta, w.in(p.b), tb, 1.0F, accumulate);
  }
}
void linear_forward(Stream& stream, Rows y, ConstRows x, ConstRows weight, const BF16* bias) {
  Widened w;
  f32().linear_forward(stream, w.out(y, false), w.in(x), w.in(weight), w.in(bias, weight.rows));
}
void linear_backward_input(Stream& stream, Rows dx, ConstRows dy, ConstRows weight, Accumulate accumulate) {
  Widened w;
  f32().linear_backward_input(stream, w.out(dx, accumulate), w.in(dy), w.in(weight), accumulate);
}
void linear_backward_weight(Stream& stream, Matrix<float> dw, float* dbias, ConstRows dy, ConstRows x,
                            Accumulate accumulate) {
  Widened w;
  f32().linear_backward_weight(stream, dw, dbias, w.in(dy), w.in(x), accumulate);
}
void linear_forward_wide(Stream& stream, Matrix<float> y, ConstRows x, ConstRows weight) {
  Widened w;
  f32().linear_forward(stream, y, w.in(x), w.in(weight), nullptr);
}
void linear_backward_input_wide(Stream& stream, Rows dx, Matrix<const float> dy, ConstRows weight,
                                Accumulate accumulate) {
  Widened w;
  f32().linear_backward_input(stream, w.out(dx, accumulate), dy, w.in(weight), accumulate);
}
void linear_backward_weight_wide(Stream& stream, Matrix<float> dw, Matrix<const float> dy, ConstRows x,
                                 Accumulate accumulate) {
  Widened w;
  f32().linear_backward_weight(stream, dw, nullptr, dy, w.in(x), accumulate);
}
void grouped_linear_forward(Stream& stream, Rows y, ConstRows x, ExpertWeights<const BF16> weights, Offsets offsets) {
  Widened w;
  f32().grouped_linear_forward(stream, w.out(y, true), w.in(x), w.in(weights, offsets), offsets);
}
void grouped_linear_backward_input(Stream& stream, Rows dx, ConstRows dy, ExpertWeights<const BF16> weights,
                                   Offsets offsets, Accumulate accumulate) {
  Widened w;
  f32().grouped_linear_backward_input(stream, w.out(dx, true), w.in(dy), w.in(weights, offsets), offsets, accumulate);
}
void grouped_linear_backward_weight(Stream& stream, ExpertWeights<float> dw, ConstRows dy, ConstRows x, Offsets offsets,
                                    Accumulate accumulate) {
  Widened w;
  f32().grouped_linear_backward_weight(stream, dw, w.in(dy), w.in(x), offsets, accumulate);
}

void rms_norm_forward(Stream& stream, Rows y, float* rstd, ConstRows x, const BF16* weight, double eps) {
  Widened w;
  f32().rms_norm_forward(stream, w.out(y, false), rstd, w.in(x), w.in(weight, x.cols), eps);
}
void rms_norm_backward(Stream& stream, Rows dx, float* dweight, ConstRows dy, ConstRows x, const float* rstd,
                       const BF16* weight, Accumulate accumulate_dx, Accumulate accumulate_dw) {
  Widened w;
  f32().rms_norm_backward(stream, w.out(dx, accumulate_dx), dweight, w.in(dy), w.in(x), rstd, w.in(weight, x.cols),
                          accumulate_dx, accumulate_dw);
}
void layer_norm_forward(Stream& stream, Rows y, float* mean, float* rstd, ConstRows x, const BF16* weight,
                        const BF16* bias, double eps) {
  Widened w;
  f32().layer_norm_forward(stream, w.out(y, false), mean, rstd, w.in(x), w.in(weight, x.cols), w.in(bias, x.cols), eps);
}
void layer_norm_backward(Stream& stream, Rows dx, float* dweight, float* dbias, ConstRows dy, ConstRows x,
                         const float* mean, const float* rstd, const BF16* weight, Accumulate accumulate_dx,
                         Accumulate accumulate_dw) {
  Widened w;
  f32().layer_norm_backward(stream, w.out(dx, accumulate_dx), dweight, dbias, w.in(dy), w.in(x), mean, rstd,
                            w.in(weight, x.cols), accumulate_dx, accumulate_dw);
}

void swiglu_forward(Stream& stream, Rows h, ConstRows gate_up) {
  Widened w;
  f32().swiglu_forward(stream, w.out(h, false), w.in(gate_up));
}
void swiglu_backward(Stream& stream, Rows d_gate_up, ConstRows dh, ConstRows gate_up) {
  Widened w;
  f32().swiglu_backward(stream, w.out(d_gate_up, false), w.in(dh), w.in(gate_up));
}
void gelu_forward(Stream& stream, Rows h, ConstRows x) {
  Widened w;
  f32().gelu_forward(stream, w.out(h, false), w.in(x));
}
void gelu_backward(Stream& stream, Rows dx, ConstRows dh, ConstRows x) {
  Widened w;
  f32().gelu_backward(stream, w.out(dx, false), w.in(dh), w.in(x));
}
void rope(Stream& stream, Rows x, const std::int32_t* position, std::int64_t head_dim, double theta,
          RopeDirection direction) {
  Widened w;
  f32().rope(stream, w.out(x, true), position, head_dim, theta, direction);
}

void attention_forward(Stream& stream, Rows out, Matrix<float> lse, const AttentionInputs<BF16>& in,
                       const AttentionShape& shape) {
  Widened w;
  f32().attention_forward(stream, w.out(out, false), lse, w.in(in), shape);
}
void attention_merge(Stream& stream, Matrix<float> out, Matrix<float> lse, ConstRows part_out,
                     Matrix<const float> part_lse) {
  Widened w;
  f32().attention_merge(stream, out, lse, w.in(part_out), part_lse);
}
void attention_backward(Stream& stream, const AttentionGradients<BF16>& grad, ConstRows dout, ConstRows out,
                        Matrix<const float> lse, const AttentionInputs<BF16>& in, const AttentionShape& shape) {
  Widened w;
  f32().attention_backward(stream,
                           {w.out(grad.dq, grad.dq_mode), w.out(grad.dk, false), w.out(grad.dv, false), grad.dq_mode},
                           w.in(dout), w.in(out), lse, w.in(in), shape);
}

void unpermute_weighted(Stream& stream, Rows out, ConstRows residual, ConstRows rows, Matrix<const std::int32_t> row,
                        Matrix<const float> weight) {
  Widened w;
  f32().unpermute_weighted(stream, w.out(out, false), w.in(residual), w.in(rows), row, weight);
}
void unpermute_weighted_backward(Stream& stream, const UnpermuteGradient<BF16>& grad, ConstRows dout, ConstRows rows,
                                 Matrix<const std::int32_t> row, Matrix<const float> weight) {
  Widened w;
  f32().unpermute_weighted_backward(stream, {w.out(grad.d_rows, true), grad.d_weight, grad.d_row}, w.in(dout),
                                    w.in(rows), row, weight);
}
void permute_backward(Stream& stream, Rows dx, ConstRows d_rows, Matrix<const std::int32_t> row,
                      Accumulate accumulate) {
  Widened w;
  f32().permute_backward(stream, w.out(dx, accumulate), w.in(d_rows), row, accumulate);
}
void slots_scatter(Stream& stream, Rows out, ConstRows rows, const SlotRows& slots, Matrix<const float> weight) {
  Widened w;
  f32().slots_scatter(stream, w.out(out, true), w.in(rows), slots, weight);
}
void slots_scatter_backward(Stream& stream, const SlotsGradient<BF16>& grad, ConstRows dout, ConstRows rows,
                            const SlotRows& slots, Matrix<const float> weight) {
  Widened w;
  f32().slots_scatter_backward(stream, {w.out(grad.d_rows, true), grad.d_weight, grad.d_row}, w.in(dout), w.in(rows),
                               slots, weight);
}
void slots_gather_backward(Stream& stream, Rows dx, ConstRows d_rows, const SlotRows& slots) {
  Widened w;
  f32().slots_gather_backward(stream, w.out(dx, true), w.in(d_rows), slots);
}
void embedding_forward(Stream& stream, Rows x, ConstRows token_table, const std::int32_t* token,
                       ConstRows position_table, const std::int32_t* position) {
  Widened w;
  f32().embedding_forward(stream, w.out(x, false), w.in(token_table), token, w.in(position_table), position);
}
void embedding_backward(Stream& stream, Matrix<float> d_table, const std::int32_t* id, ConstRows dx,
                        Accumulate accumulate) {
  Widened w;
  f32().embedding_backward(stream, d_table, id, w.in(dx), accumulate);
}
void cross_entropy(Stream& stream, double* loss, Rows logits, const std::int32_t* target, const double* grad_scale) {
  Widened w;
  f32().cross_entropy(stream, loss, grad_scale != nullptr ? w.out(logits, true) : w.copy(logits), target, grad_scale);
}

void sum_rows(Stream& stream, float* out, ConstRows x, Accumulate accumulate) {
  Widened w;
  f32().sum_rows(stream, out, w.in(x), accumulate);
}
void axpy(Stream&, BF16* y, const BF16* x, std::int64_t n, float alpha) {
  for (std::int64_t i = 0; i < n; ++i) y[i] = y[i] + alpha * x[i];
}
void copy_rows(Stream&, Rows y, ConstRows x, Accumulate accumulate) {
  for (std::int64_t i = 0; i < y.rows; ++i)
    for (std::int64_t j = 0; j < y.cols; ++j)
      y.row(i)[j] = accumulate == Accumulate::kAdd ? BF16(y.row(i)[j] + x.row(i)[j]) : x.row(i)[j];
}

/// y = x or y += x, element by element, one of them in F32.
template <class To, class From>
void convert(Stream&, Matrix<To> y, Matrix<const From> x, Accumulate accumulate) {
  for (std::int64_t i = 0; i < y.rows; ++i)
    for (std::int64_t j = 0; j < y.cols; ++j) {
      const float value = x.row(i)[j], before = accumulate == Accumulate::kAdd ? float(y.row(i)[j]) : 0.0F;
      y.row(i)[j] = before + value;
    }
}

}  // namespace

void add_bf16(Backend<BF16>& table) {
  table.gemm = gemm;
  table.gemm_group = gemm_group;
  table.gemm_group_wide = gemm_group_wide;
  table.linear_forward = linear_forward;
  table.linear_backward_input = linear_backward_input;
  table.linear_backward_weight = linear_backward_weight;
  table.linear_forward_wide = linear_forward_wide;
  table.linear_backward_input_wide = linear_backward_input_wide;
  table.linear_backward_weight_wide = linear_backward_weight_wide;
  table.grouped_linear_forward = grouped_linear_forward;
  table.grouped_linear_backward_input = grouped_linear_backward_input;
  table.grouped_linear_backward_weight = grouped_linear_backward_weight;
  table.rms_norm_forward = rms_norm_forward;
  table.rms_norm_backward = rms_norm_backward;
  table.layer_norm_forward = layer_norm_forward;
  table.layer_norm_backward = layer_norm_backward;
  table.swiglu_forward = swiglu_forward;
  table.swiglu_backward = swiglu_backward;
  table.gelu_forward = gelu_forward;
  table.gelu_backward = gelu_backward;
  table.rope = rope;
  table.attention_forward = attention_forward;
  table.attention_merge = attention_merge;
  table.attention_backward = attention_backward;
  table.unpermute_weighted = unpermute_weighted;
  table.unpermute_weighted_backward = unpermute_weighted_backward;
  table.permute_backward = permute_backward;
  table.slots_scatter = slots_scatter;
  table.slots_scatter_backward = slots_scatter_backward;
  table.slots_gather_backward = slots_gather_backward;
  table.embedding_forward = embedding_forward;
  table.embedding_backward = embedding_backward;
  table.cross_entropy = cross_entropy;
  table.sum_rows = sum_rows;
  table.axpy = axpy;
  table.copy_rows = copy_rows;
  table.widen = convert<float, BF16>;
  table.narrow = convert<BF16, float>;
}

}  // namespace weft::kernels::cpu
