// parallel/moe/hooks.h - six places in a MoE layer where a run may look at the rows that pass, or change them.
// Source: FSMoE, arXiv:2501.10714, section 3.1.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <string_view>

#include "core/matrix.h"
#include "core/stream.h"

namespace weft::parallel {

/// Where, for each chunk, in this order. kBeforeMoeStart: the tokens, before Order (the gate has routed by them
/// already). kBeforeDispatch, kAfterDispatch: the rows on their tokens' and on their experts' ranks. kBeforeCombine,
/// kAfterCombine: the experts' outputs, there and back. kBeforeMoeEnd: the layer's output with the residual, behind
/// I-Order. In the backward the same places see gradients: kBeforeMoeStart that of the output, kBeforeMoeEnd that of
/// the input.
enum class HookPoint : std::uint8_t {
  kBeforeMoeStart,
  kBeforeDispatch,
  kAfterDispatch,
  kBeforeCombine,
  kAfterCombine,
  kBeforeMoeEnd
};
inline constexpr int kNumHookPoints = 6;
[[nodiscard]] std::string_view to_string(HookPoint point) noexcept;  ///< "before_moe_start", ...

template <class T>
struct HookCall {
  Stream& stream;
  HookPoint point;
  int layer = 0;
  int chunk = 0;
  bool gradient = false;  ///< Rows are gradients: the backward. (A recomputation is a forward.)
  /// [R, M] of the chunk, in place. At both ends: its tokens; where slots take tokens, all tokens, at the first chunk
  /// (start) and the last one (end).
  Matrix<T> rows;
};

/// A place without a function costs nothing: no task is emitted for it.
template <class T>
struct MoeHooks {
  using Hook = std::function<void(HookCall<T>&)>;
  std::array<Hook, kNumHookPoints> at;
  [[nodiscard]] Hook& operator[](HookPoint point) { return at[static_cast<std::size_t>(point)]; }
  [[nodiscard]] unsigned mask() const {
    unsigned bits = 0;
    for (std::size_t i = 0; i < at.size(); ++i) bits |= at[i] ? 1U << i : 0U;
    return bits;
  }
};

}  // namespace weft::parallel
