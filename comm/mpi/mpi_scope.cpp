#include "comm/mpi/mpi_scope.h"

#include <array>
#include <atomic>
#include <cstdlib>
#include <exception>
#include <mutex>

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
  int provided = MPI_THREAD_SINGLE;
  WEFT_MPI_CHECK(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_MULTIPLE, &provided));
  if (provided < MPI_THREAD_MULTIPLE) {
    MPI_Finalize();
    throw Error(ErrorCode::kUnavailable, str("MPI offers thread level ", provided, ", not MPI_THREAD_MULTIPLE"),
                "use an MPI library that was built with support for threads");
  }
  WEFT_MPI_CHECK(MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN));
  WEFT_MPI_CHECK(MPI_Comm_set_errhandler(MPI_COMM_SELF, MPI_ERRORS_RETURN));
}

MpiScope::~MpiScope() {
  // MPI_Finalize waits for all ranks. When this rank leaves by an exception, they may be waiting for it elsewhere:
  // leave without it, and the launcher ends them.
  const bool unwinding = std::uncaught_exceptions() > state_->exceptions_at_start;
  if (unwinding || is_broken()) {
    log()->debug("leaving without MPI_Finalize after an error");
    return;
  }
  if (const int status = MPI_Finalize(); status != MPI_SUCCESS) log()->error("MPI_Finalize: status {}", status);
}

void MpiScope::mark_broken() noexcept { state_->broken = true; }
bool MpiScope::is_broken() const noexcept { return state_->broken; }

}  // namespace weft::comm::mpi
