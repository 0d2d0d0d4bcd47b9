// tools/bench/bench_collectives.cpp - bus bandwidth of collectives, per class of links and size.
#include "tools/bench/bench_collectives.h"

#include <sys/resource.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <functional>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "comm/factory.h"
#include "comm/for_device.h"
#include "comm/topology.h"
#include "core/error.h"
#include "core/first_error.h"
#include "core/memory.h"
#include "core/stream_clock.h"
#include "kernels/gemm.h"
#include "kernels/reduce.h"
#include "parallel/train/collective_probe.h"
#include "parallel/train/probe_clock.h"
#include "scheduler/fit.h"
#include "tools/bench/bench_device.h"
#include "tools/exit_status.h"
#include "tools/train/process.h"

namespace weft::tools {
namespace {

using Clock = std::chrono::steady_clock;
using scheduler::WorkKind;

double us_since(Clock::time_point start) {
  return std::chrono::duration<double, std::micro>(Clock::now() - start).count();
}

/// CPU time of all threads of this process, microseconds.
double process_cpu_us() {
  rusage use{};
  getrusage(RUSAGE_SELF, &use);
  const auto us = [](const timeval& t) { return 1e6 * static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_usec); };
  return us(use.ru_utime) + us(use.ru_stime);
}

/// A thread that multiplies matrices on `device` until it is destroyed.
class ComputeLoad {
 public:
  explicit ComputeLoad(Device device)
      : stream_(device.kind == DeviceKind::kCpu ? make_inline_stream() : make_stream(device, "load")),
        rows_(device.kind == DeviceKind::kCpu ? 64 : 2048),
        width_(device.kind == DeviceKind::kCpu ? 256 : 4096),
        x_(device, rows_ * width_ * std::int64_t{sizeof(float)}),
        w_(device, width_ * width_ * std::int64_t{sizeof(float)}),
        y_(device, x_.bytes()) {
    stream_->enqueue([&] {
      kernels::fill<float>(*stream_, x_.as<float>(), rows_ * width_, 0.5F);
      kernels::fill<float>(*stream_, w_.as<float>(), width_ * width_, 0.25F);
    });
    thread_ = std::thread([this] { error_.run([this] { run(); }); });
  }
  ComputeLoad(const ComputeLoad&) = delete;
  ComputeLoad& operator=(const ComputeLoad&) = delete;
  ~ComputeLoad() {
    stop_ = true;
    thread_.join();
  }
  /// Finished so far. Throws what ended the thread, if something did.
  [[nodiscard]] std::int64_t products() const {
    error_.rethrow();
    return products_;
  }

