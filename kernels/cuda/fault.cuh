// kernels/cuda/fault.cuh - what kernels report about contents that are out of range (see core/cuda/fault.h).
#pragma once

#include <cstdint>
#include <string>

#include "core/cuda/stream.h"

namespace weft::kernels::cuda {

enum class FaultSite : std::uint8_t {
  kNone,
  kGather,
  kUnpermute,
  kUnpermuteBackward,
  kPermuteBackward,
  kToken,
  kPosition,
  kEmbeddingId,
  kTarget,
};

/// Eight bits of site, 24 of where (the last number stands for all above), 32 of value.
inline constexpr std::uint64_t kMaxWhere = (1U << 24) - 1;
[[nodiscard]] std::string describe_fault(std::uint64_t word);

[[nodiscard]] inline std::uint64_t* fault_word(Stream& stream) {
  return static_cast<weft::cuda::GpuStream&>(stream).fault_word(describe_fault);
}

__device__ inline void report(std::uint64_t* word, FaultSite site, std::int64_t where, std::int32_t value) {
  const auto at = static_cast<std::uint64_t>(where) < kMaxWhere ? static_cast<std::uint64_t>(where) : kMaxWhere;
  *static_cast<volatile std::uint64_t*>(word) =
      static_cast<std::uint64_t>(site) << 56 | at << 32 | static_cast<std::uint32_t>(value);
}

}  // namespace weft::kernels::cuda
