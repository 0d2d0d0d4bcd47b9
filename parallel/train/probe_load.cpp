#include "parallel/train/probe_load.h"

#include <algorithm>
#include <vector>

#include "core/first_error.h"
#include "kernels/gemm.h"
#include "kernels/reduce.h"
#include "parallel/train/probe_clock.h"

namespace weft::parallel {

LoadSize load_size(Device device) {
  if (device.kind == DeviceKind::kCpu) return {70e3, 10'000, 128};
  return {10e3, 250, 4096};
}

void Load::open(Device device, const char* name, StreamPriority priority) {
  stream = make_stream(device, name, priority);
  clock = make_stream_clock(device, 2);
}

void Load::launch(int turn, int turns, int all) const {
  stream->enqueue([this, turn, turns, all] {
    if (turn == 0) clock->note(0, *stream);
    for (int i = all * turn / turns; i < all * (turn + 1) / turns; ++i) piece();
    if (turn == turns - 1) clock->note(1, *stream);
  });
}

double Load::run() const {
  clock->start();
  launch(0, 1, pieces);
  stream->synchronize();
  return us();
}

double run_alone(comm::Communicator& world, const Load& load) {
  std::vector<double> time{load.run()};
  agree(world, time, comm::ReduceOp::kSum);
  return time[0] / world.size();
}

int pieces_of(comm::Communicator& world, Load& load, const LoadSize& size) {
  load.pieces = 3;
  static_cast<void>(load.run());  // the first ones are slow
  std::vector<double> time{load.run()};
  agree(world, time);
  return std::clamp(static_cast<int>(size.us / std::max(1.0, time[0] / load.pieces)), 3, size.most_pieces);
}

void synchronize(const Load& a, const Load& b) {
  FirstError error;
  for (const Load* each : {&a, &b}) error.run([&] { each->stream->synchronize(); });
  error.rethrow();
}

template <class T>
ExpertProduct<T>::ExpertProduct(Device device, std::int64_t rows, std::int64_t width, std::int64_t hidden)
    : rows_(rows),
      width_(width),
      hidden_(hidden),
      x_(of(device, rows * width)),
      w_(of(device, width * hidden)),
      y_(of(device, rows * hidden)) {
  const auto stream = make_waiting_stream(device);
  stream->enqueue([&] {
    kernels::fill<T>(*stream, x_.as<T>(), rows * width, T(0.5F));
    kernels::fill<T>(*stream, w_.as<T>(), width * hidden, T(0.25F));
  });
  stream->synchronize();
}

template <class T>
void ExpertProduct<T>::run(Stream& stream) const {
  kernels::gemm<T>(stream, {y_.as<T>(), rows_, hidden_}, Matrix<const T>(x_.as<T>(), rows_, width_),
                   kernels::Transpose::kNo, Matrix<const T>(w_.as<T>(), hidden_, width_), kernels::Transpose::kYes);
}

template class ExpertProduct<float>;
template class ExpertProduct<double>;
template class ExpertProduct<BF16>;

}  // namespace weft::parallel
