#include "parallel/step/ends.h"

#include <algorithm>

#include "kernels/cross_entropy.h"
#include "kernels/embedding.h"
#include "kernels/gemm.h"
#include "kernels/reduce.h"

namespace weft::parallel {

using kernels::Accumulate;

template <class T>
Embedding<T>::Embedding(const StepContext<T>& ctx)
    : ctx_(ctx), tokens_(ctx.parameter("embed.tokens.weight")), positions_(ctx.parameter("embed.positions.weight")) {}

template <class T>
BufferId Embedding<T>::forward(const Unit& unit) const {
  const std::int64_t rows = unit.rows, width = ctx_.width();
  const Runtime<T>* runtime = ctx_.runtime;
  const ModelConfig& model = ctx_.model;
  const BufferId out = ctx_.buffer("residual", rows * width);
  ctx_.out.task(compute_task(Stage::kEmbedding, Phase::kForward, "", scheduler::kNoId, unit, WorkKind::kMemory,
                             2.0 * static_cast<double>(rows * width) * sizeof(T)),
                {ctx_.weights(ctx_.table.embedding_bucket())}, {out},
                [=, &model, tokens = tokens_, positions = positions_](TaskContext& c) {
                  const MicroBatch& batch = runtime->state->inputs[static_cast<std::size_t>(unit.micro_batch)];
                  kernels::embedding_forward<T>(
                      c.stream, {c.arena.get<T>(out), rows, width},
                      Matrix<const T>(tokens.weight, model.vocab_size, width), batch.tokens + unit.first_row,
                      Matrix<const T>(positions.weight, model.max_positions, width), batch.positions + unit.first_row);
                });
  return out;
}

template <class T>
void Embedding<T>::backward(const Unit& unit, BufferId d) const {
  const std::int64_t rows = unit.rows, width = ctx_.width();
  const Runtime<T>* runtime = ctx_.runtime;
  const ModelConfig& model = ctx_.model;
  const Accumulate first = accumulate_after_first(unit);
  const Accumulate tokens_mode = model.tie_embeddings ? Accumulate::kAdd : first;  // tied: the head has written already
  ctx_.out.task(compute_task(Stage::kEmbedding, Phase::kBackward, "", scheduler::kNoId, unit, WorkKind::kMemory,
                             3.0 * static_cast<double>(rows * width) * sizeof(T)),
                {d}, {ctx_.gradients(ctx_.table.embedding_bucket(), GradientPart::kWhole)},
                [=, &model, tokens = tokens_, positions = positions_](TaskContext& c) {
                  const MicroBatch& batch = runtime->state->inputs[static_cast<std::size_t>(unit.micro_batch)];
                  const Matrix<const T> dx(c.arena.get<T>(d), rows, width);
                  kernels::embedding_backward<T>(c.stream, {tokens.grad, model.vocab_size, width},
                                                 batch.tokens + unit.first_row, dx, tokens_mode);
                  if (positions.grad != nullptr)
                    kernels::embedding_backward<T>(c.stream, {positions.grad, model.max_positions, width},
                                                   batch.positions + unit.first_row, dx, first);
                });
}

template <class T>
LossHead<T>::LossHead(const StepContext<T>& ctx)
    : ctx_(ctx),
      norm_(ctx, "final_norm"),
      head_(ctx.parameter(ctx.model.tie_embeddings ? "embed.tokens.weight" : "lm_head.weight")) {}

template <class T>
std::int64_t LossHead<T>::block_rows(std::int64_t rows, std::int64_t vocab_size) {
  constexpr std::int64_t kElements = std::int64_t{4} << 20;
  return std::clamp<std::int64_t>(kElements / vocab_size, 1, std::max<std::int64_t>(rows, 1));
}

/// The pointers of one run of the loss task.
template <class T>
struct LossHead<T>::Block {
  Matrix<T> logits;          // [block, V]
  Matrix<const T> normed;    // [block, M]
  Matrix<T> d_normed;        // [block, M]
  Matrix<const T> weight;    // [V, M]
  Matrix<Wide<T>> d_weight;  // [V, M]
  const std::int32_t* target;

  double* loss;      // [block]
  double* loss_sum;  // [1], of the unit

