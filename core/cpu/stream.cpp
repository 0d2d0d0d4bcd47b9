// core/cpu/stream.cpp - one worker thread and one queue; and a stream that runs its work at once.
#include <atomic>
#include <condition_variable>
#include <deque>
#include <exception>
#include <mutex>
#include <string>
#include <thread>
#include <utility>

#include "core/cpu/backend.h"
#include "core/cpu/thread.h"
#include "core/log.h"

namespace weft::cpu {
namespace {

void log_uncollected(const std::string& name, const std::exception_ptr& error) {
  if (!error) return;
  try {
    std::rethrow_exception(error);
  } catch (const std::exception& e) {
    log()->error("stream {}: nobody collected this error: {}", name, e.what());
  } catch (...) {
    log()->error("stream {}: nobody collected an unknown error", name);
  }
}

class EventState final : public Event::State {
 public:
  bool done() const override { return done_.load(std::memory_order_acquire); }
  void wait() const override {
    // Looks for some microseconds first: to sleep and be woken costs more, and most waits in a step are short. Between
    // rounds of looks whoever else is ready gets the core, which may be what this waits for.
    constexpr int kLooks = 1000, kRounds = 12;
    for (int round = 0; round < kRounds && !done(); ++round) {
      for (int i = 0; i < kLooks && !done(); ++i) {
      }
      if (!done()) std::this_thread::yield();
    }
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return done(); });
    if (error_) std::rethrow_exception(error_);
  }
  void finish(std::exception_ptr error) const {
    {
      std::lock_guard lock(mutex_);
      error_ = std::move(error);
      done_.store(true, std::memory_order_release);
    }
    changed_.notify_all();
  }

 private:
  mutable std::mutex mutex_;
  mutable std::condition_variable changed_;
  mutable std::atomic<bool> done_ = false;
  mutable std::exception_ptr error_;
};

class WorkerStream final : public Stream {
 public:
  WorkerStream(Device device, std::string_view name, StreamPriority priority)
      : device_(device), name_(name), worker_([this, priority] {
          name_this_thread(name_);
          if (priority == StreamPriority::kHigh) prefer_this_thread();
          run();
        }) {}
  ~WorkerStream() override {
    push(nullptr);
    worker_.join();
    log_uncollected(name_, error_);
  }

  Device device() const noexcept override { return device_; }
  void* native() const noexcept override { return nullptr; }
  void enqueue(std::function<void()> work) override {
    push([this, work = std::move(work)] {
      if (!error_) guard(work);
    });
  }
  Event record() override {
    auto state = std::make_shared<EventState>();
    push([this, state] { state->finish(error_); });
    return Event(state);
  }
  void wait(const Event& event) override {
    push([this, event] { guard([&] { event.wait(); }); });
  }
  void keep_alive(std::shared_ptr<const void> owner) override {
    push([owner = std::move(owner)] {});
  }
  void synchronize() override {
    auto state = std::make_shared<EventState>();
    push([this, state] { state->finish(std::exchange(error_, nullptr)); });
    state->wait();
  }

 private:
  template <class F>
  void guard(const F& work) try {
    work();
  } catch (...) {
    if (!error_) error_ = std::current_exception();
  }

  void push(std::function<void()> task) {
    {
      std::lock_guard lock(mutex_);
      queue_.push_back(std::move(task));
    }
    ready_.notify_one();
  }
  void run() {
    for (;;) {
      std::function<void()> task;
      {
        std::unique_lock lock(mutex_);
        ready_.wait(lock, [&] { return !queue_.empty(); });
        task = std::move(queue_.front());
        queue_.pop_front();
      }
      if (!task) return;  // the destructor's mark
      task();
    }
  }

  Device device_;
  std::string name_;
  std::mutex mutex_;
  std::condition_variable ready_;
  std::deque<std::function<void()>> queue_;
  std::exception_ptr error_;  // touched by the worker alone
  std::thread worker_;        // last: starts when the rest is there
};

class InlineStream final : public Stream {
 public:
  ~InlineStream() override { log_uncollected("inline", error_); }
  Device device() const noexcept override { return {}; }
  void* native() const noexcept override { return nullptr; }
  void enqueue(std::function<void()> work) override {
    if (!error_) guard(work);
  }
  Event record() override {
    auto state = std::make_shared<EventState>();
    state->finish(error_);
    return Event(state);
  }
  void wait(const Event& event) override {
    guard([&] { event.wait(); });
  }
  void keep_alive(std::shared_ptr<const void>) override {}
  void synchronize() override {
    if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
  }

 private:
  template <class F>
  void guard(const F& work) try {
    work();
  } catch (...) {
    if (!error_) error_ = std::current_exception();
  }
  std::exception_ptr error_;
};

}  // namespace

std::unique_ptr<Stream> make_stream(Device device, std::string_view name, StreamPriority priority) {
  return std::make_unique<WorkerStream>(device, name, priority);
}

std::unique_ptr<Stream> make_inline_stream() { return std::make_unique<InlineStream>(); }

}  // namespace weft::cpu
