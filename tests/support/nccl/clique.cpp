#include "tests/support/nccl/clique.h"

#include <algorithm>
#include <cstdlib>

#include "tests/support/nccl/hooks.h"

namespace weft::emulation::nccl {
namespace {

using Lock = std::lock_guard<std::mutex>;

int set_or(int value, int otherwise) { return value == NCCL_CONFIG_UNDEF_INT ? otherwise : value; }

}  // namespace

State& state() {
  static auto& all = *new State;
  return all;
}

Monitor& monitor() {
  static auto& one = *new Monitor;
  return one;
}

std::size_t size_of(ncclDataType_t type) {
  switch (type) {
    case ncclUint8:
      return 1;
    case ncclBfloat16:
      return 2;
    case ncclInt32:
    case ncclFloat32:
      return 4;
    case ncclInt64:
    case ncclFloat64:
      return 8;
  }
  std::abort();
}

ncclResult_t complain(ncclResult_t result, const std::string& text) {
  state().complaints.push_back(text);
  return result;
}

std::vector<std::string> take_complaints() {
  const Lock lock(monitor().mutex);
  return std::exchange(state().complaints, {});
}

int num_communicators() {
  const Lock lock(monitor().mutex);
  return static_cast<int>(
      std::count_if(state().comms.begin(), state().comms.end(), [](auto* c) { return !c->is_gone(); }));
}

int num_late_connections() {
  const Lock lock(monitor().mutex);
  return state().num_late_connections;
}

void lose_device(int device) {
  const Lock lock(monitor().mutex);
  for (Comm* comm : state().comms) {
    if (comm->device != device || comm->is_gone()) continue;
    for (Comm* member : comm->clique->members)
      if (member != nullptr && !member->is_gone())
        member->state = member->device == device ? ncclSystemError : ncclRemoteError;
  }
  monitor().changed.notify_all();
}

std::vector<Budget> budgets_on(int device) {
  const Lock lock(monitor().mutex);
  std::vector<Budget> out;
  for (const Comm* comm : state().comms)
    if (comm->device == device)
      out.push_back({comm->clique->size, set_or(comm->config.minCTAs, -1), set_or(comm->config.maxCTAs, -1)});
  return out;
}

}  // namespace weft::emulation::nccl
