// tests/support/nccl/nccl.cpp - the functions of the emulated NCCL, and what comm/nccl/load_nccl.cpp says of a library.
#include <nccl.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>

#include "comm/nccl/backend.h"
#include "tests/support/nccl/clique.h"

namespace weft::emulation::nccl {
namespace {

using Lock = std::unique_lock<std::mutex>;

/// The calls between ncclGroupStart and ncclGroupEnd of one thread.
struct CallGroup {
  struct Call {
    Comm* comm;
    cudaStream_t stream;
    Op op;
  };
  int depth = 0;
  ncclResult_t error = ncclSuccess;
  std::vector<Call> calls;
};
thread_local CallGroup open_group;

/// Sets the communicator's state to kInProgress, and to what `work` returns when that is done. `work` has the lock, and
/// may wait. With the lock held.
void start_job(Comm& comm, std::function<ncclResult_t(Lock&)> work) {
  if (comm.job.joinable()) comm.job.join();  // it is over: its state was seen
  comm.state = ncclInProgress;
  comm.job = std::thread([&comm, work = std::move(work)] {
    std::this_thread::yield();  // a caller that does not wait for the state goes wrong
    Lock lock(monitor().mutex);
    const ncclResult_t result = work(lock);
    if (comm.state == ncclInProgress) comm.state = result;
    monitor().changed.notify_all();
  });
}

/// Waits for `what`; false when the communicator is aborted, or has failed, before.
template <class What>
bool wait_for(Comm& comm, Lock& lock, const What& what) {
  monitor().changed.wait(lock, [&] { return comm.aborted || comm.state != ncclInProgress || what(); });
  return !comm.aborted && comm.state == ncclInProgress;
}

/// ncclSuccess when the communicator may be used for something new.
ncclResult_t ready(Comm* comm, const std::string& call) {
  if (comm == nullptr) return complain(ncclInvalidArgument, call + " of no communicator");
  if (comm->is_gone()) return complain(ncclInvalidArgument, call + " of a communicator that is gone");
  if (comm->finalized) return complain(ncclInvalidUsage, call + " of a communicator that is finalized");
  if (comm->state == ncclInProgress)
    return complain(ncclInvalidArgument, call + " of a communicator whose last call is under way");
  return comm->state;
}

/// As NCCL, which compares the two even where one is not set.
ncclResult_t check(const ncclConfig_t& config) {
  if (config.magic != kNcclConfigMagic) return complain(ncclInvalidArgument, "a config without its initializer");
  if (config.blocking != 0) return complain(ncclInvalidArgument, "a blocking communicator: not emulated");
  const auto is_wrong = [](int ctas) { return ctas != NCCL_CONFIG_UNDEF_INT && ctas <= 0; };
  if (is_wrong(config.minCTAs) || is_wrong(config.maxCTAs) || config.minCTAs > config.maxCTAs)
    return complain(ncclInvalidArgument, "invalid minCTAs and maxCTAs");
  return ncclSuccess;
}

Comm* add_comm(int device, const ncclConfig_t& config) {
  auto* comm = new Comm;
  comm->device = device;
  comm->config = config;
  state().comms.push_back(comm);
  return comm;
}

bool connects_late() {
  const char* text = std::getenv("NCCL_RUNTIME_CONNECT");
  return text == nullptr || std::atoi(text) != 0;
}

ncclResult_t join(Comm& comm, Lock& lock) {
  Clique& clique = *comm.clique;
  ++clique.gatherings["initialisation"].num_here;
  monitor().changed.notify_all();
  if (!wait_for(comm, lock, [&] { return clique.gatherings["initialisation"].num_here == clique.size; }))
    return ncclInternalError;
  for (int r = 0; r < clique.size; ++r) {
    if (!connects_late()) clique.connecting.insert({r, -1});
    if (r != comm.rank && clique.members[static_cast<std::size_t>(r)]->device == comm.device)
      return complain(ncclInvalidUsage, "two ranks on one GPU");
  }
  return ncclSuccess;
}

/// Connects what the calls need, which takes the peers' launches, then launches.
ncclResult_t launch(Comm& comm, cudaStream_t stream, const std::vector<Op>& ops, Lock& lock) {
  Clique& clique = *comm.clique;
  std::set<std::pair<int, int>> links;
  for (const Op& op : ops) links.insert({comm.rank, op.kind == Kind::kSend || op.kind == Kind::kRecv ? op.peer : -1});
  for (const auto& link : links) {
    if (!clique.connecting.insert(link).second || link.second == comm.rank) continue;
    ++state().num_late_connections;
    monitor().changed.notify_all();
  }
  const auto connected = [&](const std::pair<int, int>& link) {
    if (link.second >= 0) return clique.connecting.contains({link.second, link.first});
    int num_here = 0;
    for (int r = 0; r < clique.size; ++r) num_here += clique.connecting.contains({r, -1}) ? 1 : 0;
    return num_here == clique.size;
  };
  if (!wait_for(comm, lock, [&] { return std::all_of(links.begin(), links.end(), connected); }))
    return ncclInternalError;
  if (stream->device() != comm.device)
    return complain(ncclUnhandledCudaError, "a stream of another GPU than the communicator's");
  launch_kernel(comm, stream, ops);
  return ncclSuccess;
}

bool overlap(const void* a, std::size_t a_bytes, const void* b, std::size_t b_bytes) {
  const auto x = reinterpret_cast<std::uintptr_t>(a), y = reinterpret_cast<std::uintptr_t>(b);
  return a_bytes > 0 && b_bytes > 0 && x < y + b_bytes && y < x + a_bytes;
}

/// In place is one exact position for each collective; any other overlap is undefined.
bool overlaps_wrongly(const Comm& comm, const Op& op) {
  const std::size_t bytes = op.count * size_of(op.type), size = static_cast<std::size_t>(comm.clique->size);
  const bool gathers = op.kind == Kind::kAllGather, scatters = op.kind == Kind::kReduceScatter;
  if (op.kind == Kind::kSend || op.kind == Kind::kRecv || op.recv == nullptr) return false;
  const std::size_t offset = bytes * static_cast<std::size_t>(comm.rank);
  const char *send = static_cast<const char*>(op.send), *recv = static_cast<const char*>(op.recv);
  if (send + (scatters ? offset : 0) == recv + (gathers ? offset : 0)) return false;
  return overlap(send, scatters ? bytes * size : bytes, recv, gathers ? bytes * size : bytes);
}

ncclResult_t check(Comm* comm, const Op& op) {
  if (const ncclResult_t status = ready(comm, "a collective"); status != ncclSuccess) return status;
  if (op.peer < 0 || op.peer >= comm->clique->size) return complain(ncclInvalidArgument, "no such peer or root");
  const bool no_recv = op.kind == Kind::kSend || (op.kind == Kind::kReduce && op.peer != comm->rank);
  const bool no_send = op.kind == Kind::kRecv || (op.kind == Kind::kBroadcast && op.peer != comm->rank);
  if (op.count > 0 && ((op.send == nullptr && !no_send) || (op.recv == nullptr && !no_recv)))
    return complain(ncclInvalidArgument, "a null buffer");
  if (!no_recv && !no_send && overlaps_wrongly(*comm, op)) return complain(ncclInvalidArgument, "buffers overlap");
  return ncclSuccess;
}

ncclResult_t call(Comm* comm, cudaStream_t stream, const Op& op) {
  ncclGroupStart();
  ncclResult_t status = ncclSuccess;
  {
    const Lock lock(monitor().mutex);
    status = check(comm, op);
    if (status != ncclSuccess)
      open_group.error = status;
    else if (op.count > 0 || op.kind == Kind::kSend || op.kind == Kind::kRecv)  // empty collectives are left out
      open_group.calls.push_back({comm, stream, op});
  }
  const ncclResult_t end = ncclGroupEnd();
  return status != ncclSuccess ? status : end;
}

ncclResult_t launch_all(const CallGroup& group) {
  std::map<Comm*, std::vector<Op>> ops;
  std::map<Comm*, std::map<int, int>> to_self;
  cudaStream_t stream = nullptr;
  for (const auto& [comm, on, op] : group.calls) {
    if (stream != nullptr && on != stream) return complain(ncclInvalidUsage, "a group with two streams: not emulated");
    stream = on;
    ops[comm].push_back(op);
    if (op.peer == comm->rank && op.kind == Kind::kSend) ++to_self[comm][0];
    if (op.peer == comm->rank && op.kind == Kind::kRecv) --to_self[comm][0];
  }
  for (const auto& [comm, balance] : to_self)
    if (balance.at(0) != 0) return complain(ncclInvalidUsage, "a message to itself without its other half");
  for (auto& [comm, list] : ops) {
    if (const ncclResult_t status = ready(comm, "ncclGroupEnd"); status != ncclSuccess) return status;
    start_job(*comm, [c = comm, on = stream, list](Lock& lock) { return launch(*c, on, list, lock); });
  }
  return ops.empty() ? ncclSuccess : ncclInProgress;
}

/// The new communicator of this rank; null without a color.
ncclResult_t split(Comm& comm, int color, int key, Comm** child, const ncclConfig_t& config, Lock& lock) {
  Clique& clique = *comm.clique;
  Gathering& here = clique.gatherings["split " + std::to_string(comm.num_splits++)];
  here.colors.resize(static_cast<std::size_t>(clique.size));
  here.colors[static_cast<std::size_t>(comm.rank)] = {color, key};
  ++here.num_here;
  monitor().changed.notify_all();
  if (!wait_for(comm, lock, [&] { return here.num_here == clique.size; })) return ncclInternalError;
  if (color == NCCL_SPLIT_NOCOLOR) return ncclSuccess;
  std::vector<std::pair<int, int>> members;  // (key, rank)
  for (int r = 0; r < clique.size; ++r)
    if (const auto& [c, k] = here.colors[static_cast<std::size_t>(r)]; c == color) members.emplace_back(k, r);
  std::sort(members.begin(), members.end());
  Comm* made = add_comm(comm.device, config);
  auto& shared = here.made[color];
  if (!shared) shared = std::make_shared<Clique>(static_cast<int>(members.size()));
  made->clique = shared;
  made->rank = static_cast<int>(std::find(members.begin(), members.end(), std::pair(key, comm.rank)) - members.begin());
  shared->members[static_cast<std::size_t>(made->rank)] = made;
  if (!connects_late()) shared->connecting.insert({made->rank, -1});
  made->state = ncclSuccess;
  *child = made;
  return ncclSuccess;
}

}  // namespace

}  // namespace weft::emulation::nccl

