#include "parallel/step/attention_block.h"

#include <cmath>

#include "core/error.h"
#include "kernels/attention.h"
#include "kernels/gemm.h"
#include "kernels/reduce.h"
#include "kernels/rope.h"

namespace weft::parallel {
namespace {

using kernels::RopeDirection;

kernels::AttentionShape attention_shape(const ModelConfig& model) {
  return {model.heads, model.kv_heads, model.head_width(), 1.0 / std::sqrt(static_cast<double>(model.head_width()))};
}

/// Causal pairs are half of all: (S + 1) / 2 keys per query on average; 4 FLOPs per pair, head and channel.
double core_flops(const ModelConfig& model, std::int64_t rows, std::int64_t sequence_length) {
  return 4.0 * static_cast<double>(rows) * (static_cast<double>(sequence_length) + 1.0) / 2.0 * model.heads *
         model.head_width();
}

template <class T>
kernels::AttentionInputs<T> attention_inputs(Matrix<const T> qkv, const ModelConfig& model, const MicroBatch& batch,
                                             std::int64_t first_row) {
  const std::int64_t q = std::int64_t{model.heads} * model.head_width();
  const std::int64_t kv = std::int64_t{model.kv_heads} * model.head_width();
  const kernels::AttentionRows rows{batch.segments + first_row, batch.positions + first_row};
  return {qkv.col_range(0, q), qkv.col_range(q, kv), qkv.col_range(q + kv, kv), rows, rows};
}

}  // namespace

template <class T>
AttentionBlock<T>::AttentionBlock(const StepContext<T>& ctx, int layer)
    : ctx_(ctx),
      layer_(layer),
      bucket_(ctx.table.dense_bucket(layer)),
      q_width_(std::int64_t{ctx.model.heads} * ctx.model.head_width()),
      kv_width_(std::int64_t{ctx.model.kv_heads} * ctx.model.head_width()),
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
                  norm.forward(c.stream, {c.arena.get<T>(normed), rows, width}, c.arena.get<T>(statistics),
                               Matrix<const T>(c.arena.get<T>(x), rows, width));
                });
}

template <class T>
BufferId AttentionBlock<T>::forward(const Unit& unit, Phase phase, BufferId x, AttentionSaved& saved) const {
  const std::int64_t rows = unit.rows, width = ctx_.width(), q_width = q_width_, qkv_width = qkv_width_;
  const double row_flops = 2.0 * static_cast<double>(rows);
  saved.x = x;
  saved.normed = ctx_.buffer("attention norm", rows * width);
  saved.statistics = ctx_.buffer("attention norm statistics", norm_.statistics_count(rows));
  saved.qkv = ctx_.buffer("qkv", rows * qkv_width);
  saved.context = ctx_.buffer("attention context", rows * q_width);
  saved.lse = ctx_.buffer("attention lse", rows * ctx_.model.heads);
  const BufferId out = ctx_.buffer("residual", rows * width);
  emit_norm(unit, phase, x, saved.normed, saved.statistics);

  const Runtime<T>* runtime = ctx_.runtime;
  const ModelConfig& model = ctx_.model;
  ctx_.out.task(compute_task(Stage::kAttention, phase, "qkv", layer_, unit, WorkKind::kGemm,
                             row_flops * double(width * qkv_width)),
                {saved.normed, ctx_.weights(bucket_)}, {saved.qkv},
                [=, &model, s = saved, w = qkv_, b = qkv_bias_, rotated = q_width_ + kv_width_](TaskContext& c) {
                  const Matrix<T> qkv(c.arena.get<T>(s.qkv), rows, qkv_width);
                  kernels::linear_forward<T>(c.stream, qkv, Matrix<const T>(c.arena.get<T>(s.normed), rows, width),
                                             Matrix<const T>(w.weight, qkv_width, width), b.weight);
                  if (model.family == ModelFamily::kMixtral)
                    kernels::rope<T>(c.stream, qkv.col_range(0, rotated),
                                     runtime->state->batches[unit.micro_batch].positions + unit.first_row,
                                     model.head_width(), model.rope_theta, RopeDirection::kForward);
                });
  ctx_.out.task(compute_task(Stage::kAttention, phase, "core", layer_, unit, WorkKind::kAttention,
                             core_flops(model, rows, ctx_.sequence_length())),
                {saved.qkv}, {saved.context, saved.lse}, [=, &model, s = saved](TaskContext& c) {
                  const Matrix<const T> qkv(c.arena.get<T>(s.qkv), rows, qkv_width);
                  kernels::attention_forward<T>(
                      c.stream, {c.arena.get<T>(s.context), rows, q_width}, {c.arena.get<T>(s.lse), rows, model.heads},
                      attention_inputs<T>(qkv, model, runtime->state->batches[unit.micro_batch], unit.first_row),
                      attention_shape(model));
                });
  ctx_.out.task(compute_task(Stage::kAttention, phase, "projection", layer_, unit, WorkKind::kGemm,
                             row_flops * double(width * q_width)),
                {x, saved.context, ctx_.weights(bucket_)}, {out}, [=, s = saved, w = o_, b = o_bias_](TaskContext& c) {
                  const Matrix<T> y(c.arena.get<T>(out), rows, width);
                  kernels::linear_forward<T>(c.stream, y, Matrix<const T>(c.arena.get<T>(s.context), rows, q_width),
                                             Matrix<const T>(w.weight, width, q_width), b.weight);
                  kernels::axpy<T>(c.stream, y.data, c.arena.get<T>(x), rows * width, T(1));
                });
  if (ctx_.shape.layers[layer_].recompute != scheduler::Recompute::kNone && phase == Phase::kForward)
    saved.normed = kNoBuffer;
  return out;
}

