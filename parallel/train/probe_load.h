// parallel/train/probe_load.h - what keeps a stream busy while another one is measured.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include "comm/communicator.h"
#include "core/device.h"
#include "core/memory.h"
#include "core/stream.h"
#include "core/stream_clock.h"

namespace weft::parallel {

/// How long a load runs, and of what pieces.
struct LoadSize {
  double us;          ///< Alone.
  int most_pieces;    ///< Launched ahead of the device.
  std::int64_t rows;  ///< Of a product.
};
/// CPU: several time slices of the operating system. GPU: launches must not wait for a full queue, which holds about a
/// thousand, and a piece must outlast its launch.
[[nodiscard]] LoadSize load_size(Device device);

/// Something that keeps one stream busy, piece by piece, alike on all ranks.
struct Load {
  std::function<void()> piece;
  std::unique_ptr<Stream> stream;  ///< As in a step: a thread that the system treats as it treats that stream's.
  std::unique_ptr<StreamClock> clock;
  int pieces = 1;

  void open(Device device, const char* name, StreamPriority priority);
  /// Enqueues turn `turn` of `turns`, which share `all` pieces; us() is there once the stream is synchronised.
  void launch(int turn, int turns, int all) const;
  [[nodiscard]] double us() const { return clock->us(1) - clock->us(0); }
  [[nodiscard]] double run() const;
};

/// Collective: time of all pieces alone, the mean over ranks.
[[nodiscard]] double run_alone(comm::Communicator& world, const Load& load);
/// Collective: as many pieces as fill the time of `size`, the same on all ranks.
[[nodiscard]] int pieces_of(comm::Communicator& world, Load& load, const LoadSize& size);
/// Waits for the streams of both; throws the first error, once both have ended.
void synchronize(const Load& a, const Load& b);

/// What an expert computes, as often as it is wanted: [rows, width] x [hidden, width]^T.
template <class T>
class ExpertProduct {
 public:
  ExpertProduct(Device device, std::int64_t rows, std::int64_t width, std::int64_t hidden);
  void run(Stream& stream) const;

 private:
  static Memory of(Device device, std::int64_t count) { return {device, count * std::int64_t{sizeof(T)}}; }
  std::int64_t rows_, width_, hidden_;
  Memory x_, w_, y_;  // [rows, width], [hidden, width], [rows, hidden]
};

}  // namespace weft::parallel