using namespace weft::emulation::nccl;

const char* ncclGetErrorString(ncclResult_t result) {
  constexpr const char* kTexts[] = {"no error",
                                    "unhandled cuda error",
                                    "unhandled system error",
                                    "internal error",
                                    "invalid argument",
                                    "invalid usage",
                                    "a remote process exited or there was a network error",
                                    "in progress"};
  return kTexts[result];
}

ncclResult_t ncclGetVersion(int* version) { return *version = NCCL_VERSION_CODE, ncclSuccess; }

ncclResult_t ncclGetUniqueId(ncclUniqueId* id) {
  const std::lock_guard lock(monitor().mutex);
  std::memset(id, 0, sizeof *id);
  std::memcpy(id->internal, &state().next_id, sizeof state().next_id);
  ++state().next_id;
  return ncclSuccess;
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t* comm, int size, ncclUniqueId id, int rank, ncclConfig_t* config) {
  const std::lock_guard lock(monitor().mutex);
  std::uint64_t number = 0;
  std::memcpy(&number, id.internal, sizeof number);
  if (number == 0 || number >= state().next_id) return complain(ncclInvalidArgument, "no id of ncclGetUniqueId");
  if (rank < 0 || rank >= size) return complain(ncclInvalidArgument, "no such rank");
  if (const ncclResult_t status = check(*config); status != ncclSuccess) return status;
  auto& clique = state().starting[number];
  if (!clique) clique = std::make_shared<Clique>(size);
  Comm*& member = clique->members.at(static_cast<std::size_t>(rank));
  if (clique->size != size || member != nullptr) return complain(ncclInvalidUsage, "ranks do not fit together");
  *comm = member = add_comm(weft::emulation::current_device(), *config);
  member->clique = clique;
  member->rank = rank;
  start_job(*member, [made = member](std::unique_lock<std::mutex>& job_lock) { return join(*made, job_lock); });
  return ncclInProgress;
}