template <class T>
void AttentionBlock<T>::emit_core_backward(const Unit& unit, const AttentionSaved& saved, BufferId d_context,
                                           BufferId d_qkv) const {
  const std::int64_t rows = unit.rows, q_width = q_width_, kv_width = kv_width_, qkv_width = qkv_width_;
  const Runtime<T>* runtime = ctx_.runtime;
  const ModelConfig& model = ctx_.model;
  ctx_.out.task(
      compute_task(Stage::kAttention, Phase::kBackward, "core", layer_, unit, WorkKind::kAttention,
                   2.5 * core_flops(model, rows, ctx_.sequence_length())),
      {d_context, saved.qkv, saved.context, saved.lse}, {d_qkv}, [=, &model, s = saved](TaskContext& c) {
        const MicroBatch& batch = runtime->state->batches[unit.micro_batch];
        const Matrix<T> d(c.arena.get<T>(d_qkv), rows, qkv_width);
        kernels::attention_backward<T>(
            c.stream,
            {d.col_range(0, q_width), d.col_range(q_width, kv_width), d.col_range(q_width + kv_width, kv_width)},
            Matrix<const T>(c.arena.get<T>(d_context), rows, q_width),
            Matrix<const T>(c.arena.get<T>(s.context), rows, q_width),
            Matrix<const T>(c.arena.get<T>(s.lse), rows, model.heads),
            attention_inputs<T>(Matrix<const T>(c.arena.get<T>(s.qkv), rows, qkv_width), model, batch, unit.first_row),
            attention_shape(model));
        if (model.family == ModelFamily::kMixtral)
          kernels::rope<T>(c.stream, d.col_range(0, q_width + kv_width), batch.positions + unit.first_row,
                           model.head_width(), model.rope_theta, RopeDirection::kBackward);
      });
}

template <class T>
void AttentionBlock<T>::backward(const Unit& unit, const AttentionSaved& saved_in, BufferId d) const {
  using kernels::Accumulate;
  AttentionSaved saved = saved_in;
  const std::int64_t rows = unit.rows, width = ctx_.width(), q_width = q_width_, qkv_width = qkv_width_;
  const double row_flops = 4.0 * static_cast<double>(rows);
  const Accumulate accumulate = accumulate_after_first(unit);
  const BufferId weights = ctx_.weights(bucket_), gradients = ctx_.gradients(bucket_, GradientPart::kAttention);
  const BufferId d_context = ctx_.buffer("d attention context", rows * q_width);
  const BufferId d_qkv = ctx_.buffer("d qkv", rows * qkv_width);
  const BufferId d_normed = ctx_.buffer("d attention norm", rows * width);
  if (saved.normed == kNoBuffer) {
    saved.normed = ctx_.buffer("attention norm", rows * width);
    emit_norm(unit, Phase::kBackward, saved.x, saved.normed, saved.statistics);
  }
  ctx_.out.task(compute_task(Stage::kAttention, Phase::kBackward, "projection", layer_, unit, WorkKind::kGemm,
                             row_flops * double(width * q_width)),
                {d, saved.context, weights}, {d_context, gradients}, [=, w = o_, b = o_bias_](TaskContext& c) {
                  const Matrix<const T> dy(c.arena.get<T>(d), rows, width);
                  kernels::linear_backward_input<T>(c.stream, {c.arena.get<T>(d_context), rows, q_width}, dy,
                                                    Matrix<const T>(w.weight, width, q_width), Accumulate::kOverwrite);
                  kernels::linear_backward_weight<T>(c.stream, {w.grad, width, q_width}, b.grad, dy,
                                                     Matrix<const T>(c.arena.get<T>(saved.context), rows, q_width),
                                                     accumulate);
                });
  emit_core_backward(unit, saved, d_context, d_qkv);
  ctx_.out.task(
      compute_task(Stage::kAttention, Phase::kBackward, "qkv", layer_, unit, WorkKind::kGemm,
                   row_flops * double(width * qkv_width)),
      {d_qkv, saved.normed, weights}, {d_normed, gradients}, [=, w = qkv_, b = qkv_bias_](TaskContext& c) {
        const Matrix<const T> dy(c.arena.get<T>(d_qkv), rows, qkv_width);
        kernels::linear_backward_input<T>(c.stream, {c.arena.get<T>(d_normed), rows, width}, dy,
                                          Matrix<const T>(w.weight, qkv_width, width), Accumulate::kOverwrite);
        kernels::linear_backward_weight<T>(c.stream, {w.grad, qkv_width, width}, b.grad, dy,
                                           Matrix<const T>(c.arena.get<T>(saved.normed), rows, width), accumulate);
      });
  ctx_.out.task(compute_task(Stage::kNorm, Phase::kBackward, "attention", layer_, unit, WorkKind::kMemory,
                             4.0 * static_cast<double>(rows * width) * sizeof(T)),
                {d_normed, saved.x, saved.statistics, weights}, {d, gradients}, [=, norm = norm_](TaskContext& c) {
                  norm.backward(c.stream, {c.arena.get<T>(d), rows, width},
                                Matrix<const T>(c.arena.get<T>(d_normed), rows, width),
                                Matrix<const T>(c.arena.get<T>(saved.x), rows, width), c.arena.get<T>(saved.statistics),
                                accumulate);
                });
}

template class AttentionBlock<float>;
template class AttentionBlock<double>;

}  // namespace weft::parallel
