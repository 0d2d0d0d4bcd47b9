#include "parallel/train/probe_clock.h"

#include <chrono>
#include <ctime>

#include "scheduler/fit.h"

namespace weft::parallel {
namespace {

double local_us() {
  return std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace

ProbeClock::ProbeClock(comm::Communicator& world, int ranks_per_node) {
  constexpr int kTrials = 21;
  const auto stream = make_inline_stream();
  std::vector<double> offsets;
  for (int i = 0; i < kTrials; ++i) {
    comm::barrier(world, *stream);
    const double mine = local_us();
    double first = mine;
    world.broadcast(comm::as_buffer(&first, 1), 0, *stream);
    offsets.push_back(first - mine);
  }
  if (world.rank() / ranks_per_node > 0) offset_us_ = scheduler::quantile(offsets, 0.5);
}

double ProbeClock::now_us() const { return local_us() + offset_us_; }

double thread_cpu_us() {
  timespec t{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return 1e6 * static_cast<double>(t.tv_sec) + 1e-3 * static_cast<double>(t.tv_nsec);
}

void agree(comm::Communicator& world, std::vector<double>& values, comm::ReduceOp op) {
  const auto n = static_cast<std::int64_t>(values.size());
  world.all_reduce(comm::as_buffer(values.data(), n), comm::as_buffer(values.data(), n), op, *make_inline_stream());
}

void agree_on_least(comm::Communicator& world, std::vector<double>& values) {
  for (double& value : values) value = -value;
  agree(world, values);
  for (double& value : values) value = -value;
}

}  // namespace weft::parallel