ncclResult_t ncclCommSplit(ncclComm_t comm, int color, int key, ncclComm_t* child, ncclConfig_t* config) {
  const std::lock_guard lock(monitor().mutex);
  if (const ncclResult_t status = ready(comm, "ncclCommSplit"); status != ncclSuccess) return status;
  if (color < NCCL_SPLIT_NOCOLOR) return complain(ncclInvalidArgument, "a negative color");
  const ncclConfig_t of_child = config != nullptr ? *config : comm->config;
  if (const ncclResult_t status = check(of_child); status != ncclSuccess) return status;
  *child = nullptr;  // until all is done
  start_job(*comm, [=](std::unique_lock<std::mutex>& job_lock) {
    return split(*comm, color, key, child, of_child, job_lock);
  });
  return ncclInProgress;
}

ncclResult_t ncclCommFinalize(ncclComm_t comm) {
  const std::lock_guard lock(monitor().mutex);
  if (const ncclResult_t status = ready(comm, "ncclCommFinalize"); status != ncclSuccess) return status;
  comm->finalized = true;
  start_job(*comm, [comm](std::unique_lock<std::mutex>& job_lock) {
    if (!wait_for(*comm, job_lock, [&] { return comm->num_kernels + comm->num_recorded == 0; }))
      return ncclInternalError;
    Gathering& here = comm->clique->gatherings["finalisation"];
    ++here.num_here;
    monitor().changed.notify_all();
    return wait_for(*comm, job_lock, [&] { return here.num_here == comm->clique->size; }) ? ncclSuccess
                                                                                          : ncclInternalError;
  });
  return ncclInProgress;
}

