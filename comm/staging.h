// comm/staging.h - one collective on its way through pinned host memory: copies, the host's part, copies back.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "comm/communicator.h"
#include "core/memory.h"
#include "core/stream.h"

namespace weft::comm {

/// Pinned memory that one collective after the other uses. Collectives of different streams may share it.
class Staging {
 public:
  explicit Staging(Device device) : device_(device) {}
  Staging(const Staging&) = delete;
  Staging& operator=(const Staging&) = delete;
  ~Staging();  ///< Waits for the last user.

 private:
  friend class StagedTransfer;
  Device device_;
  std::shared_ptr<const Memory> memory_;
  Event free_;  // the last user's copies back are done
};

/// Made inside a task of `stream`. All fetch() and run() come before finish(); the copies back that store() asks for
/// come after the last run() before it.
class StagedTransfer {
 public:
  using Work = std::function<void(Stream& worker)>;

  /// `bytes`: what all take() together may hold, each rounded up by staged_bytes().
  StagedTransfer(Staging& staging, Stream& worker, Stream& stream, std::int64_t bytes);
  StagedTransfer(const StagedTransfer&) = delete;
  StagedTransfer& operator=(const StagedTransfer&) = delete;

  [[nodiscard]] Buffer take(std::int64_t count, DType dtype);
  /// host [n] <- device [n], in stream order.
  void fetch(Buffer host, const void* device);
  /// `work` runs on the worker once all fetches so far are there, and after all earlier work. A device that is lost
  /// keeps it from running; contents that a kernel reported as wrong do not: peers wait for this rank.
  void run(Work work);
  void store(void* device, ConstBuffer host);
  void finish();

 private:
  struct Copy {
    void* to;
    ConstBuffer from;
  };
  struct Step {
    Event done;
    std::vector<Copy> stores;
  };
  Staging& staging_;
  Stream& worker_;
  Stream& stream_;
  std::int64_t taken_bytes_ = 0;
  std::vector<Step> steps_;
};

[[nodiscard]] constexpr std::int64_t staged_bytes(std::int64_t bytes) noexcept { return (bytes + 63) / 64 * 64; }

}  // namespace weft::comm
