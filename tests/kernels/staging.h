// tests/kernels/staging.h - runs a kernel of a GPU on host memory: what it reads and writes is copied there and back.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <vector>

#include "core/memory.h"
#include "core/stream.h"
#include "kernels/backend.h"

namespace weft::test {

/// n elements behind a pointer; a kernel's parameter says how many, its type does not.
template <class T>
struct Array {
  T* data;
  std::int64_t count;
};
/// Weights of `count` experts.
template <class T>
struct Experts {
  kernels::ExpertWeights<T> weights;
  std::int64_t count;
};

/// Groups of a table with `table_rows` rows.
struct Groups {
  kernels::RoutingGroups groups;
  std::int64_t table_rows;
};

/// The optimizer's of n weights.
template <class T>
struct OptimizerState {
  kernels::AdamWState<T> state;
  std::int64_t count;
};

/// The host memory of one call, mirrored on a GPU. Ranges that overlap (in-place calls) are mirrored once. Around each
/// mirror lies a margin of NaN, so that what reads outside spoils its result and what writes there is found out; so is
/// who writes to what the kernel takes as const.
class Staging {
 public:
  template <class T>
  void add(const Matrix<T>& m) {
    if (m.rows > 0 && m.cols > 0) add_range(m.data, (m.rows - 1) * m.stride + m.cols);
  }
  template <class T>
  void add(const Array<T>& a) {
    add_range(a.data, a.count);
  }
  template <class T>
  void add(const Experts<T>& e) {
    if (e.count == 0) return;
    add_range(e.weights.data, (e.count - 1) * e.weights.expert_stride + e.weights.out_width * e.weights.in_width);
    if (e.weights.bias) add_range(e.weights.bias, (e.count - 1) * e.weights.bias_stride + e.weights.out_width);
  }
  template <class T>
  void add(const OptimizerState<T>& s) {
    add_range(s.state.m, s.count), add_range(s.state.v, s.count), add_range(s.state.master, s.count);
  }
  template <class T>
  void add(const kernels::AttentionInputs<T>& in) {
    add(in.q), add(in.k), add(in.v);
    add_range(in.q_rows.segment, in.q.rows), add_range(in.q_rows.position, in.q.rows);
    add_range(in.k_rows.segment, in.k.rows), add_range(in.k_rows.position, in.k.rows);
  }
  template <class T>
  void add(const kernels::AttentionGradients<T>& grad) {
    add(grad.dq), add(grad.dk), add(grad.dv);
  }
  template <class T>
  void add(const kernels::UnpermuteGradient<T>& grad) {
    add(grad.d_rows), add(grad.d_weight), add(grad.d_row);
  }
  template <class T>
  void add(const kernels::RouterGradient<T>& in) {
    add(in.probs), add(in.expert), add(in.weight), add(in.d_weight), add(in.fraction);
  }
  template <class T>
  void add(const kernels::RoutedRows<T>& out) {
    add(out.probs), add_range(out.lse, out.probs.rows), add(out.expert), add(out.weight);
  }
  template <class T>
  void add(const kernels::SlotTable<T>& table) {
    add(table.source), add(table.kept), add(table.weight);
  }
  template <class T>
  void add(const kernels::ColumnSoftmaxGradient<T>& grad) {
    add(grad.dout), add(grad.out), add(grad.dot);
  }
  void add(const kernels::SlotRows& slots) { add(slots.row), add(slots.source); }
  void add(const Groups& g) { add_range(g.groups.order, g.table_rows); }
  template <class T, class Out>
  void add(const std::vector<kernels::GemmProduct<T, Out>>& products) {
    for (const auto& p : products) add(p.c), add(p.a), add(p.b);
  }
  template <class T>
  void add(const kernels::SlotsGradient<T>& grad) {
    add(grad.d_rows), add(grad.d_weight), add(grad.d_row);
  }
  template <class T>
  void add(const T&) {}  // numbers, and what stays on the host

