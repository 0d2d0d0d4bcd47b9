// comm/mpi/mpi_communicator.cpp - collectives on host memory over nonblocking MPI messages
// (comm/message_communicator.h); long messages go in pieces.
#include <mpi.h>

#include <exception>
#include <utility>

#include "comm/message_communicator.h"
#include "comm/mpi/exchange.h"
#include "comm/mpi/mpi_scope.h"
#include "core/error.h"
#include "core/log.h"

namespace weft::comm::mpi {
namespace {

constexpr int kNumTags = 32768;  // the tag bound that every MPI offers

/// Owns one communicator handle. A handle of a failed group is left alone: freeing it may wait for peers that are gone.
class CommHandle {
 public:
  CommHandle(std::shared_ptr<MpiScope> scope, MPI_Comm comm) noexcept
      : scope_(std::move(scope)), comm_(comm), exceptions_(std::uncaught_exceptions()) {}
  CommHandle(const CommHandle&) = delete;
  CommHandle& operator=(const CommHandle&) = delete;
  ~CommHandle() {
    if (scope_->is_broken() || std::uncaught_exceptions() > exceptions_) return;
    if (const int status = MPI_Comm_free(&comm_); status != MPI_SUCCESS)
      log()->error("MPI_Comm_free: status {}", status);
  }
  [[nodiscard]] MPI_Comm get() const noexcept { return comm_; }
  [[nodiscard]] const std::shared_ptr<MpiScope>& scope() const noexcept { return scope_; }

 private:
  std::shared_ptr<MpiScope> scope_;  // before the handle: MPI goes last
  MPI_Comm comm_;
  int exceptions_;
};

int rank_in(MPI_Comm comm) {
  int rank = 0;
  WEFT_MPI_CHECK(MPI_Comm_rank(comm, &rank));
  return rank;
}

int size_of_group(MPI_Comm comm) {
  int size = 0;
  WEFT_MPI_CHECK(MPI_Comm_size(comm, &size));
  return size;
}

class MpiCommunicator final : public MessageCommunicator {
 public:
  MpiCommunicator(std::shared_ptr<MpiScope> scope, MPI_Comm comm, const Options& options, std::string name)
      : MessageCommunicator(rank_in(comm), size_of_group(comm), std::move(name), options.scratch_bytes),
        comm_(std::move(scope), comm),
        options_(options) {
    constexpr std::int64_t kSharedMemoryRate = 2000;  // bytes a microsecond
    if (comm_.scope()->on_this_host(comm)) pace_.polled_bytes_per_us = kSharedMemoryRate;
  }

  std::chrono::milliseconds timeout() const noexcept override { return options_.timeout; }
  void abort(int exit_code) noexcept override { MPI_Abort(MPI_COMM_WORLD, exit_code); }

 private:
  std::unique_ptr<Messages> messages() override {
    return std::make_unique<Exchange>(comm_.get(), static_cast<int>(num_begun() % kNumTags), options_, pace_);
  }
  void broken() noexcept override { comm_.scope()->mark_broken(); }

  std::unique_ptr<Communicator> do_split(int color, int key, std::string_view child) override {
    MPI_Comm handle = MPI_COMM_NULL;
    collective("split", [&] {
      meet();  // before MPI's own split, which waits without a deadline and without sleeping
      WEFT_MPI_CHECK(MPI_Comm_split(comm_.get(), color < 0 ? MPI_UNDEFINED : color, key, &handle));
    });
    if (handle == MPI_COMM_NULL) return nullptr;
    return std::make_unique<MpiCommunicator>(comm_.scope(), handle, options_, child_name(color, child));
  }

  CommHandle comm_;
  Options options_;
  Pace pace_;
};

}  // namespace

bool is_in_build() noexcept { return true; }

std::string version() {
  char text[MPI_MAX_LIBRARY_VERSION_STRING] = {};
  int length = 0;
  WEFT_MPI_CHECK(MPI_Get_library_version(text, &length));
  return {text, static_cast<std::size_t>(length)};
}

std::unique_ptr<Communicator> make_world(const Options& options) {
  auto scope = MpiScope::acquire();
  MPI_Comm comm = MPI_COMM_NULL;
  WEFT_MPI_CHECK(MPI_Comm_dup(MPI_COMM_WORLD, &comm));
  return std::make_unique<MpiCommunicator>(std::move(scope), comm, options, "world");
}

}  // namespace weft::comm::mpi
