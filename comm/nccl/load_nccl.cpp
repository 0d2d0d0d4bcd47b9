// comm/nccl/load_nccl.cpp - the functions of NCCL that the backend calls, passed on to the library (see
// core/cuda/library.h).
#include <nccl.h>

#include "comm/nccl/backend.h"
#include "comm/nccl/group.h"
#include "core/cuda/pass_on.h"
#include "core/error.h"

namespace {

const weft::cuda::Library& library() {
  static const weft::cuda::Library nccl("libnccl.so." WEFT_TEXT_OF(NCCL_MAJOR), "NCCL");
  return nccl;
}

}  // namespace

// clang-format off: it sees no ends of functions here
const char* ncclGetErrorString(ncclResult_t result) WEFT_PASS_ON(ncclGetErrorString, result) ncclResult_t
    ncclGetVersion(int* version) WEFT_PASS_ON(ncclGetVersion, version) ncclResult_t ncclGetUniqueId(ncclUniqueId* id)
        WEFT_PASS_ON(ncclGetUniqueId, id) ncclResult_t
    ncclCommInitRankConfig(ncclComm_t* comm, int size, ncclUniqueId id, int rank, ncclConfig_t* config)
        WEFT_PASS_ON(ncclCommInitRankConfig, comm, size, id, rank, config) ncclResult_t
    ncclCommSplit(ncclComm_t comm, int color, int key, ncclComm_t* child, ncclConfig_t* config)
        WEFT_PASS_ON(ncclCommSplit, comm, color, key, child, config) ncclResult_t
    ncclCommFinalize(ncclComm_t comm) WEFT_PASS_ON(ncclCommFinalize, comm) ncclResult_t ncclCommDestroy(ncclComm_t comm)
        WEFT_PASS_ON(ncclCommDestroy, comm) ncclResult_t ncclCommAbort(ncclComm_t comm)
            WEFT_PASS_ON(ncclCommAbort, comm) ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t* state)
                WEFT_PASS_ON(ncclCommGetAsyncError, comm, state) ncclResult_t ncclGroupStart()
                    WEFT_PASS_ON(ncclGroupStart) ncclResult_t ncclGroupEnd() WEFT_PASS_ON(ncclGroupEnd) ncclResult_t
    ncclAllReduce(const void* send, void* recv, size_t count, ncclDataType_t type, ncclRedOp_t op, ncclComm_t comm,
                  cudaStream_t stream)
        WEFT_PASS_ON(ncclAllReduce, send, recv, count, type, op, comm, stream) ncclResult_t
    ncclReduce(const void* send, void* recv, size_t count, ncclDataType_t type, ncclRedOp_t op, int root,
               ncclComm_t comm, cudaStream_t stream)
        WEFT_PASS_ON(ncclReduce, send, recv, count, type, op, root, comm, stream) ncclResult_t
    ncclReduceScatter(const void* send, void* recv, size_t count, ncclDataType_t type, ncclRedOp_t op, ncclComm_t comm,
                      cudaStream_t stream)
        WEFT_PASS_ON(ncclReduceScatter, send, recv, count, type, op, comm, stream) ncclResult_t
    ncclAllGather(const void* send, void* recv, size_t count, ncclDataType_t type, ncclComm_t comm, cudaStream_t stream)
        WEFT_PASS_ON(ncclAllGather, send, recv, count, type, comm, stream) ncclResult_t
    ncclBroadcast(const void* send, void* recv, size_t count, ncclDataType_t type, int root, ncclComm_t comm,
                  cudaStream_t stream)
        WEFT_PASS_ON(ncclBroadcast, send, recv, count, type, root, comm, stream) ncclResult_t
    ncclSend(const void* data, size_t count, ncclDataType_t type, int peer, ncclComm_t comm, cudaStream_t stream)
        WEFT_PASS_ON(ncclSend, data, count, type, peer, comm, stream) ncclResult_t
    ncclRecv(void* data, size_t count, ncclDataType_t type, int peer, ncclComm_t comm, cudaStream_t stream)
        WEFT_PASS_ON(ncclRecv, data, count, type, peer, comm, stream)
    // clang-format on

    namespace weft::comm::nccl {
  std::string why_unavailable() {
    try {
      static_cast<void>(library());
      return {};
    } catch (const Error& e) {
      return e.message();
    }
  }

  std::string version() {
    int code = 0;
    WEFT_NCCL_CHECK(ncclGetVersion(&code));  // 22809: 2.28.9
    return str(code / 10000, ".", code / 100 % 100, ".", code % 100);
  }

}  // namespace weft::comm::nccl
