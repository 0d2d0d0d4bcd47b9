// kernels/rope.h - rotary position embedding, in place.
// Source: Su et al., arXiv:2104.09864, eq. 34, in the "rotate half" layout of Hugging Face's models: element i of a
// head pairs with element i + d/2, angle = position * theta^(-2i/d).
#pragma once

#include <cstdint>

#include "core/matrix.h"
#include "core/stream.h"

namespace weft::kernels {

enum class RopeDirection : bool { kForward, kBackward };  ///< kBackward rotates by the negative angle.

/// x: [T, heads * head_dim] (may be a column range of a wider matrix); position: [T]. head_dim must be even.
template <class T>
void rope(Stream& stream, Matrix<T> x, const std::int32_t* position, std::int64_t head_dim, double theta,
          RopeDirection direction);

}  // namespace weft::kernels
