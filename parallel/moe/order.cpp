#include "parallel/moe/order.h"

#include <algorithm>

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

/// The slots of one expert and one routing group inside a view: rows [row, row + count) of the chunk, columns
/// [column, column + count) of the matrices, tokens [token, token + tokens).
struct SlotBlock {
  std::int64_t row = 0, count = 0, column = 0, token = 0, tokens = 0;
};

/// Where slot d of expert e stands in a chunk: every slot has a row, and rows are sorted by (expert, slot).
std::int64_t slot_row(const ChunkRange& chunk, std::int64_t d, std::int64_t e) {
  return e * chunk.rows + d - chunk.begin;
}

template <class T, class F>
void for_each_block(const RoutingView<T>& view, const F& visit) {
  const std::int64_t slots = view.shape.group_rows;
  for (std::int64_t d = view.begin; d < view.end;) {
    const std::int64_t group = d / slots, slot = d % slots, count = std::min(view.end - d, slots - slot);
    for (std::int64_t e = 0; e < view.shape.width; ++e)
      visit(d, e,
            SlotBlock{slot_row(view.chunk, d, e), count, e * slots + slot, group * view.group_rows, view.group_rows});
    d += count;
  }
}

template <class U>
Matrix<U> of_block(Matrix<U> weights, const SlotBlock& b) {
  return weights.row_range(b.token, b.tokens).col_range(b.column, b.count);
}

template <class T>
class MixOrder final : public Order<T> {
 public:
  void forward(Stream& stream, const RoutingView<T>& view, Matrix<T> rows, Matrix<const T> x) const override {
    for_each_block(view, [&](std::int64_t, std::int64_t, const SlotBlock& b) {
      kernels::gemm<T>(stream, rows.row_range(b.row, b.count), of_block(view.mix, b), Transpose::kYes,
                       x.row_range(b.token, b.tokens), Transpose::kNo);
    });
  }
  void backward(Stream& stream, const RoutingView<T>& view, Matrix<T> dx, Matrix<const T> d_rows, Matrix<const T> x,
                Matrix<Wide<T>> d_mix) const override {
    if (view.first) kernels::fill<T>(stream, dx.data, dx.rows * dx.cols, Wide<T>(0));
    for_each_block(view, [&](std::int64_t, std::int64_t, const SlotBlock& b) {
      const Matrix<const T> d = d_rows.row_range(b.row, b.count);
      kernels::gemm<T>(stream, dx.row_range(b.token, b.tokens), of_block(view.mix, b), Transpose::kNo, d,
                       Transpose::kNo, Wide<T>(1), Accumulate::kAdd);
      kernels::linear_forward_wide<T>(stream, of_block(d_mix, b), x.row_range(b.token, b.tokens), d);
    });
  }
};

template <class T>
class MixIOrder final : public IOrder<T> {
 public:
  void forward(Stream& stream, const RoutingView<T>& view, Matrix<T> out, Matrix<const T> residual,
               Matrix<const T> rows) const override {
    if (view.first) kernels::copy<T>(stream, out.data, residual.data, out.rows * out.cols);
    for_each_block(view, [&](std::int64_t, std::int64_t, const SlotBlock& b) {
      kernels::gemm<T>(stream, out.row_range(b.token, b.tokens), of_block(view.combine, b), Transpose::kNo,
                       rows.row_range(b.row, b.count), Transpose::kNo, Wide<T>(1), Accumulate::kAdd);
    });
  }
  void backward(Stream& stream, const RoutingView<T>& view, const IOrderGradient<T>& grad, Matrix<const T> dout,
                Matrix<const T> rows) const override {
    for_each_block(view, [&](std::int64_t d, std::int64_t e, const SlotBlock& b) {
      const Matrix<const T> dy = dout.row_range(b.token, b.tokens);
      kernels::gemm<T>(stream, grad.d_rows.row_range(slot_row(grad.d_chunk, d, e), b.count), of_block(view.combine, b),
                       Transpose::kYes, dy, Transpose::kNo);
      kernels::linear_forward_wide<T>(stream, of_block(grad.d_weight, b), dy, rows.row_range(b.row, b.count));
    });
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
