// comm/nccl/group.h - one NCCL communicator: owned, non-blocking, watched.
// Source: NCCL user guide, "Fault Tolerance" and "Creating a communicator with options".
#pragma once

#include <nccl.h>

#include <chrono>
#include <condition_variable>
#include <deque>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>

#include "core/cuda/handle.h"
#include "core/cuda/stream.h"
#include "core/device.h"
#include "core/error.h"

namespace weft::comm::nccl {

/// Throws Error{kComm} naming `call`; ncclInProgress is fine, since communicators are non-blocking.
void check(ncclResult_t status, const char* call);
#define WEFT_NCCL_CHECK(call) ::weft::comm::nccl::check((call), #call)

struct Settings {
  std::chrono::milliseconds timeout{0};  ///< Of one collective, from its launch on; zero: for ever.
  int ctas = 0;                          ///< Of its kernels; 0: NCCL decides.
};

/// One ncclComm_t of this process, and a thread that watches what was launched on it. NCCL's kernels wait for peers on
/// the GPU, where no deadline exists: the thread polls events and the communicator's asynchronous state, and aborts it
/// when a peer is lost or a deadline has passed. That ends the kernels; the error goes to the streams that they were
/// on.
class Group {
 public:
  /// Collective over the `size` ranks that got the same id. Blocks, up to the timeout. Children of a split have the
  /// timeout of their parent.
  Group(const ncclUniqueId& id, int rank, int size, Device device, const Settings& settings, std::string name);
  Group(const Group&) = delete;
  Group& operator=(const Group&) = delete;
  /// Collective, unless the group is broken, or an exception takes it away: then it is aborted, which waits for nobody.
  ~Group();

  [[nodiscard]] Device device() const noexcept { return device_; }

  using Calls = std::function<void(ncclComm_t, cudaStream_t)>;
  /// On a stream that is recorded, all that the group has in the recording is watched as one, from each launch of it
  /// on. Calls calls(comm, stream) between ncclGroupStart and ncclGroupEnd, waits until NCCL has taken it in (that
  /// connects peers, the first time), and watches it from then on. Throws kComm or kTimeout, and the group is broken
  /// then; what broke it, when it is; kInvalidArgument for a stream of another GPU.
  void launch(cuda::GpuStream& stream, const std::string& what, const Calls& calls);
  /// From any thread, and at any time: ends what is under way. `reason` is what its streams report.
  void abort(std::exception_ptr reason) noexcept;

  /// Throws what broke the group, if it is broken.
  void require_whole();

  /// Collective. nullptr where color < 0. `ctas`: of the new group, equal on its ranks.
  [[nodiscard]] std::unique_ptr<Group> split(int color, int key, std::string name, int ctas);

 private:
  using Clock = std::chrono::steady_clock;
  struct Launch {
    cuda::EventHandle done;
    Clock::time_point deadline;
    std::string what;
    std::shared_ptr<cuda::Fault> fault;
  };

  Group(ncclComm_t comm, Device device, const Settings& settings, std::string name);  // takes over `comm`
  [[nodiscard]] Clock::time_point deadline() const;
  void settle(std::string_view what);
  void call_in_group(cudaStream_t stream, const Calls& calls);
  void follow(cuda::GpuStream& stream, std::string what);
  void break_locked(std::exception_ptr reason) noexcept;
  void end_broken() noexcept;
  [[nodiscard]] std::exception_ptr error(ErrorCode code, std::string_view what, std::string_view problem) const;
  void watch();
  [[nodiscard]] std::exception_ptr look_at(const Launch& launch) const;

  ncclComm_t comm_ = nullptr;
  Device device_;
  Settings settings_;
  std::string name_;
  int exceptions_ = std::uncaught_exceptions();

  std::mutex mutex_;  // every use of comm_, so that none comes after its end; in non-blocking mode all calls are short
  std::condition_variable changed_;
  std::deque<Launch> launches_;
  std::exception_ptr broken_;  ///< From then on nobody but end_broken() uses comm_.
  bool stop_ = false;
  std::thread watcher_;  // last: starts when the rest is there
};

}  // namespace weft::comm::nccl
