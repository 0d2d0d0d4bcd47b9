// kernels/cuda/backend.h - the parts of the CUDA backend: each source file puts its kernels into the table.
// Kernels launch onto the stream and return; none waits for the GPU. Matrices and arrays lie in memory of the stream's
// device, unless a contract says host. No float is added atomically: equal calls give equal bits. Contents out of range
// (indices, targets) are left out and reported to the stream, which throws kInvalidArgument when somebody waits for it.
#pragma once

#include "kernels/backend.h"

namespace weft::kernels::cuda {

template <class T>
void add_gemm(RowKernels<T>& table);
template <class T>
void add_elementwise(RowKernels<T>& table);
template <class T>
void add_norm(RowKernels<T>& table);
template <class T>
void add_attention(RowKernels<T>& table);
template <class T>
void add_attention_backward(RowKernels<T>& table);
template <class T>
void add_permute(RowKernels<T>& table);
template <class T>
void add_embedding(RowKernels<T>& table);
template <class T>
void add_cross_entropy(RowKernels<T>& table);
template <class T>
void add_row_sums(RowKernels<T>& table);
template <class T>
void add_block_copies(RowKernels<T>& table);
template <class T>
void add_slot_moves(RowKernels<T>& table);
template <class T>
void add_adamw(RowKernels<T>& table);
template <class T>
void add_softmax(Backend<T>& table);
template <class T>
void add_clip_factor(Backend<T>& table);
template <class T>
void add_dispatch(Backend<T>& table);
template <class T>
void add_router(Backend<T>& table);
template <class T>
void add_slots(Backend<T>& table);
template <class T>
void add_reduce(Backend<T>& table);
void add_conversions(Backend<BF16>& table);
void add_wide_linear(Backend<BF16>& table);

}  // namespace weft::kernels::cuda
