#include "kernels/cuda/backend.h"

#include "core/error.h"

namespace weft::kernels::cuda {
namespace {

template <class T>
void add_row_kernels(RowKernels<T>& table) {
  add_gemm(table);
  add_elementwise(table);
  add_norm(table);
  add_cross_entropy(table);
  add_attention(table);
  add_attention_backward(table);
  add_permute(table);
  add_embedding(table);
  add_row_sums(table);
  add_block_copies(table);
  add_slot_moves(table);
  add_adamw(table);
}

template <class T>
Backend<T> make_table() {
  Backend<T> table{};
  add_row_kernels<T>(table);
  add_softmax(table);
  add_clip_factor(table);
  add_dispatch(table);
  add_router(table);
  add_slots(table);
  add_reduce(table);
  return table;
}
template <>
Backend<BF16> make_table() {
  Backend<BF16> table{};
  add_row_kernels<BF16>(table);
  add_conversions(table);
  add_wide_linear(table);
  return table;
}

}  // namespace

template <class T>
const Backend<T>& backend() {
  if (!is_available(DeviceKind::kCuda))
    throw Error(ErrorCode::kUnavailable, why_unavailable(DeviceKind::kCuda), "use the CPU backend");
  static const Backend<T> table = make_table<T>();
  return table;
}

template const Backend<float>& backend<float>();
template const Backend<double>& backend<double>();
template const Backend<BF16>& backend<BF16>();

}  // namespace weft::kernels::cuda
