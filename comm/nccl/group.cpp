#include "comm/nccl/group.h"

#include <algorithm>
#include <utility>

#include "core/cpu/thread.h"
#include "core/cuda/device.h"
#include "core/cuda/recording.h"
#include "core/error.h"
#include "core/log.h"

namespace weft::comm::nccl {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;
constexpr milliseconds kNap{1};

/// Between two looks at something that began `waited` ago: a launch that NCCL takes in within microseconds costs no
/// more, and one that waits for peers leaves the core to others.
void pause(std::chrono::steady_clock::duration waited) {
  constexpr microseconds kYieldFor{100};
  if (waited < kYieldFor)
    std::this_thread::yield();
  else
    std::this_thread::sleep_for(std::min<std::chrono::steady_clock::duration>(waited / 4, kNap));
}

ncclConfig_t config_of(const Settings& settings) {
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.blocking = 0;
  if (settings.ctas > 0) config.minCTAs = config.maxCTAs = settings.ctas;
  return config;
}

ncclResult_t state_of(ncclComm_t comm) {
  ncclResult_t state = ncclSuccess;
  const ncclResult_t status = ncclCommGetAsyncError(comm, &state);
  return status == ncclSuccess ? state : status;
}

bool is_done(cudaEvent_t event) {
  const bool done = cudaEventQuery(event) != cudaErrorNotReady;
  if (!done) static_cast<void>(cudaGetLastError());
  return done;
}

}  // namespace

void check(ncclResult_t status, const char* call) {
  if (status == ncclSuccess || status == ncclInProgress) return;
  throw Error(ErrorCode::kComm, str(call, ": ", ncclGetErrorString(status)), "NCCL_DEBUG=WARN says more");
}

Group::Group(const ncclUniqueId& id, int rank, int size, Device device, const Settings& settings, std::string name)
    : device_(device), settings_(settings), name_(std::move(name)) {
  const cuda::DeviceScope scope(device_);
  ncclConfig_t config = config_of(settings_);
  WEFT_NCCL_CHECK(ncclCommInitRankConfig(&comm_, size, id, rank, &config));
  try {
    settle("initialisation");
  } catch (...) {
    end_broken();
    throw;
  }
  watcher_ = std::thread([this] { watch(); });
}

Group::Group(ncclComm_t comm, Device device, const Settings& settings, std::string name)
    : comm_(comm), device_(device), settings_(settings), name_(std::move(name)), watcher_([this] { watch(); }) {}

Group::~Group() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_one();
  watcher_.join();
  if (broken_) return;                             // the watcher has ended it
  if (std::uncaught_exceptions() > exceptions_) {  // peers may never come
    abort(error(ErrorCode::kComm, "destruction", "an error of this rank took it away"));
    end_broken();
    return;
  }
  try {
    const cuda::DeviceScope scope(device_);
    WEFT_NCCL_CHECK(ncclCommFinalize(comm_));
    settle("finalisation");
    WEFT_NCCL_CHECK(ncclCommDestroy(comm_));
  } catch (const std::exception& e) {
    log()->error("group {}: {}", name_, e.what());
    abort(std::current_exception());
    end_broken();
  }
}

Group::Clock::time_point Group::deadline() const {
  return settings_.timeout.count() == 0 ? Clock::time_point::max() : Clock::now() + settings_.timeout;
}

std::exception_ptr Group::error(ErrorCode code, std::string_view what, std::string_view problem) const {
  return std::make_exception_ptr(Error(code, str(what, " (group ", name_, "): ", problem),
                                       "look for the first error of any rank; NCCL_DEBUG=WARN says more"));
}

void Group::settle(std::string_view what) {
  const Clock::time_point begin = Clock::now(), deadline = this->deadline();
  for (;; pause(Clock::now() - begin)) {
    std::lock_guard lock(mutex_);
    if (broken_) std::rethrow_exception(broken_);
    const ncclResult_t state = state_of(comm_);
    if (state == ncclSuccess) return;
    if (state != ncclInProgress)
      break_locked(error(ErrorCode::kComm, what, ncclGetErrorString(state)));
    else if (Clock::now() > deadline)
      break_locked(error(ErrorCode::kTimeout, what, str("not done after ", settings_.timeout.count(), " ms")));
  }
}

