#include "kernels/cpu/backend.h"

namespace weft::kernels::cpu {
namespace {

template <class T>
Backend<T> make_table() {
  Backend<T> table{};
  add_gemm(table);
  add_grouped_gemm(table);
  add_norm(table);
  add_activation(table);
  add_rope(table);
  add_attention(table);
  add_attention_backward(table);
  add_attention_merge(table);
  add_softmax(table);
  add_permute(table);
  add_embedding(table);
  add_cross_entropy(table);
  add_clip_factor(table);
  add_adamw<T>(table);
  add_dispatch(table);
  add_router(table);
  add_slots(table);
  add_reduce(table);
  add_moves(table);
  return table;
}
template <>
Backend<BF16> make_table() {
  Backend<BF16> table{};
  add_bf16(table);
  add_adamw<BF16>(table);
  add_moves(table);
  return table;
}

}  // namespace

template <class T>
const Backend<T>& backend() {
  static const Backend<T> table = make_table<T>();
  return table;
}

template const Backend<float>& backend<float>();
template const Backend<double>& backend<double>();
template const Backend<BF16>& backend<BF16>();

}  // namespace weft::kernels::cpu
