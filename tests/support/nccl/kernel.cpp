// tests/support/nccl/kernel.cpp - what the emulated NCCL runs on a stream.
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <type_traits>

#include "core/bf16.h"
#include "tests/support/nccl/clique.h"

namespace weft::emulation::nccl {
namespace {

using Lock = std::unique_lock<std::mutex>;

/// NCCL's kernels on one GPU: the worst case, where one of them fills it. With NCCL_LAUNCH_ORDER_IMPLICIT they start in
/// the order of their launches.
struct Gpu {
  std::uint64_t next_ticket = 0;
  std::set<std::uint64_t> waiting;
  bool busy = false;
};
Gpu& gpu(int device) {
  static auto& all = *new std::map<int, Gpu>;
  return all[device];
}

bool starts_in_launch_order() {
  const char* text = std::getenv("NCCL_LAUNCH_ORDER_IMPLICIT");
  return text != nullptr && std::atoi(text) != 0;
}

template <class T>
T combine(ncclRedOp_t op, T a, T b) {
  if (op == ncclSum) return static_cast<T>(a + b);
  if constexpr (std::is_integral_v<T>)
    return op == ncclMax ? std::max(a, b) : std::min(a, b);
  else
    return static_cast<T>(op == ncclMax ? std::fmax(a, b) : std::fmin(a, b));  // a NaN loses, as on the GPU
}

/// The sum of element `i`, as around a ring that ends at rank `last`: rounded to T at every rank.
template <class T>
T around_ring(const Meeting& meeting, std::size_t i, int last) {
  const int size = static_cast<int>(meeting.ops.size());
  const auto value = [&](int rank) { return static_cast<const T*>(meeting.ops[std::size_t(rank % size)].send)[i]; };
  T x = value(last + 1);
  for (int step = 2; step <= size; ++step) x = combine<T>(meeting.ops[0].reduction, value(last + step), x);
  return x;
}

/// [count] elements reduced; `last_of` says at which rank the sum of an element ends.
template <class T, class LastOf>
std::vector<T> reduced(const Meeting& meeting, std::size_t count, const LastOf& last_of) {
  std::vector<T> out(count);
  for (std::size_t i = 0; i < count; ++i) out[i] = around_ring<T>(meeting, i, last_of(i));
  return out;
}

template <class T>
void reduce(const Meeting& meeting) {
  const Op& first = meeting.ops[0];
  const std::size_t size = meeting.ops.size(), n = first.count;
  const auto copy = [](const std::vector<T>& from, std::size_t begin, const Op& to) {
    std::copy_n(from.begin() + static_cast<std::ptrdiff_t>(begin), to.count, static_cast<T*>(to.recv));
  };
  if (first.kind == Kind::kAllReduce) {
    const auto all = reduced<T>(meeting, n, [&](std::size_t i) { return static_cast<int>(i * size / n); });
    for (const Op& op : meeting.ops) copy(all, 0, op);
  } else if (first.kind == Kind::kReduce) {
    const auto all = reduced<T>(meeting, n, [&](std::size_t) { return first.peer; });
    copy(all, 0, meeting.ops[static_cast<std::size_t>(first.peer)]);
  } else {
    const auto all = reduced<T>(meeting, n * size, [&](std::size_t i) { return static_cast<int>(i / n); });
    for (std::size_t r = 0; r < size; ++r) copy(all, r * n, meeting.ops[r]);
  }
}

void reduce_any(const Meeting& meeting) {
  switch (meeting.ops[0].type) {
    case ncclFloat32:
      return reduce<float>(meeting);
    case ncclFloat64:
      return reduce<double>(meeting);
    case ncclBfloat16:
      return reduce<BF16>(meeting);
    case ncclInt32:
      return reduce<std::int32_t>(meeting);
    case ncclInt64:
      return reduce<std::int64_t>(meeting);
    case ncclUint8:
      return reduce<std::uint8_t>(meeting);
  }
}

void gather(const Meeting& meeting) {
  const std::size_t bytes = meeting.ops[0].count * size_of(meeting.ops[0].type);
  std::vector<char> all(bytes * meeting.ops.size());
  for (std::size_t r = 0; r < meeting.ops.size(); ++r) std::memcpy(all.data() + r * bytes, meeting.ops[r].send, bytes);
  for (const Op& op : meeting.ops) std::memcpy(op.recv, all.data(), all.size());
}

void broadcast(const Meeting& meeting) {
  const Op& root = meeting.ops[static_cast<std::size_t>(meeting.ops[0].peer)];
  for (const Op& op : meeting.ops) std::memmove(op.recv, root.send, root.count * size_of(root.type));
}

bool same_call(const Op& a, const Op& b) {
  return a.kind == b.kind && a.count == b.count && a.type == b.type && a.reduction == b.reduction && a.peer == b.peer;
}

/// True when it could be done. What does not match hangs, as it would on a GPU.
bool perform(const Meeting& meeting) {
  for (const Op& op : meeting.ops)
    if (!same_call(op, meeting.ops[0])) {
      complain(ncclInvalidUsage, "ranks of a communicator launched collectives that differ");
      return false;
    }
  if (meeting.ops[0].kind == Kind::kAllGather)
    gather(meeting);
  else if (meeting.ops[0].kind == Kind::kBroadcast)
    broadcast(meeting);
  else
    reduce_any(meeting);
  return true;
}

void come_to(Comm& comm, std::uint64_t number, const Op& op) {
  Clique& clique = *comm.clique;
  Meeting& meeting = clique.meetings[number];
  if (meeting.ops.empty()) meeting.ops.resize(static_cast<std::size_t>(clique.size));
  meeting.ops[static_cast<std::size_t>(comm.rank)] = op;
  if (++meeting.num_here == clique.size && !clique.is_broken) meeting.done = perform(meeting);
}

/// Copies what both ends have posted, in order.
void deliver(Clique& clique, std::pair<int, int> link) {
  auto &sends = clique.sends[link], &recvs = clique.recvs[link];
  while (!clique.is_broken && !sends.empty() && !recvs.empty()) {
    Message &from = *sends.front(), &to = *recvs.front();
    if (from.op.count != to.op.count || from.op.type != to.op.type) {
      complain(ncclInvalidUsage, "a send and its receive differ in count or type");
      return;
    }
    std::memcpy(to.op.recv, from.op.send, from.op.count * size_of(from.op.type));
    from.done = to.done = true;
    sends.pop_front();
    recvs.pop_front();
  }
}

std::shared_ptr<Message> post(Comm& comm, const Op& op) {
  auto message = std::make_shared<Message>(Message{op});
  const bool sends = op.kind == Kind::kSend;
  const auto link = sends ? std::pair(comm.rank, op.peer) : std::pair(op.peer, comm.rank);
  (sends ? comm.clique->sends : comm.clique->recvs)[link].push_back(message);
  deliver(*comm.clique, link);
  return message;
}

/// Comes to all of the launch at once, and is over when all is done; or when the communicator is aborted.
void run(Comm& comm, const std::vector<Op>& ops, std::uint64_t first_collective, Lock& lock) {
  std::vector<std::shared_ptr<Message>> messages;
  std::uint64_t next = first_collective;
  for (const Op& op : ops) {
    if (op.kind == Kind::kSend || op.kind == Kind::kRecv)
      messages.push_back(post(comm, op));
    else
      come_to(comm, next++, op);
  }
  monitor().changed.notify_all();
  auto& meetings = comm.clique->meetings;
  monitor().changed.wait(lock, [&] {
    if (comm.aborted) return true;
    for (std::uint64_t n = first_collective; n < next; ++n)
      if (!meetings[n].done) return false;
    return std::all_of(messages.begin(), messages.end(), [](const auto& m) { return m->done; });
  });
  for (std::uint64_t n = first_collective; n < next && !comm.aborted; ++n)
    if (++meetings[n].num_left == comm.clique->size) meetings.erase(n);
}

/// A place among the GPU's kernels, and the number of the first collective.
struct Launched {
  std::uint64_t ticket, first_collective;
};
Launched enter(Comm& comm, const std::vector<Op>& ops) {
  const Launched out{gpu(comm.device).next_ticket++, comm.num_collectives};
  for (const Op& op : ops) comm.num_collectives += op.kind != Kind::kSend && op.kind != Kind::kRecv ? 1 : 0;
  gpu(comm.device).waiting.insert(out.ticket);
  ++comm.num_kernels;
  return out;
}

void execute(Comm& comm, const std::vector<Op>& ops, const Launched& launched, Lock& lock) {
  const bool in_order = starts_in_launch_order();
  Gpu& here = gpu(comm.device);
  monitor().changed.wait(
      lock, [&] { return comm.aborted || (!here.busy && (!in_order || *here.waiting.begin() == launched.ticket)); });
  here.waiting.erase(launched.ticket);
  if (!comm.aborted) {
    here.busy = true;
    run(comm, ops, launched.first_collective, lock);
    here.busy = false;
  }
  --comm.num_kernels;
  monitor().changed.notify_all();
}

/// A kernel in a graph, as long as the graph lives. Made with the lock held, destroyed without.
class Recorded {
 public:
  explicit Recorded(Comm& comm) : comm_(comm) { ++comm_.num_recorded; }
  Recorded(const Recorded&) = delete;
  Recorded& operator=(const Recorded&) = delete;
  ~Recorded() {
    const Lock lock(monitor().mutex);
    --comm_.num_recorded;
    monitor().changed.notify_all();
  }

 private:
  Comm& comm_;
};

}  // namespace

void launch_kernel(Comm& comm, cudaStream_t stream, std::vector<Op> ops) {
  if (Capture* capture = stream->capture()) {  // a launch each time that the graph comes to it
    capture->add_in_turn(*stream, [&comm, ops = std::move(ops), node = std::make_shared<Recorded>(comm)] {
      Lock lock(monitor().mutex);
      execute(comm, ops, enter(comm, ops), lock);
    });
    return;
  }
  const Launched launched = enter(comm, ops);
  stream->push([&comm, ops = std::move(ops), launched] {
    Lock lock(monitor().mutex);
    execute(comm, ops, launched, lock);
  });
}

}  // namespace weft::emulation::nccl
