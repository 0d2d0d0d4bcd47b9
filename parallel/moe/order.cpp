#include "parallel/moe/order.h"

#include <algorithm>
#include <vector>

#include "kernels/gemm.h"
#include "kernels/permute.h"
#include "kernels/reduce.h"
#include "kernels/slots.h"

namespace weft::parallel {
namespace {

using kernels::Accumulate;
using kernels::Transpose;

template <class U, class T>
Matrix<U> range(Matrix<U> m, const RoutingView<T>& view) {
  return m.row_range(view.begin, view.end - view.begin);
}

// ---- Lists: rows are copies of tokens -----------------------------------------------------------------------------

template <class T>
class TokenOrder final : public Order<T> {
 public:
  void forward(Stream& stream, const RoutingView<T>& view, Matrix<T> rows, Matrix<const T> x) const override {
    kernels::gather_rows<T>(stream, rows, x, view.token);
  }
  void backward(Stream& stream, const RoutingView<T>& view, Matrix<T> dx, Matrix<const T> d_rows, Matrix<const T>,
                Matrix<Wide<T>>) const override {
    kernels::permute_backward<T>(stream, range(dx, view), d_rows, range(view.row, view), Accumulate::kAdd);
  }
};

template <class T>
class TokenIOrder final : public IOrder<T> {
 public:
  void forward(Stream& stream, const RoutingView<T>& view, Matrix<T> out, Matrix<const T> residual,
               Matrix<const T> rows) const override {
    kernels::unpermute_weighted<T>(stream, range(out, view), range(residual, view), rows, range(view.row, view),
                                   range(view.weight, view));
  }
  void backward(Stream& stream, const RoutingView<T>& view, const IOrderGradient<T>& grad, Matrix<const T> dout,
                Matrix<const T> rows) const override {
    kernels::unpermute_weighted_backward<T>(stream, {grad.d_rows, range(grad.d_weight, view), range(grad.d_row, view)},
                                            range(dout, view), rows, range(view.row, view), range(view.weight, view));
  }
};

template <class T>
kernels::SlotRows slot_rows(const RoutingView<T>& view) {
  return {range(view.row, view), range(view.source, view)};
}

template <class T>
class SlotOrder final : public Order<T> {
 public:
  void forward(Stream& stream, const RoutingView<T>& view, Matrix<T> rows, Matrix<const T> x) const override {
    kernels::gather_rows<T>(stream, rows, x, view.token);
  }
  void backward(Stream& stream, const RoutingView<T>& view, Matrix<T> dx, Matrix<const T> d_rows, Matrix<const T>,
                Matrix<Wide<T>>) const override {
    kernels::slots_gather_backward<T>(stream, dx, d_rows, slot_rows(view));
  }
};

template <class T>
class SlotIOrder final : public IOrder<T> {
 public:
  void forward(Stream& stream, const RoutingView<T>& view, Matrix<T> out, Matrix<const T> residual,
               Matrix<const T> rows) const override {
    if (view.first) kernels::copy<T>(stream, out.data, residual.data, out.rows * out.cols);
    kernels::slots_scatter<T>(stream, out, rows, slot_rows(view), range(view.weight, view));
  }
  void backward(Stream& stream, const RoutingView<T>& view, const IOrderGradient<T>& grad, Matrix<const T> dout,
                Matrix<const T> rows) const override {
    kernels::slots_scatter_backward<T>(stream, {grad.d_rows, range(grad.d_weight, view), range(grad.d_row, view)}, dout,
                                       rows, slot_rows(view), range(view.weight, view));
  }
};

// ---- Slots that are mixtures --------------------------------------------------------------------------------------

/// The slots of one expert and one routing group inside a view: `count` of them from slot d of the table on, which are
/// rows from `row` on of the chunk, columns from `column` on of the matrices, and mix `tokens` tokens from `token` on.
struct SlotBlock {
  std::int64_t d = 0, e = 0, count = 0, row = 0, column = 0, token = 0, tokens = 0;
};

/// Where slot d of expert e stands in a chunk: every slot has a row, and rows are sorted by (expert, slot).
std::int64_t slot_row(const ChunkRange& chunk, std::int64_t d, std::int64_t e) {
  return e * chunk.rows + d - chunk.begin;
}

/// The blocks of expert e, one for each routing group: no two of them share a token.
template <class T>
void add_blocks(std::vector<SlotBlock>& blocks, const RoutingView<T>& view, std::int64_t e) {
  const std::int64_t slots = view.shape.group_rows;
  for (std::int64_t d = view.begin; d < view.end;) {
    const std::int64_t group = d / slots, slot = d % slots, count = std::min(view.end - d, slots - slot);
    blocks.push_back(
        {d, e, count, slot_row(view.chunk, d, e), e * slots + slot, group * view.group_rows, view.group_rows});
    d += count;
  }
}
template <class T>
std::vector<SlotBlock> blocks_of(const RoutingView<T>& view, std::int64_t e) {
  std::vector<SlotBlock> out;
  add_blocks(out, view, e);
  return out;
}
template <class T>
std::vector<SlotBlock> all_blocks(const RoutingView<T>& view) {
  std::vector<SlotBlock> out;
  for (std::int64_t e = 0; e < view.shape.width; ++e) add_blocks(out, view, e);
  return out;
}

template <class U>
Matrix<U> of_block(Matrix<U> weights, const SlotBlock& b) {
  return weights.row_range(b.token, b.tokens).col_range(b.column, b.count);
}
template <class U>
Matrix<U> tokens_of(Matrix<U> x, const SlotBlock& b) {
  return x.row_range(b.token, b.tokens);
}

/// One product for each block, all in one call.
template <class T, class Out, class Make>
void multiply(Stream& stream, const std::vector<SlotBlock>& blocks, Transpose trans_a, Transpose trans_b,
              Accumulate accumulate, const Make& make) {
  std::vector<kernels::GemmProduct<T, Out>> products;
  products.reserve(blocks.size());
  for (const SlotBlock& b : blocks) products.push_back(make(b));
  kernels::gemm_group<T, Out>(stream, products, trans_a, trans_b, accumulate);
}

/// x[tokens] += weights * rows, expert by expert: the slots of several experts take part in one token.
template <class T>
void add_slots(Stream& stream, const RoutingView<T>& view, Matrix<T> x, Matrix<const T> weights, Matrix<const T> rows) {
  for (std::int64_t e = 0; e < view.shape.width; ++e)
    multiply<T, T>(
        stream, blocks_of(view, e), Transpose::kNo, Transpose::kNo, Accumulate::kAdd, [&](const SlotBlock& b) {
          return kernels::GemmProduct<T>{tokens_of(x, b), of_block(weights, b), rows.row_range(b.row, b.count)};
        });
}
/// d_weights = x[tokens] rows^T.
template <class T>
void slot_weight_gradient(Stream& stream, const RoutingView<T>& view, Matrix<Wide<T>> d_weights, Matrix<const T> x,
                          Matrix<const T> rows) {
  multiply<T, Wide<T>>(stream, all_blocks(view), Transpose::kNo, Transpose::kYes, Accumulate::kOverwrite,
                       [&](const SlotBlock& b) {
                         return kernels::GemmProduct<T, Wide<T>>{of_block(d_weights, b), tokens_of(x, b),
                                                                 rows.row_range(b.row, b.count)};
                       });
}

template <class T>
class MixOrder final : public Order<T> {
 public:
  void forward(Stream& stream, const RoutingView<T>& view, Matrix<T> rows, Matrix<const T> x) const override {
    multiply<T, T>(
        stream, all_blocks(view), Transpose::kYes, Transpose::kNo, Accumulate::kOverwrite, [&](const SlotBlock& b) {
          return kernels::GemmProduct<T>{rows.row_range(b.row, b.count), of_block(view.mix, b), tokens_of(x, b)};
        });
  }
  void backward(Stream& stream, const RoutingView<T>& view, Matrix<T> dx, Matrix<const T> d_rows, Matrix<const T> x,
                Matrix<Wide<T>> d_mix) const override {
    if (view.first) kernels::fill<T>(stream, dx.data, dx.rows * dx.cols, Wide<T>(0));
    add_slots(stream, view, dx, view.mix, d_rows);
    slot_weight_gradient(stream, view, d_mix, x, d_rows);
  }
};

template <class T>
class MixIOrder final : public IOrder<T> {
 public:
  void forward(Stream& stream, const RoutingView<T>& view, Matrix<T> out, Matrix<const T> residual,
               Matrix<const T> rows) const override {
    if (view.first) kernels::copy<T>(stream, out.data, residual.data, out.rows * out.cols);
    add_slots(stream, view, out, view.combine, rows);
  }
  void backward(Stream& stream, const RoutingView<T>& view, const IOrderGradient<T>& grad, Matrix<const T> dout,
                Matrix<const T> rows) const override {
    multiply<T, T>(stream, all_blocks(view), Transpose::kYes, Transpose::kNo, Accumulate::kOverwrite,
                   [&](const SlotBlock& b) {
                     return kernels::GemmProduct<T>{grad.d_rows.row_range(slot_row(grad.d_chunk, b.d, b.e), b.count),
                                                    of_block(view.combine, b), tokens_of(dout, b)};
                   });
    slot_weight_gradient(stream, view, grad.d_weight, dout, rows);
  }
};

}  // namespace

template <class T>
std::unique_ptr<Order<T>> make_order(RoutingForm form) {
  if (form == RoutingForm::kTokenList) return std::make_unique<TokenOrder<T>>();
  if (form == RoutingForm::kSlotList) return std::make_unique<SlotOrder<T>>();
  return std::make_unique<MixOrder<T>>();
}

template <class T>
std::unique_ptr<IOrder<T>> make_i_order(RoutingForm form) {
  if (form == RoutingForm::kTokenList) return std::make_unique<TokenIOrder<T>>();
  if (form == RoutingForm::kSlotList) return std::make_unique<SlotIOrder<T>>();
  return std::make_unique<MixIOrder<T>>();
}

template std::unique_ptr<Order<float>> make_order<float>(RoutingForm);
template std::unique_ptr<Order<double>> make_order<double>(RoutingForm);
template std::unique_ptr<Order<BF16>> make_order<BF16>(RoutingForm);
template std::unique_ptr<IOrder<float>> make_i_order<float>(RoutingForm);
template std::unique_ptr<IOrder<double>> make_i_order<double>(RoutingForm);
template std::unique_ptr<IOrder<BF16>> make_i_order<BF16>(RoutingForm);

}  // namespace weft::parallel
