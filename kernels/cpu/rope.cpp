#include <cmath>
#include <vector>

#include "kernels/cpu/backend.h"
#include "kernels/cpu/vector_math.h"

namespace weft::kernels::cpu {
namespace {

template <class T>
void rotate(T* first, T* second, const T* cosine, const T* sine, std::int64_t half) {
#pragma omp simd
  for (std::int64_t i = 0; i < half; ++i) {
    const T a = first[i], b = second[i];
    first[i] = a * cosine[i] - b * sine[i];
    second[i] = b * cosine[i] + a * sine[i];
  }
}

template <class T>
void rope(Stream&, Matrix<T> x, const std::int32_t* position, std::int64_t head_dim, double theta,
          RopeDirection direction) {
  const std::int64_t half = head_dim / 2;
  const auto size = static_cast<std::size_t>(half);
  std::vector<double> frequency(size);
  for (std::size_t i = 0; i < size; ++i)
    frequency[i] = std::pow(theta, -static_cast<double>(i) / static_cast<double>(half)) *
                   (direction == RopeDirection::kForward ? 1.0 : -1.0);
  std::vector<T> cosine(size), sine(size);
  for (std::int64_t t = 0; t < x.rows; ++t) {
    const double p = position[t];
#pragma omp simd
    for (std::size_t i = 0; i < size; ++i) {
      const SinCos angle = sin_cos(p * frequency[i]);
      cosine[i] = static_cast<T>(angle.cos);
      sine[i] = static_cast<T>(angle.sin);
    }
    for (T* head = x.row(t); head != x.row(t) + x.cols; head += head_dim)
      rotate(head, head + half, cosine.data(), sine.data(), half);
  }
}

}  // namespace

template <class T>
void add_rope(Backend<T>& table) {
  table.rope = rope<T>;
}

template void add_rope(Backend<float>& table);
template void add_rope(Backend<double>& table);

}  // namespace weft::kernels::cpu
