// tools/bench/bench_kernels.cpp - weft bench kernels: how near each kernel is to what its device can do.
#include "tools/bench/bench_kernels.h"

#include <algorithm>
#include <cstdio>
#include <iostream>
#include <nlohmann/json.hpp>
#include <numeric>
#include <vector>

#include "core/bf16.h"
#include "core/error.h"
#include "core/memory.h"
#include "kernels/gemm.h"
#include "kernels/reduce.h"
#include "scheduler/fit.h"
#include "tools/bench/bench_device.h"
#include "tools/bench/device_times.h"
#include "tools/bench/kernel_cases.h"
#include "tools/exit_status.h"
#include "tools/train/process.h"

namespace weft::tools {
namespace {

double median_us(Stream& stream, int repeats, const std::function<void(Stream&)>& run) {
  return scheduler::quantile(times_us(stream, repeats, run), 0.5);
}

/// How long a plain copy takes on a device, by the bytes that it reads and writes: what small arrays gain from caches
/// and lose to the start of a kernel is in it.
class CopyTimes {
 public:
  template <class T>
  static CopyTimes measure(Stream& stream, int repeats) {
    const std::int64_t most = std::int64_t{stream.device().kind == DeviceKind::kCpu ? 64 : 512} << 20;
    const Memory a(stream.device(), most), b(stream.device(), most);
    stream.enqueue([&] {
      kernels::fill<T>(stream, a.as<T>(), most / std::int64_t{sizeof(T)}, T(0.5));
      kernels::fill<T>(stream, b.as<T>(), most / std::int64_t{sizeof(T)}, T(0.25));
    });
    CopyTimes out;
    constexpr std::int64_t kLeast = 4096;
    for (std::int64_t bytes = kLeast; bytes <= most; bytes *= 4) {
      const std::int64_t n = bytes / std::int64_t{sizeof(T)};
      const double us = median_us(stream, repeats, [&](Stream& s) { kernels::copy<T>(s, b.as<T>(), a.as<T>(), n); });
      out.points_.emplace_back(2.0 * double(bytes), us);
    }
    return out;
  }

  /// Between two measured sizes on the line through them; below the smallest as long as that, above the largest at its
  /// rate.
  [[nodiscard]] double us(double bytes) const {
    if (bytes <= points_.front().first) return points_.front().second;
    for (std::size_t i = 1; i < points_.size(); ++i) {
      const auto [low, low_us] = points_[i - 1];
      const auto [high, high_us] = points_[i];
      if (bytes <= high) return low_us + (high_us - low_us) * (bytes - low) / (high - low);
    }
    return bytes / bytes_per_us();
  }
  [[nodiscard]] double bytes_per_us() const { return points_.back().first / points_.back().second; }

 private:
  std::vector<std::pair<double, double>> points_;  // bytes read and written, microseconds
};

nlohmann::ordered_json row_of(const KernelCase& kernel, double us, const CopyTimes& copies, double flops_per_us) {
  const double bytes_us = copies.us(kernel.bytes), flops_us = kernel.flops / flops_per_us;
  return {{"kernel", kernel.name},
          {"us", us},
          {"bytes", kernel.bytes},
          {"flops", kernel.flops},
          {"bytes_floor_us", bytes_us},
          {"flops_floor_us", flops_us},
          {"share_of_floor", std::max(bytes_us, flops_us) / us}};
}

template <class T>
nlohmann::ordered_json measure(Device device, const BenchKernelsOptions& o) {
  const auto stream = device.kind == DeviceKind::kCpu ? make_inline_stream() : make_stream(device, "bench");
  const CopyTimes copies = CopyTimes::measure<T>(*stream, o.repeats);
  const double flops_per_us =
      scheduler::quantile(gemm_flops_per_us<T>(*stream, device.kind == DeviceKind::kCpu ? 1024 : 4096, o.repeats), 0.5);
  nlohmann::ordered_json rows = nlohmann::ordered_json::array();
  for (const KernelCase& kernel : kernel_cases<T>(device, o))
    rows.push_back(row_of(kernel, median_us(*stream, o.repeats, kernel.run), copies, flops_per_us));
  return {{"device", device_name(device)},
          {"kind", name_of(device.kind)},
          {"dtype", o.dtype},
          {"tokens", o.tokens},
          {"model_dim", o.model_dim},
          {"expert_hidden_dim", o.expert_hidden_dim},
          {"experts", o.experts},
          {"top_k", o.top_k},
          {"copy_gb_per_s", copies.bytes_per_us() / 1e3},
          {"gemm_gflops", flops_per_us / 1e3},
          {"kernels", std::move(rows)}};
}

void print(const nlohmann::ordered_json& facts) {
  char line[200];
  std::snprintf(
      line, sizeof line, "%s, %s, T %d, M %d, H %d, E %d, K %d: copies at %.4g GB/s, products at %.5g GFLOP/s\n",
      facts["device"].get<std::string>().c_str(), facts["dtype"].get<std::string>().c_str(), facts["tokens"].get<int>(),
      facts["model_dim"].get<int>(), facts["expert_hidden_dim"].get<int>(), facts["experts"].get<int>(),
      facts["top_k"].get<int>(), facts["copy_gb_per_s"].get<double>(), facts["gemm_gflops"].get<double>());
  std::cout << line << "kernel                                  us   floor: bytes       FLOPs   share of floor\n";
  for (const auto& row : facts["kernels"]) {
    std::snprintf(line, sizeof line, "%-31s %11.1f  %13.1f %11.1f  %14.0f %%\n",
                  row["kernel"].get<std::string>().c_str(), row["us"].get<double>(),
                  row["bytes_floor_us"].get<double>(), row["flops_floor_us"].get<double>(),
                  100.0 * row["share_of_floor"].get<double>());
    std::cout << line;
  }
}

}  // namespace

int bench_kernels(const BenchKernelsOptions& options, bool as_json) {
  BenchKernelsOptions o = options;
  const Device device = bench_device(o.device);
  if (o.tokens == 0) o.tokens = device.kind == DeviceKind::kCpu ? 512 : 8192;
  const auto require = [](bool holds, const std::string& problem, const char* hint) {
    if (!holds) throw Error(ErrorCode::kInvalidArgument, problem, hint);
  };
  require(o.model_dim % o.head_dim == 0, str("--model_dim ", o.model_dim, " is no multiple of --head_dim ", o.head_dim),
          "a head is a part of the model width");
  require(o.top_k <= o.experts, str("--top_k ", o.top_k, " of ", o.experts, " experts"),
          "choose fewer, or more experts");
  require(std::gcd(o.tokens * o.top_k, kRowStep) == 1, str("--tokens ", o.tokens, " is a multiple of ", kRowStep),
          "one more or less will do");
  kernels::set_blas_threads(1);
  const nlohmann::ordered_json facts = o.dtype == "F64"    ? measure<double>(device, o)
                                       : o.dtype == "BF16" ? measure<BF16>(device, o)
                                                           : measure<float>(device, o);
  if (as_json)
    std::cout << facts.dump(2) << "\n";
  else
    print(facts);
  return kExitDone;
}

}  // namespace weft::tools
