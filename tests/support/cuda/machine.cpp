#include "tests/support/cuda/machine.h"

#include <ucontext.h>
#include <csetjmp>
#include <cstdint>
#include <cstdlib>

#include <unordered_map>
#include <utility>
#include <vector>

namespace weft::kernels::cuda {
thread_local unsigned char dynamic_bytes[emulation::kSharedBytes] __attribute__((aligned(16)));
}

namespace weft::emulation {
namespace {

int device_count = 1;
thread_local int device_of_thread = 0;

}  // namespace

int num_devices() { return device_count; }
void set_num_devices(int count) { device_count = count; }
int current_device() { return device_of_thread; }
void set_current_device(int device) { device_of_thread = device; }

Queue::~Queue() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void Queue::push(std::function<void()> work) {
  if (capture_ != nullptr) return capture_->add(*this, std::move(work));
  {
    std::lock_guard lock(mutex_);
    work_.push_back(std::move(work));
  }
  changed_.notify_all();
}

void Queue::drain() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return work_.empty() && !busy_; });
}

void Queue::run() {
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [&] { return stop_ || !work_.empty(); });
    if (work_.empty()) return;
    auto work = std::move(work_.front());
    work_.pop_front();
    busy_ = true;
    lock.unlock();
    work();
    work = nullptr;
    lock.lock();
    busy_ = false;
    changed_.notify_all();
  }
}

void Point::reach() {
  {
    std::lock_guard lock(mutex_);
    reached_ = true;
    when_ = std::chrono::steady_clock::now();
  }
  changed_.notify_all();
}
void Point::wait() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return reached_; });
}
bool Point::reached() {
  std::lock_guard lock(mutex_);
  return reached_;
}

int shared_limit() {
  const char* text = std::getenv("WEFT_EMULATION_SHARED");
  return text != nullptr ? std::atoi(text) : static_cast<int>(kSharedBytes);
}

namespace {

struct DeviceMemory {
  struct Block {
    int device;
    std::size_t bytes;
  };
  std::mutex mutex;
  std::unordered_map<void*, Block> block_at;
  std::unordered_map<int, std::size_t> in_use;  // by device
};
DeviceMemory& device_memory() {
  static auto& all = *new DeviceMemory;  // memory of statics goes back late
  return all;
}

}  // namespace

std::size_t device_bytes() {
  const char* text = std::getenv("WEFT_EMULATION_MEMORY");
  return text != nullptr ? std::strtoull(text, nullptr, 10) : kDeviceBytes;
}
std::size_t device_bytes_in_use(int device) {
  DeviceMemory& all = device_memory();
  const std::lock_guard lock(all.mutex);
  return all.in_use[device];
}
void* allocate_device_bytes(int device, std::size_t bytes) {
  constexpr std::size_t kAlignment = 256;
  DeviceMemory& all = device_memory();
  const std::lock_guard lock(all.mutex);
  const std::size_t most = device_bytes();
  if (const char* largest = std::getenv("WEFT_EMULATION_LARGEST");
      largest != nullptr && bytes > std::strtoull(largest, nullptr, 10))
    return nullptr;
  std::size_t& in_use = all.in_use[device];
  if (bytes > most || in_use > most - bytes) return nullptr;
  void* const data = std::aligned_alloc(kAlignment, (bytes + kAlignment - 1) / kAlignment * kAlignment);
  if (data == nullptr) return nullptr;
  all.block_at[data] = {device, bytes};
  in_use += bytes;
  return data;
}
void free_device_bytes(void* data) {
  if (data == nullptr) return;
  DeviceMemory& all = device_memory();
  const std::lock_guard lock(all.mutex);
  const auto at = all.block_at.find(data);
  all.in_use[at->second.device] -= at->second.bytes;
  all.block_at.erase(at);
  std::free(data);
}

int order_mode() {
  static const int mode = [] {
    const char* text = std::getenv("WEFT_EMULATION_ORDER");
    return text != nullptr ? std::atoi(text) : 0;
  }();
  return mode;
}

bool LaunchConfig::is_valid() const {
  return gridDim.x > 0 && gridDim.y > 0 && gridDim.y <= 65535 && blockDim.x > 0 && blockDim.x <= 1024 &&
         blockDim.x % kWarpLanes == 0 && dynamicSmemBytes <= static_cast<std::size_t>(shared_limit());
}

namespace {

/// Who has come to a barrier.
struct Barrier {
  unsigned arrived = 0, round = 0;
};
struct Warp {
  Barrier barrier;
  unsigned alive = kWarpLanes;
  alignas(8) unsigned char slots[kWarpLanes][kExchangeBytes] = {};
};
struct Thread {
  Dim index;
  bool done = false, started = false;
  ucontext_t start;     // how it begins
  std::jmp_buf resume;  // how it goes on: unlike swapcontext, without calls of the system
};

/// The threads of one block, on the stacks of this operating system thread.
class Block {
 public:
  Block(const LaunchConfig& config, const std::function<void()>& body)
      : body_(body),
        threads_(config.blockDim.x),
        stacks_(std::make_unique_for_overwrite<unsigned char[]>(threads_.size() * kStackBytes)) {
    grid_.size = config.gridDim;
    grid_.block_size = config.blockDim;
  }
  void run(unsigned x, unsigned y);
  void wait_at(Barrier& barrier, unsigned expected, std::size_t run);
  void wait_at_block() { wait_at(barrier_, alive_, threads_.size()); }
  void wait_at_warp() { wait_at(warp().barrier, warp().alive, order_mode() == 1 ? kWarpLanes : threads_.size()); }
  [[nodiscard]] Warp& warp() { return warps_[now().index.x / kWarpLanes]; }
  [[nodiscard]] Thread& now() { return threads_[order_[place_]]; }
  [[nodiscard]] Grid& grid() { return grid_; }

