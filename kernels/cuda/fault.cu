#include "core/error.h"
#include "kernels/cuda/fault.cuh"

namespace weft::kernels::cuda {

std::string describe_fault(std::uint64_t word) {
  const std::uint64_t where = word >> 32 & kMaxWhere;
  const auto value = static_cast<std::int32_t>(static_cast<std::uint32_t>(word));
  const std::string at = where == kMaxWhere ? str(where, " or later") : str(where);
  const auto row = [&](const char* kernel) {
    return str(kernel, ": row index ", value, " at ", at, " is out of range");
  };
  const auto id = [&](const char* array) { return str(array, "[", at, "] = ", value, " is out of range"); };
  switch (static_cast<FaultSite>(word >> 56)) {
    case FaultSite::kGather:
      return row("gather_rows");
    case FaultSite::kUnpermute:
      return row("unpermute_weighted");
    case FaultSite::kUnpermuteBackward:
      return row("unpermute_weighted_backward");
    case FaultSite::kPermuteBackward:
      return row("permute_backward");
    case FaultSite::kToken:
      return id("embedding_forward: token");
    case FaultSite::kPosition:
      return id("embedding_forward: position");
    case FaultSite::kEmbeddingId:
      return id("embedding_backward: id");
    case FaultSite::kTarget:
      return id("cross_entropy: target");
    case FaultSite::kNone:
      break;
  }
  return str("a kernel reported ", word);
}

}  // namespace weft::kernels::cuda
