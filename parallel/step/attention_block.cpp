#include "parallel/step/attention_block.h"

#include "core/error.h"
#include "kernels/gemm.h"
#include "kernels/reduce.h"
#include "kernels/rope.h"

namespace weft::parallel {
using kernels::RopeDirection;

template <class T>
AttentionBlock<T>::AttentionBlock(const StepContext<T>& ctx, int layer)
    : ctx_(ctx),
      layer_(layer),
      bucket_(ctx.table.dense_bucket(layer)),
      q_width_(std::int64_t{ctx.model.heads} * ctx.model.head_width()),
      kv_width_(std::int64_t{ctx.model.kv_heads} * ctx.model.head_width()),
      core_(ctx, layer),
      norm_(ctx, str("layers.", layer, ".attention_norm")) {
  qkv_width_ = q_width_ + 2 * kv_width_;
  const std::string prefix = str("layers.", layer, ".attention.");
  qkv_ = ctx.parameter(prefix + "q.weight");  // k and v follow
  qkv_bias_ = ctx.parameter(prefix + "q.bias");
  o_ = ctx.parameter(prefix + "o.weight");
  o_bias_ = ctx.parameter(prefix + "o.bias");
}

template <class T>
void AttentionBlock<T>::emit_norm(const Unit& unit, Phase phase, BufferId x, BufferId normed,
                                  BufferId statistics) const {
  const std::int64_t rows = unit.rows, width = ctx_.width();
  ctx_.out.task(compute_task(Stage::kNorm, phase, "attention", layer_, unit, WorkKind::kMemory,
                             2.0 * static_cast<double>(rows * width) * sizeof(T)),
                {x, ctx_.weights(bucket_)}, {normed, statistics},
                [rows, width, x, normed, statistics, norm = norm_](TaskContext& c) {
                  norm.forward(c.stream, {c.arena.get<T>(normed), rows, width}, c.arena.get<Wide<T>>(statistics),
                               Matrix<const T>(c.arena.get<T>(x), rows, width));
                });
}

/// Queries and keys are rotated here, before any exchange: their rows' own positions are at hand.
template <class T>
BufferId AttentionBlock<T>::emit_qkv(const Unit& unit, Phase phase, BufferId normed) const {
  const std::int64_t rows = unit.rows, width = ctx_.width(), qkv_width = qkv_width_;
  const Runtime<T>* runtime = ctx_.runtime;
  const ModelConfig& model = ctx_.model;
  const BufferId out = ctx_.buffer("qkv", rows * qkv_width);
  ctx_.out.task(compute_task(Stage::kAttention, phase, "qkv", layer_, unit, WorkKind::kGemm,
                             2.0 * static_cast<double>(rows) * double(width * qkv_width)),
                {normed, ctx_.weights(bucket_)}, {out},
                [=, &model, w = qkv_, b = qkv_bias_, rotated = q_width_ + kv_width_](TaskContext& c) {
                  const Matrix<T> qkv(c.arena.get<T>(out), rows, qkv_width);
                  kernels::linear_forward<T>(c.stream, qkv, Matrix<const T>(c.arena.get<T>(normed), rows, width),
                                             Matrix<const T>(w.weight, qkv_width, width), b.weight);
                  if (model.family == ModelFamily::kMixtral)
                    kernels::rope<T>(c.stream, qkv.col_range(0, rotated),
                                     runtime->state->inputs[unit.micro_batch].positions + unit.first_row,
                                     model.head_width(), model.rope_theta, RopeDirection::kForward);
                });
  return out;
}

template <class T>
BufferId AttentionBlock<T>::forward(const Unit& unit, Phase phase, BufferId x, AttentionSaved& saved) const {
  const std::int64_t rows = unit.rows, width = ctx_.width(), q_width = q_width_;
  saved.x = x;
  saved.normed = ctx_.buffer("attention norm", rows * width);
  saved.statistics = ctx_.template buffer<Wide<T>>("attention norm statistics", norm_.statistics_count(rows));
  const BufferId out = ctx_.buffer("residual", rows * width);
  emit_norm(unit, phase, x, saved.normed, saved.statistics);
  saved.context = core_.forward(unit, phase, emit_qkv(unit, phase, saved.normed), saved.core);
  ctx_.out.task(compute_task(Stage::kAttention, phase, "projection", layer_, unit, WorkKind::kGemm,
                             2.0 * static_cast<double>(rows) * double(width * q_width)),
                {x, saved.context, ctx_.weights(bucket_)}, {out},
                [=, context = saved.context, w = o_, b = o_bias_](TaskContext& c) {
                  const Matrix<T> y(c.arena.get<T>(out), rows, width);
                  kernels::linear_forward<T>(c.stream, y, Matrix<const T>(c.arena.get<T>(context), rows, q_width),
                                             Matrix<const T>(w.weight, width, q_width), b.weight);
                  kernels::axpy<T>(c.stream, y.data, c.arena.get<T>(x), rows * width, Wide<T>(1));
                });
  if (ctx_.shape.layers[layer_].recompute != scheduler::Recompute::kNone && phase == Phase::kForward)
    saved.normed = kNoBuffer;
  return out;
}

template <class T>
void AttentionBlock<T>::emit_qkv_backward(const Unit& unit, const AttentionSaved& saved, BufferId d_qkv,
                                          BufferId d_normed) const {
  using kernels::Accumulate;
  const std::int64_t rows = unit.rows, width = ctx_.width(), qkv_width = qkv_width_;
  const Accumulate accumulate = accumulate_after_first(unit);
  const Runtime<T>* runtime = ctx_.runtime;
  const ModelConfig& model = ctx_.model;
  ctx_.out.task(
      compute_task(Stage::kAttention, Phase::kBackward, "qkv", layer_, unit, WorkKind::kGemm,
                   4.0 * static_cast<double>(rows) * double(width * qkv_width)),
      {saved.normed, ctx_.weights(bucket_)}, {d_qkv, d_normed, ctx_.gradients(bucket_, GradientPart::kAttention)},
      [=, &model, normed = saved.normed, w = qkv_, b = qkv_bias_, rotated = q_width_ + kv_width_](TaskContext& c) {
        const Matrix<T> dy(c.arena.get<T>(d_qkv), rows, qkv_width);
        if (model.family == ModelFamily::kMixtral)
          kernels::rope<T>(c.stream, dy.col_range(0, rotated),
                           runtime->state->inputs[unit.micro_batch].positions + unit.first_row, model.head_width(),
                           model.rope_theta, RopeDirection::kBackward);
        kernels::linear_backward_input<T>(c.stream, {c.arena.get<T>(d_normed), rows, width}, dy,
                                          Matrix<const T>(w.weight, qkv_width, width), Accumulate::kOverwrite);
        kernels::linear_backward_weight<T>(c.stream, {w.grad, qkv_width, width}, b.grad, dy,
                                           Matrix<const T>(c.arena.get<T>(normed), rows, width), accumulate);
      });
}

template <class T>
void AttentionBlock<T>::backward(const Unit& unit, const AttentionSaved& saved_in, BufferId d) const {
  using kernels::Accumulate;
  AttentionSaved saved = saved_in;
  const std::int64_t rows = unit.rows, width = ctx_.width(), q_width = q_width_;
  const double row_flops = 4.0 * static_cast<double>(rows);
  const Accumulate accumulate = accumulate_after_first(unit);
  const BufferId weights = ctx_.weights(bucket_), gradients = ctx_.gradients(bucket_, GradientPart::kAttention);
  const BufferId d_context = ctx_.buffer("d attention context", rows * q_width);
  const BufferId d_normed = ctx_.buffer("d attention norm", rows * width);
  if (saved.normed == kNoBuffer) {
    saved.normed = ctx_.buffer("attention norm", rows * width);
    emit_norm(unit, Phase::kBackward, saved.x, saved.normed, saved.statistics);
  }
  ctx_.out.task(compute_task(Stage::kAttention, Phase::kBackward, "projection", layer_, unit, WorkKind::kGemm,
                             row_flops * double(width * q_width)),
                {d, saved.context, weights}, {d_context, gradients},
                [=, context = saved.context, w = o_, b = o_bias_](TaskContext& c) {
                  const Matrix<const T> dy(c.arena.get<T>(d), rows, width);
                  kernels::linear_backward_input<T>(c.stream, {c.arena.get<T>(d_context), rows, q_width}, dy,
                                                    Matrix<const T>(w.weight, width, q_width), Accumulate::kOverwrite);
                  kernels::linear_backward_weight<T>(c.stream, {w.grad, width, q_width}, b.grad, dy,
                                                     Matrix<const T>(c.arena.get<T>(context), rows, q_width),
                                                     accumulate);
                });
  emit_qkv_backward(unit, saved, core_.backward(unit, saved.core, d_context), d_normed);
  ctx_.out.task(compute_task(Stage::kNorm, Phase::kBackward, "attention", layer_, unit, WorkKind::kMemory,
                             4.0 * static_cast<double>(rows * width) * sizeof(T)),
                {d_normed, saved.x, saved.statistics, weights}, {d, gradients}, [=, norm = norm_](TaskContext& c) {
                  norm.backward(c.stream, {c.arena.get<T>(d), rows, width},
                                Matrix<const T>(c.arena.get<T>(d_normed), rows, width),
                                Matrix<const T>(c.arena.get<T>(saved.x), rows, width),
                                c.arena.get<Wide<T>>(saved.statistics), accumulate);
                });
}

template class AttentionBlock<float>;
template class AttentionBlock<double>;
template class AttentionBlock<BF16>;

}  // namespace weft::parallel
