// comm/mpi/no_mpi.cpp - the MPI backend of builds without MPI.
#include "comm/mpi/backend.h"
#include "core/error.h"

namespace weft::comm::mpi {

bool is_in_build() noexcept { return false; }

std::string version() { return ""; }

std::unique_ptr<Communicator> make_world(const Options&) {
  throw Error(ErrorCode::kUnavailable, "this build of Weft has no MPI backend",
              "install Open MPI and build again with -DWEFT_MPI=ON");
}

}  // namespace weft::comm::mpi
