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
  add_topk(table);
  add_permute(table);
  add_embedding(table);
  add_cross_entropy(table);
  add_adamw(table);
  add_dispatch(table);
  add_router(table);
  add_slots(table);
  add_reduce(table);
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

}  // namespace weft::kernels::cpu