  /// The block's losses and their part of the sum; with `scale`, also d_normed and d_weight. first: the unit's.
  void run(Stream& stream, const double* scale, Accumulate accumulate, bool first) const {
    kernels::cross_entropy<T>(stream, loss, logits, target, scale);
    if (scale != nullptr) {
      kernels::linear_backward_input<T>(stream, d_normed, logits, weight, Accumulate::kOverwrite);
      kernels::linear_backward_weight<T>(stream, d_weight, nullptr, logits, normed, accumulate);
    }
    kernels::sum_rows<double>(stream, loss_sum, Matrix<const double>(loss, logits.rows, 1),
                              first ? Accumulate::kOverwrite : Accumulate::kAdd);
  }
};

template <class T>
BufferId LossHead<T>::emit(const Unit& unit, BufferId x) const {
  const std::int64_t rows = unit.rows, width = ctx_.width(), vocab = ctx_.model.vocab_size;
  const std::int64_t block = block_rows(rows, vocab);
  const bool training = ctx_.training();
  const Runtime<T>* runtime = ctx_.runtime;
  const BufferId normed = ctx_.buffer("final norm", rows * width), logits = ctx_.buffer("logits block", block * vocab);
  const BufferId loss = ctx_.template buffer<double>("losses of a block", block, MemoryClass::kWorkspace);
  const BufferId statistics = ctx_.template buffer<Wide<T>>("final norm statistics", norm_.statistics_count(rows));
  const BufferId d_normed = training ? ctx_.buffer("d final norm", rows * width) : kNoBuffer;
  const BufferId d = training ? ctx_.buffer("d residual", rows * width) : kNoBuffer;
  const int head = ctx_.table.head_bucket(), embedding = ctx_.table.embedding_bucket();
  BufferList writes{normed, logits, loss, statistics, d_normed, d, ctx_.gradients(head, GradientPart::kWhole)};
  if (ctx_.model.tie_embeddings) writes.add(ctx_.gradients(embedding, GradientPart::kWhole));
  const Accumulate first = accumulate_after_first(unit);
  const std::int64_t first_row =
      std::int64_t{unit.micro_batch} * ctx_.spec.geometry.micro_batch * ctx_.rows_per_sequence() + unit.first_row;

  ctx_.out.task(
      compute_task(Stage::kLoss, training ? Phase::kBackward : Phase::kForward, "", scheduler::kNoId, unit,
                   WorkKind::kGemm, (training ? 6.0 : 2.0) * double(rows * width * vocab)),
      {x, ctx_.weights(head), ctx_.weights(embedding)}, writes, [=, norm = norm_, w = head_](TaskContext& c) {
        const StepState& state = *runtime->state;
        const Matrix<const T> in(c.arena.get<T>(x), rows, width), weight(w.weight, vocab, width);
        const Matrix<T> n(c.arena.get<T>(normed), rows, width);
        const Matrix<T> dn(training ? c.arena.get<T>(d_normed) : nullptr, rows, width);
        norm.forward(c.stream, n, c.arena.get<Wide<T>>(statistics), in);
        const std::int32_t* target = state.inputs[static_cast<std::size_t>(unit.micro_batch)].targets + unit.first_row;
        for (std::int64_t at = 0; at < rows; at += block) {
          const std::int64_t count = std::min(block, rows - at);
          const Matrix<T> z(c.arena.get<T>(logits), count, vocab);
          kernels::linear_forward<T>(c.stream, z, n.row_range(at, count), weight);
          if (runtime->capture != nullptr && runtime->capture->logits.data != nullptr)
            copy_bytes(c.stream, runtime->capture->logits.row(first_row + at), z.data,
                       count * vocab * std::int64_t{sizeof(T)});
          const Block b{z,
                        n.row_range(at, count),
                        training ? dn.row_range(at, count) : Matrix<T>(),
                        weight,
                        {w.grad, vocab, width},
                        target + at,
                        c.arena.get<double>(loss),
                        state.statistics.loss_sum(unit.index)};
          b.run(c.stream, training ? state.scalars.grad_scale() : nullptr, at == 0 ? first : Accumulate::kAdd, at == 0);
        }
        if (!training) return;
        const Matrix<T> dx(c.arena.get<T>(d), rows, width);
        kernels::fill<T>(c.stream, dx.data, rows * width, Wide<T>(0));
        norm.backward(c.stream, dx, dn, in, c.arena.get<Wide<T>>(statistics), first);
      });
  return d;
}

template class Embedding<float>;
template class Embedding<double>;
template class Embedding<BF16>;
template class LossHead<float>;
template class LossHead<double>;
template class LossHead<BF16>;

}  // namespace weft::parallel
