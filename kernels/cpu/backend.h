// kernels/cpu/backend.h - the parts of the CPU backend: each source file puts its kernels into the table.
// Every kernel runs on the calling thread and has done its work when it returns. Sums are added in a fixed order that
// depends on shapes alone, so equal calls give equal bits.
#pragma once

#include "kernels/backend.h"

namespace weft::kernels::cpu {

template <class T>
void add_gemm(Backend<T>& table);
template <class T>
void add_grouped_gemm(Backend<T>& table);
template <class T>
void add_norm(Backend<T>& table);
template <class T>
void add_activation(Backend<T>& table);
template <class T>
void add_rope(Backend<T>& table);
template <class T>
void add_attention(Backend<T>& table);
template <class T>
void add_attention_backward(Backend<T>& table);
template <class T>
void add_attention_merge(Backend<T>& table);
template <class T>
void add_softmax(Backend<T>& table);
template <class T>
void add_permute(Backend<T>& table);
template <class T>
void add_embedding(Backend<T>& table);
template <class T>
void add_cross_entropy(Backend<T>& table);
template <class T>
void add_clip_factor(Backend<T>& table);
template <class T>
void add_adamw(RowKernels<T>& table);
template <class T>
void add_dispatch(Backend<T>& table);
template <class T>
void add_router(Backend<T>& table);
template <class T>
void add_slots(Backend<T>& table);
template <class T>
void add_reduce(Backend<T>& table);
/// Kernels that move rows and do not look at them.
template <class T>
void add_moves(RowKernels<T>& table);
void add_bf16(Backend<BF16>& table);

}  // namespace weft::kernels::cpu
