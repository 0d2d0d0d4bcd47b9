#include "comm/host_reduce.h"

#include <algorithm>
#include <array>

#include "core/bf16.h"
#include "core/error.h"

namespace weft::comm {
namespace {

constexpr std::int64_t kTile = 512;  // elements: the running values stay in the first-level cache

struct Sum {
  template <class T>
  static T apply(T a, T b) {
    return a + b;
  }
};
struct Max {  // `b != b`: a NaN, which stays, as nothing compares greater than it
  template <class T>
  static T apply(T a, T b) {
    return b > a || b != b ? b : a;
  }
};
struct Min {
  template <class T>
  static T apply(T a, T b) {
    return b < a || b != b ? b : a;
  }
};

/// BF16 is added up in F32 and rounded once.
template <class T, class Op>
void reduce(T* out, std::span<const void* const> sources, std::int64_t count) {
  std::array<Wide<T>, kTile> tile;
  for (std::int64_t first = 0; first < count; first += kTile) {
    const std::int64_t length = std::min(kTile, count - first);
    std::copy_n(static_cast<const T*>(sources[0]) + first, length, tile.data());
    for (std::size_t r = 1; r < sources.size(); ++r) {
      const T* x = static_cast<const T*>(sources[r]) + first;
      for (std::int64_t i = 0; i < length; ++i)
        tile[static_cast<std::size_t>(i)] = Op::template apply<Wide<T>>(tile[static_cast<std::size_t>(i)], x[i]);
    }
    std::copy_n(tile.data(), length, out + first);
  }
}

template <class T>
void reduce(void* out, std::span<const void* const> sources, std::int64_t count, ReduceOp op) {
  switch (op) {
    case ReduceOp::kSum:
      return reduce<T, Sum>(static_cast<T*>(out), sources, count);
    case ReduceOp::kMax:
      return reduce<T, Max>(static_cast<T*>(out), sources, count);
    case ReduceOp::kMin:
      return reduce<T, Min>(static_cast<T*>(out), sources, count);
  }
}

}  // namespace

void reduce_in_rank_order(void* out, std::span<const void* const> sources, std::int64_t count, DType dtype,
                          ReduceOp op) {
  switch (dtype) {
    case DType::kF32:
      return reduce<float>(out, sources, count, op);
    case DType::kF64:
      return reduce<double>(out, sources, count, op);
    case DType::kI32:
      return reduce<std::int32_t>(out, sources, count, op);
    case DType::kI64:
      return reduce<std::int64_t>(out, sources, count, op);
    case DType::kBF16:
      return reduce<BF16>(out, sources, count, op);
    case DType::kU8:
      break;
  }
  throw Error(ErrorCode::kInternal, str("reduce_in_rank_order: no sums of ", to_string(dtype)));
}

}  // namespace weft::comm
