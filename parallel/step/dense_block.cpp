#include "parallel/step/dense_block.h"

#include "core/error.h"
#include "kernels/gemm.h"
#include "kernels/reduce.h"
#include "parallel/step/feed_forward.h"

namespace weft::parallel {

using kernels::Accumulate;

template <class T>
DenseBlock<T>::DenseBlock(const StepContext<T>& ctx, int layer)
    : ctx_(ctx),
      layer_(layer),
      bucket_(ctx.table.dense_bucket(layer)),
      hidden_width_(ctx.model.dense_width()),
      pre_width_(is_gated(ctx.model.family) ? 2 * hidden_width_ : hidden_width_),
      norm_(ctx, str("layers.", layer, ".ffn_norm")) {
  const std::string prefix = str("layers.", layer, ".ffn.");
  pre_ = ctx.parameter(prefix + (is_gated(ctx.model.family) ? "gate.weight" : "up.weight"));  // up follows gate
  pre_bias_ = ctx.parameter(prefix + "up.bias");
  down_ = ctx.parameter(prefix + "down.weight");
  down_bias_ = ctx.parameter(prefix + "down.bias");
}

template <class T>
BufferId DenseBlock<T>::forward(const Unit& unit, Phase phase, BufferId x, DenseSaved& saved) const {
  const std::int64_t rows = unit.rows, width = ctx_.width(), hidden = hidden_width_, pre = pre_width_;
  saved.x = x;
  saved.normed = ctx_.buffer("ffn norm", rows * width);
  saved.statistics = ctx_.template buffer<Wide<T>>("ffn norm statistics", norm_.statistics_count(rows));
  saved.pre = ctx_.buffer("ffn pre-activation", rows * pre);
  saved.hidden = ctx_.buffer("ffn hidden", rows * hidden);
  const BufferId out = ctx_.buffer("residual", rows * width);
  ctx_.out.task(compute_task(Stage::kDenseFfn, phase, "ffn", layer_, unit, WorkKind::kGemm,
                             2.0 * static_cast<double>(rows * width * (pre + hidden))),
                {x, ctx_.weights(bucket_)}, {saved.normed, saved.statistics, saved.pre, saved.hidden, out},
                [=, s = saved, norm = norm_, w = pre_, wb = pre_bias_, v = down_, vb = down_bias_,
                 family = ctx_.model.family](TaskContext& c) {
                  const Matrix<T> normed(c.arena.get<T>(s.normed), rows, width), y(c.arena.get<T>(out), rows, width);
                  const Matrix<T> mid(c.arena.get<T>(s.pre), rows, pre), h(c.arena.get<T>(s.hidden), rows, hidden);
                  norm.forward(c.stream, normed, c.arena.get<Wide<T>>(s.statistics),
                               Matrix<const T>(c.arena.get<T>(x), rows, width));
                  kernels::linear_forward<T>(c.stream, mid, normed, Matrix<const T>(w.weight, pre, width), wb.weight);
                  activation_forward<T>(c.stream, family, h, mid);
                  kernels::linear_forward<T>(c.stream, y, h, Matrix<const T>(v.weight, width, hidden), vb.weight);
                  kernels::axpy<T>(c.stream, y.data, c.arena.get<T>(x), rows * width, Wide<T>(1));
                });
  if (ctx_.shape.layers[layer_].recompute != scheduler::Recompute::kNone && phase == Phase::kForward)
    saved.normed = saved.hidden = kNoBuffer;
  return out;
}

template <class T>
void DenseBlock<T>::backward(const Unit& unit, const DenseSaved& saved_in, BufferId d) const {
  DenseSaved s = saved_in;
  const std::int64_t rows = unit.rows, width = ctx_.width(), hidden = hidden_width_, pre = pre_width_;
  const Accumulate accumulate = accumulate_after_first(unit);
  const bool again = s.normed == kNoBuffer;
  if (again) {
    s.normed = ctx_.buffer("ffn norm", rows * width);
    s.hidden = ctx_.buffer("ffn hidden", rows * hidden);
  }
  const BufferId d_hidden = ctx_.buffer("d ffn hidden", rows * hidden), d_pre = ctx_.buffer("d ffn pre", rows * pre);
  const BufferId d_normed = ctx_.buffer("d ffn norm", rows * width);
  BufferList reads{s.x, s.pre, s.statistics, ctx_.weights(bucket_)};
  BufferList writes{d, d_hidden, d_pre, d_normed, ctx_.gradients(bucket_, GradientPart::kFeedForward)};
  (again ? writes : reads).add(s.normed);
  (again ? writes : reads).add(s.hidden);
  ctx_.out.task(compute_task(Stage::kDenseFfn, Phase::kBackward, "ffn", layer_, unit, WorkKind::kGemm,
                             4.0 * static_cast<double>(rows * width * (pre + hidden))),
                reads, writes,
                [=, norm = norm_, w = pre_, wb = pre_bias_, v = down_, vb = down_bias_,
                 family = ctx_.model.family](TaskContext& c) {
                  const Matrix<const T> x(c.arena.get<T>(s.x), rows, width), dy(c.arena.get<T>(d), rows, width);
                  const Matrix<T> normed(c.arena.get<T>(s.normed), rows, width),
                      h(c.arena.get<T>(s.hidden), rows, hidden);
                  const Matrix<T> mid(c.arena.get<T>(s.pre), rows, pre), dh(c.arena.get<T>(d_hidden), rows, hidden);
                  const Matrix<T> dmid(c.arena.get<T>(d_pre), rows, pre), dn(c.arena.get<T>(d_normed), rows, width);
                  if (again) {
                    norm.forward(c.stream, normed, c.arena.get<Wide<T>>(s.statistics), x);
                    activation_forward<T>(c.stream, family, h, mid);
                  }
                  const Matrix<const T> down(v.weight, width, hidden), up(w.weight, pre, width);
                  kernels::linear_backward_input<T>(c.stream, dh, dy, down, Accumulate::kOverwrite);
                  kernels::linear_backward_weight<T>(c.stream, {v.grad, width, hidden}, vb.grad, dy, h, accumulate);
                  activation_backward<T>(c.stream, family, dmid, dh, mid);
                  kernels::linear_backward_input<T>(c.stream, dn, dmid, up, Accumulate::kOverwrite);
                  kernels::linear_backward_weight<T>(c.stream, {w.grad, pre, width}, wb.grad, dmid, normed, accumulate);
                  norm.backward(c.stream, {c.arena.get<T>(d), rows, width}, dn, x, c.arena.get<Wide<T>>(s.statistics),
                                accumulate);
                });
}

template class DenseBlock<float>;
template class DenseBlock<double>;
template class DenseBlock<BF16>;

}  // namespace weft::parallel