 private:
  void run() {
    while (!stop_) {
      stream_->enqueue([&] {
        kernels::gemm<float>(*stream_, {y_.as<float>(), rows_, width_},
                             Matrix<const float>(x_.as<float>(), rows_, width_), kernels::Transpose::kNo,
                             Matrix<const float>(w_.as<float>(), width_, width_), kernels::Transpose::kYes);
      });
      stream_->synchronize();
      ++products_;
    }
  }
  std::unique_ptr<Stream> stream_;
  std::int64_t rows_, width_;
  Memory x_, w_, y_;
  std::atomic<bool> stop_ = false;
  std::atomic<std::int64_t> products_ = 0;
  FirstError error_;
  std::thread thread_;
};

/// Products per microsecond of all ranks' compute threads while nothing else runs.
double products_per_us(comm::Communicator& world, const ComputeLoad& load) {
  comm::barrier(world, *make_inline_stream());
  const auto start = Clock::now();
  const std::int64_t before = load.products();
  std::this_thread::sleep_for(std::chrono::milliseconds(200));
  std::vector<double> rate{static_cast<double>(load.products() - before) / us_since(start)};
  parallel::agree(world, rate, comm::ReduceOp::kSum);
  return rate[0];
}

struct LinkGroup {
  std::string link;
  std::unique_ptr<comm::Communicator> comm;
};

/// The ranks of each node, the ranks of equal place on all nodes, and all ranks: those with more than one rank.
/// `all`: the ranks of `world`, over memory of the device. Throws where nodes differ in their ranks.
std::vector<LinkGroup> link_groups(comm::Communicator& world, comm::Communicator& all) {
  const comm::Topology topology = comm::find_topology(world, *make_inline_stream());
  const int ranks_per_node = comm::ranks_of_each_node(topology);
  std::vector<LinkGroup> out;
  const auto add = [&](const char* link, int color, int key) {
    auto group = all.split(color, key, link);
    if (group->size() > 1) out.push_back({link, std::move(group)});
  };
  add("intra", topology.node_index, topology.local_rank);
  if (topology.num_nodes > 1) add("inter", topology.local_rank, topology.node_index);
  if (topology.num_nodes > 1 && ranks_per_node > 1) add("both", 0, world.rank());
  return out;
}

/// One row of the table: `repeats` runs of one size, all groups of the class at once.
nlohmann::ordered_json measure(comm::Communicator& world, LinkGroup& group, const BenchCollectiveOptions& o,
                               Device device, double bytes, const ComputeLoad* load) {
  const auto stream = make_stream(device, "collective", StreamPriority::kHigh);  // as a step has it
  const auto host = make_inline_stream();
  const auto clock = make_stream_clock(device, 2);
  const auto run_on = [&stream](const std::function<void()>& work) {
    stream->enqueue(work);
    stream->synchronize();
  };
  const bool all_reduce = o.kind == WorkKind::kAllReduce;
  const double p = group.comm->size(), on_wire = (all_reduce ? 2.0 : 1.0) * (p - 1) / p;
  parallel::CollectiveProbe collective(*group.comm, o.kind, bytes * on_wire, device);
  run_on([&] { collective.run(*stream); });
  std::vector<double> times;
  double cpu_us = 0.0, window_us = 0.0;  // of the windows in which CPU time and products are counted
  std::int64_t products = 0;
  // alone before and after, so that a machine that gets slower or faster does not look like contention
  double alone = load != nullptr ? products_per_us(world, *load) : 0.0;
  for (int i = 0; i < o.repeats; ++i) {
    double cpu_before = 0.0;
    std::int64_t products_before = 0;
    Clock::time_point start;
    clock->start();
    run_on([&] {
      comm::barrier(world, *host);
      cpu_before = process_cpu_us();
      products_before = load != nullptr ? load->products() : 0;
      start = Clock::now();
      clock->note(0, *stream);
      collective.run(*stream);
      clock->note(1, *stream);
    });
    window_us += us_since(start);
    cpu_us += process_cpu_us() - cpu_before;
    if (load != nullptr) products += load->products() - products_before;
    times.push_back(clock->us(1) - clock->us(0));
  }
  if (load != nullptr) alone = (alone + products_per_us(world, *load)) / 2.0;
  std::vector<double> sums{window_us, cpu_us, static_cast<double>(products)};
  parallel::agree(world, times);  // a collective takes as long as its last rank
  parallel::agree(world, sums, comm::ReduceOp::kSum);
  const double us = scheduler::quantile(times, 0.5);
  nlohmann::ordered_json row{{"link", group.link},
                             {"ranks", group.comm->size()},
                             {"bytes", collective.buffer_bytes()},
                             {"us", us},
                             {"us_min", *std::min_element(times.begin(), times.end())},
                             {"us_max", *std::max_element(times.begin(), times.end())},
                             {"algorithm_mb_per_s", collective.buffer_bytes() / us},
                             {"bus_mb_per_s", collective.buffer_bytes() * on_wire / us},
                             {"cores_per_rank", sums[1] / sums[0]}};
  if (load != nullptr) {
    row.erase("cores_per_rank");  // the compute thread's
    row["compute_alone_per_us"] = alone;
    row["products_per_us"] = sums[2] / (sums[0] / world.size());
  }
  return row;
}

void print(const nlohmann::ordered_json& facts) {
  const bool compute = !facts["rows"].empty() && facts["rows"][0].contains("compute_alone_per_us");
  std::cout << facts["device"].get<std::string>()
            << "\nlink   ranks       bytes           us  (min .. max)           algorithm MB/s    bus MB/s  "
            << (compute ? "compute rate left\n" : "cores per rank\n");
  for (const auto& row : facts["rows"]) {
    char line[200];
    std::snprintf(line, sizeof line, "%-6s %5d %11.0f %12.1f  (%9.1f .. %9.1f) %12.1f %11.1f  %8.3f\n",
                  row["link"].get<std::string>().c_str(), row["ranks"].get<int>(), row["bytes"].get<double>(),
                  row["us"].get<double>(), row["us_min"].get<double>(), row["us_max"].get<double>(),
                  row["algorithm_mb_per_s"].get<double>(), row["bus_mb_per_s"].get<double>(),
                  compute ? row["products_per_us"].get<double>() / row["compute_alone_per_us"].get<double>()
                          : row["cores_per_rank"].get<double>());
    std::cout << line;
  }
}

}  // namespace

int bench_collective(const BenchCollectiveOptions& o, bool as_json) {
  kernels::set_blas_threads(1);
  const auto world = comm::make_world();
  if (world->size() < 2)
    throw Error(ErrorCode::kInvalidArgument, "a collective of one rank moves nothing", "mpirun -n 4 weft bench ...");
  const Device device = bench_device(o.device, *world);
  const auto all = comm::for_device(*world, device);
  std::vector<LinkGroup> groups = link_groups(*world, *all);
  nlohmann::ordered_json facts{{"collective", std::string(to_string(o.kind))},
                               {"device", device_name(device)},
                               {"rows", nlohmann::ordered_json::array()}};
  std::optional<ComputeLoad> load;
  if (o.compute) load.emplace(device);
  for (LinkGroup& group : groups)
    for (double bytes = o.min_bytes; bytes <= o.max_bytes; bytes *= 4)
      facts["rows"].push_back(measure(*world, group, o, device, bytes, load ? &*load : nullptr));
  if (world->rank() != 0) return kExitDone;
  if (as_json)
    std::cout << facts.dump(2) << "\n";
  else
    print(facts);
  return kExitDone;
}

}  // namespace weft::tools
