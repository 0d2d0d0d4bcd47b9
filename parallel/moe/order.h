// parallel/moe/order.h - Order: from tokens to the rows that travel; I-Order: from the rows that came back to tokens.
// Interfaces with an implementation for each form of routing (parallel/moe/routing.h).
// Letters: T rows of a unit, M width, [D, K] the routing table, R rows of the chunk.
#pragma once

#include <memory>

#include "core/bf16.h"
#include "core/matrix.h"
#include "core/stream.h"
#include "parallel/moe/routing.h"

namespace weft::parallel {

/// A chunk's range of the routing table.
struct ChunkRange {
  std::int64_t begin = 0, rows = 0;
};

/// A range of the routing table, as one chunk has it. `row` and `token` say where rows stand in the chunk (send order).
template <class T>
struct RoutingView {
  TableShape shape;
  std::int64_t begin = 0, end = 0;      ///< Of the table's rows.
  ChunkRange chunk;                     ///< The chunk that `row` counts in; `begin` to `end` lies inside.
  Matrix<const std::int32_t> row;       ///< [D, K] row of each entry in its chunk; -1: does not travel.
  const std::int32_t* token = nullptr;  ///< [R] token of each row; not for kSlotMatrix.
  Matrix<const std::int32_t> source;    ///< [D, K] kSlotList: token of each entry.
  Matrix<const Wide<T>> weight;         ///< Lists: as kGateWeight.
  Matrix<const T> combine, mix;         ///< kSlotMatrix: as kGateWeight and kGateMix.
  std::int64_t group_rows = 1;          ///< Tokens of a routing group on this rank.
  bool first = true;                    ///< The unit's first chunk: prepares what all chunks add to.
};

template <class T>
class Order {
 public:
  virtual ~Order() = default;
  /// rows: [R, M] from x: [T, M].
  virtual void forward(Stream& stream, const RoutingView<T>& view, Matrix<T> rows, Matrix<const T> x) const = 0;
  /// dx += what d_rows says; kSlotMatrix: the first chunk sets dx to zero before, and d_mix is filled for the range.
  virtual void backward(Stream& stream, const RoutingView<T>& view, Matrix<T> dx, Matrix<const T> d_rows,
                        Matrix<const T> x, Matrix<Wide<T>> d_mix) const = 0;
};

/// What the backward of I-Order makes: the rows' gradients in the order of the backward chunk, and the weights'.
template <class T>
struct IOrderGradient {
  Matrix<T> d_rows;                  ///< [R', M]
  Matrix<Wide<T>> d_weight;          ///< As kGateWeight.
  Matrix<const std::int32_t> d_row;  ///< [D, K] row of each entry in the backward chunk.
  ChunkRange d_chunk;                ///< The backward chunk.
};

template <class T>
class IOrder {
 public:
  virtual ~IOrder() = default;
  /// out = residual + the weighted rows. Lists of tokens: of the range's tokens; slots: all chunks of a unit add to out
  /// in their order. out, residual: [T, M].
  virtual void forward(Stream& stream, const RoutingView<T>& view, Matrix<T> out, Matrix<const T> residual,
                       Matrix<const T> rows) const = 0;
  /// For the entries of view.begin to view.end, which lie in one forward chunk (`rows`, view.row) and one backward
  /// chunk.
  virtual void backward(Stream& stream, const RoutingView<T>& view, const IOrderGradient<T>& grad, Matrix<const T> dout,
                        Matrix<const T> rows) const = 0;
};

template <class T>
[[nodiscard]] std::unique_ptr<Order<T>> make_order(RoutingForm form);
template <class T>
[[nodiscard]] std::unique_ptr<IOrder<T>> make_i_order(RoutingForm form);

}  // namespace weft::parallel
