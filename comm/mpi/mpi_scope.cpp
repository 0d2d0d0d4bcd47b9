#include "comm/mpi/mpi_scope.h"

#include <array>
#include <atomic>
#include <cstdlib>
#include <exception>
#include <mutex>
#include <string>

#include "comm/mpi/backend.h"
#include "core/error.h"
#include "core/log.h"

namespace weft::comm::mpi {

void check(int status, const char* call, const char* file, int line) {
  if (status == MPI_SUCCESS) return;
  std::array<char, MPI_MAX_ERROR_STRING> text{};
  int length = 0;
  if (MPI_Error_string(status, text.data(), &length) != MPI_SUCCESS) length = 0;
  throw Error(ErrorCode::kComm, str(call, ": ", std::string_view(text.data(), static_cast<std::size_t>(length))), {},
              file, line);
}

struct MpiScope::State {
  int exceptions_at_start = std::uncaught_exceptions();
  std::atomic<bool> broken{false};
  MPI_Group host = MPI_GROUP_NULL;  // the ranks of this host
};

std::shared_ptr<MpiScope> MpiScope::acquire() {
  static std::mutex mutex;
  static std::weak_ptr<MpiScope> current;
  std::lock_guard lock(mutex);
  auto scope = current.lock();
  if (!scope) {
    scope = std::shared_ptr<MpiScope>(new MpiScope);
    current = scope;
  }
  return scope;
}

MpiScope::MpiScope() : state_(std::make_unique<State>()) {
  int finalized = 0;
  WEFT_MPI_CHECK(MPI_Finalized(&finalized));
  if (finalized != 0)
    throw Error(ErrorCode::kUnavailable, "MPI has been finalised in this process", "keep one communicator to the end");
  // With it on (as --oversubscribe sets it), a rank that waits gives way to every compute thread for milliseconds.
  ::setenv("OMPI_MCA_mpi_yield_when_idle", "0", /*overwrite=*/0);
  // Over TCP, a piece of ours goes out without a request and an answer (with room for MPI's own header).
  const std::string eager_bytes = str(kPieceBytes + 1024);
  for (const char* name :
       {"OMPI_MCA_btl_tcp_eager_limit", "OMPI_MCA_btl_tcp_rndv_eager_limit", "OMPI_MCA_btl_tcp_max_send_size"})
    ::setenv(name, eager_bytes.c_str(), /*overwrite=*/0);
  int provided = MPI_THREAD_SINGLE;
  WEFT_MPI_CHECK(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_MULTIPLE, &provided));
  if (provided < MPI_THREAD_MULTIPLE) {
    MPI_Finalize();
    throw Error(ErrorCode::kUnavailable, str("MPI offers thread level ", provided, ", not MPI_THREAD_MULTIPLE"),
                "use an MPI library that was built with support for threads");
  }
  WEFT_MPI_CHECK(MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN));
  WEFT_MPI_CHECK(MPI_Comm_set_errhandler(MPI_COMM_SELF, MPI_ERRORS_RETURN));
  MPI_Comm host = MPI_COMM_NULL;
  WEFT_MPI_CHECK(MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &host));
  WEFT_MPI_CHECK(MPI_Comm_group(host, &state_->host));
  WEFT_MPI_CHECK(MPI_Comm_free(&host));
}

MpiScope::~MpiScope() {
  // MPI_Finalize waits for all ranks. When this rank leaves by an exception, they may be waiting for it elsewhere:
  // leave without it, and the launcher ends them.
  const bool unwinding = std::uncaught_exceptions() > state_->exceptions_at_start;
  if (unwinding || is_broken()) {
    log()->debug("leaving without MPI_Finalize after an error");
    return;
  }
  if (const int status = MPI_Group_free(&state_->host); status != MPI_SUCCESS)
    log()->error("MPI_Group_free: status {}", status);
  if (const int status = MPI_Finalize(); status != MPI_SUCCESS) log()->error("MPI_Finalize: status {}", status);
}

bool MpiScope::on_this_host(MPI_Comm comm) const {
  MPI_Group group = MPI_GROUP_NULL, here = MPI_GROUP_NULL;
  int size = 0, size_here = 0;
  WEFT_MPI_CHECK(MPI_Comm_group(comm, &group));
  WEFT_MPI_CHECK(MPI_Group_intersection(group, state_->host, &here));
  WEFT_MPI_CHECK(MPI_Group_size(group, &size));
  WEFT_MPI_CHECK(MPI_Group_size(here, &size_here));
  WEFT_MPI_CHECK(MPI_Group_free(&here));
  WEFT_MPI_CHECK(MPI_Group_free(&group));
  return size == size_here;
}

void MpiScope::mark_broken() noexcept { state_->broken = true; }
bool MpiScope::is_broken() const noexcept { return state_->broken; }

}  // namespace weft::comm::mpi