 private:
  static constexpr std::size_t kStackBytes = 64 << 10;
  static void enter();
  void choose_order();
  /// To the next thread that is not done, of the `run` threads in a row (the warp's or the block's) that this one is
  /// among; returns when it is this one's turn again.
  void go_on(std::size_t run);
  void leave();  // for good
  void release(Barrier& barrier, unsigned expected) {
    if (barrier.arrived == 0 || barrier.arrived < expected) return;
    barrier.arrived = 0;
    ++barrier.round;
  }

  const std::function<void()>& body_;
  Grid grid_;
  std::vector<Thread> threads_;
  std::unique_ptr<unsigned char[]> stacks_;
  std::vector<Warp> warps_;
  std::vector<unsigned> order_;
  std::size_t place_ = 0;
  unsigned alive_ = 0, idle_turns_ = 0;
  Barrier barrier_;
  std::jmp_buf scheduler_;
};

thread_local Block* current = nullptr;

void Block::choose_order() {
  const int mode = order_mode();
  const auto count = static_cast<unsigned>(threads_.size());
  order_.resize(count);
  for (unsigned i = 0; i < count; ++i) order_[i] = mode == 1 ? count - 1 - i : i;
  std::uint32_t state = grid_.block.x * 7919U + grid_.block.y * 104729U + 1U;
  for (unsigned i = count - 1; mode == 2 && i > 0; --i) {
    state = state * 1664525U + 1013904223U;
    std::swap(order_[i], order_[(state >> 8) % (i + 1)]);
  }
}

void Block::run(unsigned x, unsigned y) {
  thread_local std::uint64_t turns = 0;
  grid_.block = Dim(x, y, 0);
  grid_.turn = ++turns;
  choose_order();
  warps_.assign(threads_.size() / kWarpLanes, Warp{});
  alive_ = static_cast<unsigned>(threads_.size());
  for (unsigned i = 0; i < threads_.size(); ++i) {
    Thread& thread = threads_[i];
    thread.index = Dim(i, 0, 0);
    thread.done = thread.started = false;
    getcontext(&thread.start);
    thread.start.uc_stack.ss_sp = stacks_.get() + i * kStackBytes;
    thread.start.uc_stack.ss_size = kStackBytes;
    thread.start.uc_link = nullptr;
    makecontext(&thread.start, &Block::enter, 0);
  }
  place_ = 0;
  if (_setjmp(scheduler_) == 0) {
    now().started = true;
    setcontext(&now().start);
  }
}

void Block::enter() {
  current->body_();
  current->leave();
}

void Block::leave() {
  Thread& thread = now();
  thread.done = true;
  if (--alive_ == 0) _longjmp(scheduler_, 1);
  --warp().alive;
  release(barrier_, alive_);
  release(warp().barrier, warp().alive);
  idle_turns_ = 0;
  go_on(threads_.size());
}

void Block::go_on(std::size_t run) {
  Thread& from = now();
  if (++idle_turns_ > 4 * threads_.size()) std::abort();  // all wait at barriers that not all will reach
  const std::size_t first = place_ / run * run;
  do place_ = first + (place_ - first + 1) % run;
  while (now().done);
  Thread& to = now();
  if (&to == &from) return;
  if (!from.done && _setjmp(from.resume) != 0) return;
  if (to.started) _longjmp(to.resume, 1);
  to.started = true;
  setcontext(&to.start);
}

void Block::wait_at(Barrier& barrier, unsigned expected, std::size_t run) {
  const unsigned round = barrier.round;
  ++barrier.arrived;
  release(barrier, expected);
  if (barrier.round != round) idle_turns_ = 0;
  while (barrier.round == round) go_on(run);
}

}  // namespace

void run_grid(const LaunchConfig& config, const std::function<void()>& body) {
  Block block(config, body);
  current = &block;
  blockDim = config.blockDim;
  gridDim = config.gridDim;
  for (unsigned y = 0; y < config.gridDim.y; ++y)
    for (unsigned x = 0; x < config.gridDim.x; ++x) block.run(x, y);
  current = nullptr;
}

Grid& grid() { return current->grid(); }
const Dim& this_thread_index() { return current->now().index; }
void block_barrier() { current->wait_at_block(); }
void warp_barrier() { current->wait_at_warp(); }
void* exchange_slot(unsigned lane) { return current->warp().slots[lane]; }

}  // namespace weft::emulation
