#include "tools/bench/device_times.h"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "core/bf16.h"
#include "core/memory.h"
#include "kernels/gemm.h"
#include "kernels/reduce.h"

namespace weft::tools {

using Clock = std::chrono::steady_clock;

std::vector<double> times_us(Stream& stream, int repeats, const std::function<void(Stream&)>& run) {
  const auto batch_us = [&](int count) {
    stream.synchronize();
    const auto start = Clock::now();
    for (int i = 0; i < count; ++i) stream.enqueue([&] { run(stream); });
    stream.synchronize();
    return std::chrono::duration<double, std::micro>(Clock::now() - start).count();
  };
  batch_us(1);
  constexpr double kBatchUs = 2000;
  constexpr int kMost = 200;
  const int count = std::clamp(static_cast<int>(kBatchUs / std::max(1.0, batch_us(1))), 1, kMost);
  std::vector<double> times;
  for (int i = 0; i < repeats; ++i) times.push_back(batch_us(count) / count);
  return times;
}

template <class T>
std::vector<double> gemm_flops_per_us(Stream& stream, std::int64_t side, int repeats) {
  const Memory a(stream.device(), side * side * std::int64_t{sizeof(T)}), b(stream.device(), a.bytes()),
      c(stream.device(), a.bytes());
  stream.enqueue([&] {
    kernels::fill<T>(stream, a.as<T>(), side * side, T(0.5));
    kernels::fill<T>(stream, b.as<T>(), side * side, T(0.25));
  });
  std::vector<double> out = times_us(stream, repeats, [&](Stream& s) {
    kernels::gemm<T>(s, {c.as<T>(), side, side}, Matrix<const T>(a.as<T>(), side, side), kernels::Transpose::kNo,
                     Matrix<const T>(b.as<T>(), side, side), kernels::Transpose::kYes);
  });
  for (double& us : out) us = 2.0 * std::pow(double(side), 3) / us;
  return out;
}

template std::vector<double> gemm_flops_per_us<float>(Stream&, std::int64_t, int);
template std::vector<double> gemm_flops_per_us<double>(Stream&, std::int64_t, int);
template std::vector<double> gemm_flops_per_us<BF16>(Stream&, std::int64_t, int);

}  // namespace weft::tools