  template <class T>
  [[nodiscard]] Matrix<T> on_device(const Matrix<T>& m) const {
    return {pointer(m.data), m.rows, m.cols, m.stride};
  }
  template <class T>
  [[nodiscard]] T* on_device(const Array<T>& a) const {
    return pointer(a.data);
  }
  template <class T>
  [[nodiscard]] kernels::ExpertWeights<T> on_device(const Experts<T>& e) const {
    auto w = e.weights;
    w.data = pointer(w.data);
    w.bias = pointer(w.bias);
    return w;
  }
  template <class T>
  [[nodiscard]] kernels::AdamWState<T> on_device(const OptimizerState<T>& s) const {
    return {pointer(s.state.m), pointer(s.state.v), pointer(s.state.master)};
  }
  template <class T>
  [[nodiscard]] kernels::AttentionInputs<T> on_device(const kernels::AttentionInputs<T>& in) const {
    return {on_device(in.q),
            on_device(in.k),
            on_device(in.v),
            {pointer(in.q_rows.segment), pointer(in.q_rows.position)},
            {pointer(in.k_rows.segment), pointer(in.k_rows.position)}};
  }
  template <class T>
  [[nodiscard]] kernels::AttentionGradients<T> on_device(const kernels::AttentionGradients<T>& grad) const {
    return {on_device(grad.dq), on_device(grad.dk), on_device(grad.dv), grad.dq_mode};
  }
  template <class T>
  [[nodiscard]] kernels::UnpermuteGradient<T> on_device(const kernels::UnpermuteGradient<T>& grad) const {
    return {on_device(grad.d_rows), on_device(grad.d_weight), on_device(grad.d_row)};
  }
  template <class T>
  [[nodiscard]] kernels::RouterGradient<T> on_device(const kernels::RouterGradient<T>& in) const {
    return {on_device(in.probs),    on_device(in.expert),   on_device(in.weight),
            on_device(in.d_weight), on_device(in.fraction), in.scale,
            in.renormalize};
  }
  template <class T>
  [[nodiscard]] kernels::RoutedRows<T> on_device(const kernels::RoutedRows<T>& out) const {
    return {on_device(out.probs), pointer(out.lse), on_device(out.expert), on_device(out.weight)};
  }
  template <class T>
  [[nodiscard]] kernels::SlotTable<T> on_device(const kernels::SlotTable<T>& table) const {
    return {on_device(table.source), on_device(table.kept), on_device(table.weight)};
  }
  template <class T>
  [[nodiscard]] kernels::ColumnSoftmaxGradient<T> on_device(const kernels::ColumnSoftmaxGradient<T>& grad) const {
    return {on_device(grad.dout), on_device(grad.out), on_device(grad.dot)};
  }
  [[nodiscard]] kernels::SlotRows on_device(const kernels::SlotRows& slots) const {
    return {on_device(slots.row), on_device(slots.source)};
  }
  [[nodiscard]] kernels::RoutingGroups on_device(const Groups& g) const {
    return {g.groups.rows, pointer(g.groups.order), g.groups.first, g.groups.count};
  }
  template <class T, class Out>
  [[nodiscard]] std::vector<kernels::GemmProduct<T, Out>> on_device(
      const std::vector<kernels::GemmProduct<T, Out>>& products) const {
    std::vector<kernels::GemmProduct<T, Out>> out;
    for (const auto& p : products) out.push_back({on_device(p.c), on_device(p.a), on_device(p.b)});
    return out;
  }
  template <class T>
  [[nodiscard]] kernels::SlotsGradient<T> on_device(const kernels::SlotsGradient<T>& grad) const {
    return {on_device(grad.d_rows), on_device(grad.d_weight), on_device(grad.d_row)};
  }
  template <class T>
  [[nodiscard]] const T& on_device(const T& value) const {
    return value;
  }

