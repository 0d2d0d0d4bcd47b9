// kernels/embedding.h - token and learned position embeddings.
#pragma once

#include <cstdint>

#include "core/bf16.h"
#include "core/matrix.h"
#include "core/stream.h"
#include "kernels/gemm.h"

namespace weft::kernels {

/// x[t] = token_table[token[t]] (+ position_table[position[t]]). x: [T, M]; token_table: [V, M]; token, position: [T];
/// position_table: [max positions, M], or data == nullptr. Ids out of range throw kInvalidArgument.
template <class T>
void embedding_forward(Stream& stream, Matrix<T> x, Matrix<const T> token_table, const std::int32_t* token,
                       Matrix<const T> position_table, const std::int32_t* position);

/// d_table[id[t]] += dx[t], in order of t (deterministic). kOverwrite zeroes the table first.
template <class T>
void embedding_backward(Stream& stream, Matrix<Wide<T>> d_table, const std::int32_t* id, Matrix<const T> dx,
                        Accumulate accumulate);

}  // namespace weft::kernels
