#include "comm/local/group.h"

#include <algorithm>
#include <utility>

namespace weft::comm::local {

std::shared_ptr<Group> Job::make_group(int size, std::string name) {
  auto group = std::make_shared<Group>(size, std::move(name), timeout_);
  std::lock_guard lock(mutex_);
  if (aborted_) group->fail(ErrorCode::kComm, "another rank failed");
  std::erase_if(groups_, [](const auto& g) { return g.expired(); });
  groups_.push_back(group);
  return group;
}

void Job::abort() noexcept {
  std::vector<std::weak_ptr<Group>> groups;
  {
    std::lock_guard lock(mutex_);
    aborted_ = true;
    groups.swap(groups_);
  }
  for (const auto& weak : groups)
    if (const auto group = weak.lock()) group->fail(ErrorCode::kComm, "another rank failed");
}

void Group::fail(ErrorCode code, const std::string& why) {
  {
    std::lock_guard lock(mutex_);
    if (!failure_) {
      failure_ = code;
      failure_text_ = why;
    }
  }
  changed_.notify_all();
}

bool Group::arrive(int rank) {
  arrived_[static_cast<std::size_t>(rank)] = true;
  if (++num_arrived_ < arrived_.size()) return false;
  num_arrived_ = 0;
  std::fill(arrived_.begin(), arrived_.end(), false);
  ++generation_;
  changed_.notify_all();
  return true;
}

void Group::meet(int rank, Offer mine) {
  std::unique_lock lock(mutex_);
  offer(rank) = std::move(mine);
  if (failure_) throw_failure(rank);
  const std::uint64_t before = generation_;
  if (arrive(rank)) return;
  const auto released = [&] { return generation_ != before || failure_; };
  if (timeout_.count() == 0) {
    changed_.wait(lock, released);
  } else if (!changed_.wait_for(lock, timeout_, released)) {
    failure_ = ErrorCode::kTimeout;
    failure_text_ = str("no answer from ", missing_ranks(), " within ", timeout_.count(), " ms");
    changed_.notify_all();
  }
  if (generation_ == before) throw_failure(rank);  // a meeting that took place counts, whatever failed since
}

void Group::part(int rank) {
  std::unique_lock lock(mutex_);
  const std::uint64_t before = generation_;
  if (!arrive(rank)) changed_.wait(lock, [&] { return generation_ != before; });
}

void Group::throw_failure(int rank) const {
  const Offer& mine = offers_[static_cast<std::size_t>(rank)];
  throw Error(*failure_,
              str(mine.collective, " on rank ", rank, " of ", offers_.size(), " (group ", name_, "): ", failure_text_));
}

std::string Group::missing_ranks() const {
  std::string ranks;
  for (std::size_t r = 0; r < arrived_.size(); ++r)
    if (!arrived_[r]) ranks += str(ranks.empty() ? "" : ", ", r);
  return "rank " + ranks;
}

}  // namespace weft::comm::local