void Group::launch(cuda::GpuStream& stream, const std::string& what, const Calls& calls) {
  if (stream.device() != device_)
    throw Error(ErrorCode::kInvalidArgument, str(what, " (group ", name_, "): a stream of GPU ", stream.device().index,
                                                 ", the group's is GPU ", device_.index));
  {
    std::lock_guard lock(mutex_);
    if (broken_) std::rethrow_exception(broken_);
    try {
      call_in_group(static_cast<cudaStream_t>(stream.native()), calls);
    } catch (const Error& e) {
      break_locked(error(ErrorCode::kComm, what, e.message()));
      std::rethrow_exception(broken_);
    }
  }
  settle(what);
  if (cuda::GraphRecording* recording = stream.recording())
    recording->watch(this,
                     {[this] { require_whole(); }, [this](cuda::GpuStream& on) { follow(on, "a recorded step"); }});
  else
    follow(stream, what);
}

void Group::call_in_group(cudaStream_t stream, const Calls& calls) {
  WEFT_NCCL_CHECK(ncclGroupStart());
  try {
    calls(comm_, stream);
  } catch (...) {
    static_cast<void>(ncclGroupEnd());  // the group of calls is the thread's: it may not stay open
    throw;
  }
  WEFT_NCCL_CHECK(ncclGroupEnd());
}

void Group::follow(cuda::GpuStream& stream, std::string what) {
  cudaEvent_t raw = nullptr;
  WEFT_CUDA_CHECK(cudaEventCreateWithFlags(&raw, cudaEventDisableTiming));
  cuda::EventHandle done(raw);
  WEFT_CUDA_CHECK(cudaEventRecord(raw, static_cast<cudaStream_t>(stream.native())));
  {
    std::lock_guard lock(mutex_);
    if (broken_) std::rethrow_exception(broken_);
    launches_.push_back({std::move(done), deadline(), std::move(what), stream.fault()});
  }
  changed_.notify_one();
}

void Group::abort(std::exception_ptr reason) noexcept {
  std::lock_guard lock(mutex_);
  break_locked(std::move(reason));
}

void Group::break_locked(std::exception_ptr reason) noexcept {
  if (broken_) return;
  broken_ = std::move(reason);
  for (const Launch& launch : launches_) launch.fault->fail(broken_);  // before the kernels end: no result looks valid
  launches_.clear();
  changed_.notify_one();
}

/// Ends what is under way on the GPU. Waits for the graphs that hold its kernels to be destroyed: so neither with the
/// lock held nor on a thread that has such a graph.
void Group::end_broken() noexcept { static_cast<void>(ncclCommAbort(comm_)); }

void Group::require_whole() {
  std::lock_guard lock(mutex_);
  if (broken_) std::rethrow_exception(broken_);
}

std::unique_ptr<Group> Group::split(int color, int key, std::string name, int ctas) {
  const cuda::DeviceScope scope(device_);
  const Settings settings{settings_.timeout, ctas};
  ncclConfig_t config = config_of(settings);
  ncclComm_t child = nullptr;
  {
    std::lock_guard lock(mutex_);
    if (broken_) std::rethrow_exception(broken_);
    WEFT_NCCL_CHECK(ncclCommSplit(comm_, color < 0 ? NCCL_SPLIT_NOCOLOR : color, key, &child, &config));
  }
  try {
    settle("split");  // the parent's state covers the making of its children
  } catch (...) {
    if (child != nullptr) static_cast<void>(ncclCommAbort(child));  // made before the parent was aborted
    throw;
  }
  if (color < 0) return nullptr;
  std::unique_ptr<Group> out(new Group(child, device_, settings, std::move(name)));
  out->settle("initialisation");
  return out;
}

std::exception_ptr Group::look_at(const Launch& launch) const {
  const ncclResult_t state = state_of(comm_);
  if (state != ncclSuccess && state != ncclInProgress)
    return error(ErrorCode::kComm, launch.what, ncclGetErrorString(state));
  if (Clock::now() > launch.deadline)
    return error(
        ErrorCode::kTimeout, launch.what,
        str("not done ", settings_.timeout.count(), " ms after its launch: a rank that never came, or works on"));
  return nullptr;
}

/// The launches of a stream end in order, but a group may be used from several streams, so all are looked at.
void Group::watch() {
  cpu::name_this_thread("nccl watch");
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [&] { return stop_ || broken_ || !launches_.empty(); });
    if (broken_) break;
    if (stop_) return;
    std::erase_if(launches_, [](const Launch& launch) { return is_done(launch.done.get()); });
    std::exception_ptr failure;
    for (const Launch& launch : launches_)
      if (!failure) failure = look_at(launch);
    if (failure) break_locked(failure);
    changed_.wait_for(lock, kNap, [&] { return stop_ || broken_; });
  }
  lock.unlock();
  end_broken();
}

}  // namespace weft::comm::nccl
