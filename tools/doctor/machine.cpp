// tools/doctor/machine.cpp - the machine below: processor, memory, limits.
#include <sched.h>
#include <sys/resource.h>
#include <sys/statvfs.h>

#include <cmath>
#include <cstdio>
#include <fstream>
#include <thread>

#include "core/error.h"
#include "tools/build_info.h"
#include "tools/doctor/checks.h"
#include "tools/train/environment.h"
#include "tools/train/process.h"

namespace weft::tools {
namespace {

constexpr double kGiga = 1e9;

/// A line "name:   123 kB" of a file of /proc, in bytes; -1 where there is none.
double bytes_in(const char* path, const std::string& name) {
  std::ifstream in(path);
  for (std::string line; std::getline(in, line);)
    if (line.starts_with(name + ":")) return 1024.0 * std::atof(line.c_str() + name.size() + 1);
  return -1.0;
}

/// The cores that the container may use on average; 0: no limit. (cgroup v2: "max 100000" or "150000 100000".)
double quota_cores() {
  std::ifstream in("/sys/fs/cgroup/cpu.max");
  std::string quota;
  double period = 0.0;
  if (!(in >> quota >> period) || quota == "max" || period <= 0.0) return 0.0;
  return std::atof(quota.c_str()) / period;
}

/// The bytes that the container may use; 0: no limit.
double limit_bytes() {
  std::ifstream in("/sys/fs/cgroup/memory.max");
  double bytes = 0.0;
  return in >> bytes ? bytes : 0.0;
}

void check_processor(Findings& findings) {
  cpu_set_t set;
  const int usable = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 0;
  const int online = static_cast<int>(std::thread::hardware_concurrency());
  std::string name = processor_name();
  findings.ok("processor", str(name.empty() ? "unknown" : name, ", ", online, " cores"));
  const double quota = quota_cores();
  if (quota > 0.0 && quota < usable)
    findings.warn("cores", str("this container may use ", quota, " of ", usable, " cores"),
                  "start at most as many ranks as cores it may use, or raise the limit");
  else if (usable < online)
    findings.ok("cores", str("this process may run on ", usable, " of ", online, " (taskset, or mpirun's binding)"));
}

void check_instructions(Findings& findings) {
  const std::string flags = build_info().flags;
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (flags.empty() && avx2)
    findings.warn("build", "without -march: it leaves AVX2 unused",
                  "build with WEFT_NATIVE=ON, or WEFT_ARCH=x86-64-v3");
  else
    findings.ok("build",
                str("weft ", build_info().version, ", ", build_info().build_type, flags.empty() ? "" : ", ", flags));
}

void check_memory(Findings& findings) {
  const auto total = static_cast<double>(total_memory_bytes());
  const double available = bytes_in("/proc/meminfo", "MemAvailable");
  const double limit = limit_bytes();
  const std::string found =
      str(bytes_text(total), available < 0 ? "" : str(", ", bytes_text(available), " of it free"),
          limit > 0.0 && limit < total ? str(", this container may use ", bytes_text(limit)) : "");
  constexpr double kLittle = 1 * kGiga;
  if (available >= 0.0 && available < kLittle)
    findings.warn("memory", found, "end what else runs here; `weft train --dry_run` says what a run needs");
  else
    findings.ok("memory", found);
}

void check_limits(Findings& findings) {
  rlimit locked{}, files{};
  if (getrlimit(RLIMIT_MEMLOCK, &locked) == 0) {
    constexpr double kEnough = 64 * kGiga / 1000;
    const bool fine = locked.rlim_cur == RLIM_INFINITY || static_cast<double>(locked.rlim_cur) >= kEnough;
    const std::string found =
        locked.rlim_cur == RLIM_INFINITY ? "no limit" : bytes_text(static_cast<double>(locked.rlim_cur));
    const bool rdma = std::ifstream("/sys/class/infiniband_verbs/abi_version").good();
    if (fine || !rdma)
      findings.ok("locked memory", found + (fine ? "" : "; enough without InfiniBand"));
    else
      findings.warn("locked memory", found,
                    "InfiniBand pins its buffers: ulimit -l unlimited, also for the daemon that starts ranks");
  }
  if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
    constexpr rlim_t kEnough = 1024;
    if (files.rlim_cur < kEnough)
      findings.warn("open files", str(files.rlim_cur, " at most"),
                    "ulimit -n 4096: each pair of ranks has connections");
    else
      findings.ok("open files", str("up to ", files.rlim_cur));
  }
}

/// MPI between ranks of a machine lies in files there (Open MPI's vader: 4 MB a rank and more).
void check_shared_memory(Findings& findings) {
  struct statvfs folder {};
  if (statvfs("/dev/shm", &folder) != 0) {
    findings.warn("/dev/shm", "there is none",
                  "mount a tmpfs there (docker: --shm-size=2g); MPI uses it between ranks");
    return;
  }
  const double bytes = static_cast<double>(folder.f_bavail) * static_cast<double>(folder.f_frsize);
  const double needed = 16e6 * static_cast<double>(std::thread::hardware_concurrency());
  if (bytes < needed)
    findings.warn("/dev/shm", str(bytes_text(bytes), " free"),
                  str("give it ", bytes_text(needed), " (docker: --shm-size)"));
  else
    findings.ok("/dev/shm", str(bytes_text(bytes), " free"));
}

}  // namespace

std::string bytes_text(double bytes) {
  const char* const units[] = {"B", "kB", "MB", "GB", "TB", "PB"};
  std::size_t unit = 0;
  for (; bytes >= 1000.0 && unit + 1 < std::size(units); ++unit) bytes /= 1000.0;
  char text[32];
  std::snprintf(text, sizeof text, "%.3g %s", bytes, units[unit]);
  return text;
}

void check_machine(Findings& findings) {
  check_instructions(findings);
  check_processor(findings);
  check_memory(findings);
  check_limits(findings);
  check_shared_memory(findings);
}

}  // namespace weft::tools
