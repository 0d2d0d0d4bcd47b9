// comm/local/group.h - what the ranks of one local group share: where they meet, and what each one brought.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "comm/communicator.h"
#include "core/error.h"

namespace weft::comm::local {

class Group;

/// All groups of one run_local_ranks(): abort() of any communicator fails them all, as MPI_Abort does.
class Job {
 public:
  explicit Job(std::chrono::milliseconds timeout) : timeout_(timeout) {}
  [[nodiscard]] std::chrono::milliseconds timeout() const noexcept { return timeout_; }
  [[nodiscard]] std::shared_ptr<Group> make_group(int size, std::string name);
  void abort() noexcept;

 private:
  std::chrono::milliseconds timeout_;
  std::mutex mutex_;
  bool aborted_ = false;
  std::vector<std::weak_ptr<Group>> groups_;
};

/// What one rank brings to one collective. The memory behind it is the caller's: peers read it between meet() and
/// part().
struct Offer {
  std::string_view collective = {};
  ConstBuffer send = {};
  Buffer recv = {};
  std::span<const std::int64_t> counts = {};
  ReduceOp op = ReduceOp::kSum;
  int root = 0;
  std::span<const SendOp> sends = {};
  int color = 0;
  int key = 0;
  std::shared_ptr<Group> made = nullptr;  ///< split: the new group, left by its first rank.
};

/// A collective is meet(), copying from peers, part(). meet() passes on all ranks or on none, and can fail; after it
/// all ranks are there, so part() always comes, and nobody's memory goes away while a peer still reads it.
class Group {
 public:
  Group(int size, std::string name, std::chrono::milliseconds timeout)
      : name_(std::move(name)), timeout_(timeout), offers_(static_cast<std::size_t>(size)), arrived_(offers_.size()) {}

  /// Blocks until all ranks have made their offer. Throws kTimeout naming the ranks that did not come, kComm after
  /// abort().
  void meet(int rank, Offer offer);
  /// Blocks until all ranks have come here. Call once for each meet(), and between steps that read what peers wrote.
  void part(int rank);
  [[nodiscard]] Offer& offer(int rank) { return offers_[static_cast<std::size_t>(rank)]; }
  void fail(ErrorCode code, const std::string& why);

 private:
  /// Marks the arrival. True for the last rank: it has released the others.
  bool arrive(int rank);
  [[noreturn]] void throw_failure(int rank) const;
  [[nodiscard]] std::string missing_ranks() const;

  std::string name_;
  std::chrono::milliseconds timeout_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Offer> offers_;
  std::vector<bool> arrived_;
  std::size_t num_arrived_ = 0;
  std::uint64_t generation_ = 0;
  std::optional<ErrorCode> failure_;
  std::string failure_text_;
};

}  // namespace weft::comm::local
