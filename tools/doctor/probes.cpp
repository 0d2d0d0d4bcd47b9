// tools/doctor/probes.cpp - how fast memory and links are, in a second or two.
#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>
#include <functional>
#include <string_view>
#include <vector>

#include "comm/topology.h"
#include "core/error.h"
#include "core/gpu_info.h"
#include "core/memory.h"
#include "parallel/train/collective_probe.h"
#include "parallel/train/probe_clock.h"
#include "scheduler/fit.h"
#include "tools/doctor/checks.h"

namespace weft::tools {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kRepeats = 7;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

/// Median of several runs, after one that warms up.
double median_seconds(const std::function<void()>& run) {
  run();
  std::vector<double> times;
  for (int i = 0; i < kRepeats; ++i) {
    const auto start = Clock::now();
    run();
    times.push_back(seconds_since(start));
  }
  return scheduler::quantile(times, 0.5);
}

std::string rate_text(double bytes_per_s) { return bytes_text(bytes_per_s) + "/s"; }

/// Bandwidth of device memory by the makers' data sheets, GB/s; 0: not known here. Longer names come first.
double known_memory_gbps(std::string_view gpu) {
  struct Known {
    std::string_view name;
    double gbps;
  };
  constexpr std::array kKnown{Known{"B200", 8000},
                              Known{"GH200", 4000},
                              Known{"H200", 4800},
                              Known{"H100 PCIe", 2000},
                              Known{"H100 NVL", 3900},
                              Known{"H100", 3350},
                              Known{"A100-PCIE-40", 1555},
                              Known{"A100-SXM4-40", 1555},
                              Known{"A100", 2039},
                              Known{"L40S", 864},
                              Known{"L4", 300},
                              Known{"A10", 600},
                              Known{"RTX 4090", 1008},
                              Known{"V100", 900},
                              Known{"T4", 320}};
  for (const auto& [name, gbps] : kKnown)
    if (gpu.find(name) != std::string_view::npos) return gbps;
  return 0.0;
}

void probe_gpu(int index, Findings& findings) {
  const Device device{DeviceKind::kCuda, index};
  constexpr std::int64_t kBytes = std::int64_t{256} << 20;
  const auto stream = make_stream(device, "probe");
  const Memory a(device, kBytes), b(device, kBytes), host(device, kBytes, MemoryPlace::kPinned);
  const auto seconds = [&](void* to, const void* from) {
    return median_seconds([&] {
      stream->enqueue([&] { copy_bytes(*stream, to, from, kBytes); });
      stream->synchronize();
    });
  };
  const double on_device = 2.0 * kBytes / seconds(b.data(), a.data());  // read and written
  const double to_device = kBytes / seconds(a.data(), host.data()), to_host = kBytes / seconds(host.data(), a.data());
  const double known = 1e9 * known_memory_gbps(gpu_info(device).name);
  constexpr double kShare = 0.7;
  const std::string found = str(rate_text(on_device), known > 0 ? str(" of ", rate_text(known)) : "");
  if (known > 0 && on_device < kShare * known)
    findings.warn(str("GPU ", index, " memory"), found,
                  "does another process use it? nvidia-smi -q -d CLOCK,PERFORMANCE says what slows it down");
  else
    findings.ok(str("GPU ", index, " memory"), found);
  constexpr double kSlowLink = 10e9;  // PCIe 3.0 x16 gives 12 GB/s, 4.0 24, 5.0 50
  const std::string link = str(rate_text(to_device), " to it, ", rate_text(to_host), " from it");
  if (std::min(to_device, to_host) < kSlowLink)
    findings.warn(str("GPU ", index, " and host"), link,
                  "less than PCIe 3.0 x16: lspci -vv shows the width and speed of its slot; bind ranks to the socket "
                  "of their GPU");
  else
    findings.ok(str("GPU ", index, " and host"), link);
}

/// The ranks of one class of links, where there is more than one.
void probe_class(comm::Communicator& world, const char* link, int color, int key, Findings& findings) {
  const auto group = world.split(color, key, link);
  std::int32_t most = group->size();
  world.all_reduce(comm::as_buffer(&most, 1), comm::as_buffer(&most, 1), comm::ReduceOp::kMax, *make_inline_stream());
  if (most < 2) return;
  const auto stream = make_stream({}, "probe", StreamPriority::kHigh);  // as a step has it
  std::vector<std::string> texts;
  for (const double bytes : {double(4 << 10), double(4 << 20)}) {
    parallel::CollectiveProbe collective(*group, scheduler::WorkKind::kAllToAll, bytes);
    std::vector<double> us;
    for (int i = 0; i <= kRepeats; ++i) {
      stream->enqueue([&] {
        comm::barrier(world, *stream);
        const auto start = Clock::now();
        collective.run(*stream);
        us.push_back(1e6 * seconds_since(start));
      });
      stream->synchronize();
    }
    parallel::agree(world, us);  // a collective takes as long as its last rank
    us.erase(us.begin());        // warms up
    const double typical = scheduler::quantile(us, 0.5);
    char text[80];
    std::snprintf(text, sizeof text, "%s a rank in %.3g us", bytes_text(bytes).c_str(), typical);
    texts.push_back(bytes > 1e6 ? str(text, " (", rate_text(1e6 * bytes / typical), ")") : text);
  }
  findings.ok(str("links, ", link), str("all-to-all of ", group->size(), " ranks: ", texts[0], ", ", texts[1]));
}

}  // namespace

void probe_memory(Findings& findings) {
  constexpr std::int64_t kBytes = std::int64_t{64} << 20;
  std::vector<char> a(kBytes, 1), b(kBytes, 2);
  const double s = median_seconds([&] { std::memcpy(b.data(), a.data(), kBytes); });
  findings.ok("memory bandwidth", str(rate_text(2.0 * kBytes / s), ", one core copying"));
  for (int i = 0; i < num_devices(DeviceKind::kCuda); ++i) {
    try {
      probe_gpu(i, findings);
    } catch (const Error& e) {
      findings.fail(str("GPU ", i, " copies"), e.message(), e.hint());
    }
  }
}

void probe_links(comm::Communicator& world, Findings& findings) {
  const comm::Topology topology = comm::find_topology(world, *make_inline_stream());
  probe_class(world, "intra", topology.node_index, topology.local_rank, findings);
  if (topology.num_nodes > 1) probe_class(world, "inter", topology.local_rank, topology.node_index, findings);
}

}  // namespace weft::tools
