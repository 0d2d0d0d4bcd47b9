// comm/mpi/mpi_scope.h - MPI between MPI_Init_thread and MPI_Finalize, and the check around every MPI call.
#pragma once

#include <mpi.h>

#include <memory>

namespace weft::comm::mpi {

/// Throws Error{kComm} naming `call` and MPI's own text unless `status` is MPI_SUCCESS.
void check(int status, const char* call, const char* file = __builtin_FILE(), int line = __builtin_LINE());
#define WEFT_MPI_CHECK(call) ::weft::comm::mpi::check((call), #call)

/// Every communicator holds it, declared before its handle, so that MPI is finalised after the last handle is gone.
class MpiScope {
 public:
  /// The one scope of this process; initialises MPI when there is none. Throws as mpi::make_world().
  [[nodiscard]] static std::shared_ptr<MpiScope> acquire();
  MpiScope(const MpiScope&) = delete;
  MpiScope& operator=(const MpiScope&) = delete;
  ~MpiScope();

  /// True when all ranks of `comm` run on this host. Local.
  [[nodiscard]] bool on_this_host(MPI_Comm comm) const;
  /// A collective failed: messages may be under way for ever, so MPI must not be finalised (that would wait for them).
  void mark_broken() noexcept;
  [[nodiscard]] bool is_broken() const noexcept;

 private:
  MpiScope();
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace weft::comm::mpi
