#include "kernels/cuda/backend.h"

#include "core/error.h"

namespace weft::kernels::cuda {
namespace {

template <class T>
Backend<T> make_table() {
  Backend<T> table{};
  add_gemm(table);
  add_elementwise(table);
  add_norm(table);
  add_softmax(table);
  add_attention(table);
  add_attention_backward(table);
  add_permute(table);
  add_embedding(table);
  add_dispatch(table);
  add_router(table);
  add_slots(table);
  add_reduce(table);
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

}  // namespace weft::kernels::cuda
