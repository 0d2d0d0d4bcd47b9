#include "tools/train/process.h"

#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <fstream>

#include "core/gpu_info.h"
#include "tools/launcher.h"

namespace weft::tools {
namespace {

std::atomic<bool>& stop_flag() {
  static std::atomic<bool> flag{false};
  return flag;
}

extern "C" void request_stop(int) { stop_flag().store(true, std::memory_order_relaxed); }

}  // namespace

void install_signal_handlers() {
  stop_flag().store(false);  // made before a handler can need it
  struct sigaction action {};
  action.sa_handler = request_stop;
  action.sa_flags = SA_RESTART;
  sigaction(SIGUSR1, &action, nullptr);
  sigaction(SIGUSR2, &action, nullptr);
  if (find_launch()) prctl(PR_SET_PDEATHSIG, SIGKILL);  // mpirun killed with -9 leaves its ranks behind
}

bool stop_requested() noexcept { return stop_flag().load(std::memory_order_relaxed); }

std::int64_t peak_memory_bytes() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<std::int64_t>(usage.ru_maxrss) * 1024;
}

std::int64_t total_memory_bytes() {
  return static_cast<std::int64_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<std::int64_t>(sysconf(_SC_PAGESIZE));
}

std::string host_name() {
  char name[256] = {};
  return gethostname(name, sizeof name - 1) == 0 ? name : "unknown";
}

std::string processor_name() {
  std::ifstream in("/proc/cpuinfo");
  for (std::string line; std::getline(in, line);)
    if (const std::size_t colon = line.find(": "); line.starts_with("model name") && colon != std::string::npos)
      return line.substr(colon + 2);
  return "";
}

std::string device_name(Device device) {
  return device.kind == DeviceKind::kCpu ? processor_name() : gpu_info(device).name;
}

std::string_view name_of(DeviceKind kind) noexcept { return kind == DeviceKind::kCpu ? "cpu" : "gpu"; }

}  // namespace weft::tools