  void upload(Stream& stream) {
    for (Range& r : ranges_) {
      r.image.assign(r.first() + r.bytes() + kMargin, kNaN);
      std::memcpy(r.image.data() + r.first(), r.begin, r.bytes());
      r.memory = Memory(stream.device(), static_cast<std::int64_t>(r.image.size()));
      copy_bytes(stream, r.memory.data(), r.image.data(), r.memory.bytes());
    }
  }
  /// Waits for the stream. Throws std::logic_error when something was written where it must not be.
  void download(Stream& stream) {
    for (Range& r : ranges_) {
      const std::vector<std::byte> before = r.image;
      copy_bytes(stream, r.image.data(), r.memory.data(), r.memory.bytes());
      stream.synchronize();
      const auto differs = [&](std::size_t first, std::size_t count) {
        return std::memcmp(before.data() + first, r.image.data() + first, count) != 0;
      };
      if (differs(0, r.first()) || differs(r.first() + r.bytes(), kMargin))
        throw std::logic_error("a kernel wrote outside its arguments");
      if (!r.written && differs(r.first(), r.bytes())) throw std::logic_error("a kernel wrote to a const argument");
      if (r.written) std::memcpy(r.begin, r.image.data() + r.first(), r.bytes());
    }
  }

 private:
  static constexpr std::size_t kMargin = 512, kAligned = 16;  // a mirror is aligned as what it mirrors
  static constexpr std::byte kNaN{0xff};
  struct Range {
    std::byte *begin, *end;
    bool written;
    std::vector<std::byte> image = {};
    Memory memory = {};
    [[nodiscard]] std::size_t bytes() const { return static_cast<std::size_t>(end - begin); }
    [[nodiscard]] std::size_t first() const { return kMargin + reinterpret_cast<std::uintptr_t>(begin) % kAligned; }
  };

  template <class T>
  void add_range(T* data, std::int64_t count) {
    if (data == nullptr || count <= 0) return;
    auto* begin = reinterpret_cast<std::byte*>(const_cast<std::remove_const_t<T>*>(data));
    Range merged{begin, begin + static_cast<std::size_t>(count) * sizeof(T), !std::is_const_v<T>};
    std::erase_if(ranges_, [&](const Range& r) {
      if (r.end <= merged.begin || merged.end <= r.begin) return false;
      merged.begin = std::min(merged.begin, r.begin);
      merged.end = std::max(merged.end, r.end);
      merged.written = merged.written || r.written;
      return true;
    });
    ranges_.push_back(std::move(merged));
  }
  template <class T>
  [[nodiscard]] T* pointer(T* host) const {
    const auto* at = reinterpret_cast<const std::byte*>(host);
    for (const Range& r : ranges_)
      if (r.begin <= at && at < r.end)
        return reinterpret_cast<T*>(r.memory.as<std::byte>() + r.first() + (at - r.begin));
    return host;  // null, or nothing behind it
  }

  std::vector<Range> ranges_;
};

/// Where a test's kernels run.
class KernelDevice {
 public:
  explicit KernelDevice(DeviceKind kind)
      : stream_(kind == DeviceKind::kCpu ? make_inline_stream() : make_stream({kind, 0}, "test")) {}

  /// Calls kernel(stream, args...), Array and Experts replaced by what the kernel takes; the results are there on
  /// return. Throws what the stream does.
  template <class... Params, class... Args>
  void run(void (*kernel)(Stream&, Params...), const Args&... args) {
    Staging staging;
    const bool staged = stream_->device().kind != DeviceKind::kCpu;
    if (staged) (staging.add(args), ...);
    stream_->enqueue([&] {
      if (staged) staging.upload(*stream_);
      kernel(*stream_, staging.on_device(args)...);
      if (staged) staging.download(*stream_);
    });
    stream_->synchronize();
  }
  [[nodiscard]] Stream& stream() { return *stream_; }

 private:
  std::unique_ptr<Stream> stream_;
};

}  // namespace weft::test