ncclResult_t ncclCommDestroy(ncclComm_t comm) {
  std::unique_lock lock(monitor().mutex);
  if (comm == nullptr || comm->is_gone()) return complain(ncclInvalidArgument, "ncclCommDestroy of what is gone");
  if (!comm->finalized || comm->state != ncclSuccess)
    return complain(ncclInvalidUsage, "ncclCommDestroy before finalisation is over: it would wait for peers");
  comm->destroyed = true;
  lock.unlock();
  comm->job.join();
  return ncclSuccess;
}

ncclResult_t ncclCommAbort(ncclComm_t comm) {
  std::unique_lock lock(monitor().mutex);
  if (comm == nullptr || comm->is_gone()) return complain(ncclInvalidArgument, "ncclCommAbort of what is gone");
  comm->aborted = comm->clique->is_broken = true;
  monitor().changed.notify_all();
  monitor().changed.wait(lock, [&] { return comm->num_recorded == 0; });
  lock.unlock();
  if (comm->job.joinable()) comm->job.join();
  return ncclSuccess;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t* result) {
  const std::lock_guard lock(monitor().mutex);
  if (comm == nullptr || comm->is_gone()) return complain(ncclInvalidArgument, "ncclCommGetAsyncError of what is gone");
  return *result = comm->state, ncclSuccess;
}

ncclResult_t ncclGroupStart() { return ++open_group.depth, ncclSuccess; }

ncclResult_t ncclGroupEnd() {
  const std::lock_guard lock(monitor().mutex);
  if (open_group.depth == 0) return complain(ncclInvalidUsage, "ncclGroupEnd without its start");
  if (--open_group.depth > 0) return ncclSuccess;
  const CallGroup group = std::exchange(open_group, {});
  return group.error != ncclSuccess ? group.error : launch_all(group);
}

ncclResult_t ncclAllReduce(const void* send, void* recv, std::size_t count, ncclDataType_t type, ncclRedOp_t op,
                           ncclComm_t comm, cudaStream_t stream) {
  return call(comm, stream, {Kind::kAllReduce, send, recv, count, type, op, 0});
}
ncclResult_t ncclReduce(const void* send, void* recv, std::size_t count, ncclDataType_t type, ncclRedOp_t op, int root,
                        ncclComm_t comm, cudaStream_t stream) {
  return call(comm, stream, {Kind::kReduce, send, recv, count, type, op, root});
}
ncclResult_t ncclReduceScatter(const void* send, void* recv, std::size_t count, ncclDataType_t type, ncclRedOp_t op,
                               ncclComm_t comm, cudaStream_t stream) {
  return call(comm, stream, {Kind::kReduceScatter, send, recv, count, type, op, 0});
}
ncclResult_t ncclAllGather(const void* send, void* recv, std::size_t count, ncclDataType_t type, ncclComm_t comm,
                           cudaStream_t stream) {
  return call(comm, stream, {Kind::kAllGather, send, recv, count, type, ncclSum, 0});
}
ncclResult_t ncclBroadcast(const void* send, void* recv, std::size_t count, ncclDataType_t type, int root,
                           ncclComm_t comm, cudaStream_t stream) {
  return call(comm, stream, {Kind::kBroadcast, send, recv, count, type, ncclSum, root});
}
ncclResult_t ncclSend(const void* data, std::size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                      cudaStream_t stream) {
  return call(comm, stream, {Kind::kSend, data, nullptr, count, type, ncclSum, peer});
}
ncclResult_t ncclRecv(void* data, std::size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                      cudaStream_t stream) {
  return call(comm, stream, {Kind::kRecv, nullptr, data, count, type, ncclSum, peer});
}

namespace weft::comm::nccl {

std::string why_unavailable() { return {}; }
std::string version() { return "2.28.9"; }

}  // namespace weft::comm::nccl
