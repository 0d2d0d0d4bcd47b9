#include "tools/bench/kernel_cases.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/bf16.h"
#include "core/memory.h"
#include "core/rng.h"
#include "kernels/activation.h"
#include "kernels/adamw.h"
#include "kernels/attention.h"
#include "kernels/cross_entropy.h"
#include "kernels/dispatch.h"
#include "kernels/embedding.h"
#include "kernels/gemm.h"
#include "kernels/grouped_gemm.h"
#include "kernels/norm.h"
#include "kernels/permute.h"
#include "kernels/reduce.h"
#include "kernels/rope.h"
#include "kernels/router.h"
#include "kernels/slots.h"
#include "kernels/softmax.h"

namespace weft::tools {
namespace {

using namespace weft::kernels;

/// Makes arrays on a device and the cases over them.
template <class T>
class Cases {
 public:
  Cases(Device device, const BenchKernelsOptions& o)
      : device_(device), o_(o), stream_(make_stream(device, "bench")), tokens_(o.tokens), rows_(o.tokens * o.top_k) {}

  [[nodiscard]] std::vector<KernelCase> all() {
    products();
    router_products();
    experts();
    norms();
    elementwise();
    attention();
    router();
    permutes();
    ends();
    optimizer();
    return std::move(cases_);
  }

 private:
  using W = Wide<T>;  // of statistics, gradients, routers and optimizers
  static constexpr double kElement = sizeof(T), kWide = sizeof(W), kIndex = sizeof(std::int32_t);

  /// An array with values in [-1, 1), or without any.
  template <class U = T>
  U* array(std::int64_t count) {
    std::vector<U> values(static_cast<std::size_t>(count));
    const Rng rng(11, RngPurpose::kTest, next_++);
    for (std::int64_t i = 0; i < count; ++i)
      values[static_cast<std::size_t>(i)] = static_cast<U>(2.0 * rng.uniform(static_cast<std::uint64_t>(i)) - 1.0);
    return upload(values);
  }
  template <class U>
  U* upload(const std::vector<U>& values) {
    auto memory = std::make_shared<Memory>(device_, static_cast<std::int64_t>(values.size() * sizeof(U)));
    stream_->enqueue([&] { copy_bytes(*stream_, memory->data(), values.data(), memory->bytes()); });
    stream_->synchronize();
    memories_.push_back(memory);
    return memory->template as<U>();
  }
  template <class U = T>
  Matrix<U> matrix(std::int64_t rows, std::int64_t cols) {
    return {array<U>(rows * cols), rows, cols};
  }

  /// elements: of T, read or written once each.
  void add(std::string name, double elements, double flops, std::function<void(Stream&)> run,
           double other_bytes = 0.0) {
    cases_.push_back({std::move(name), elements * kElement + other_bytes, flops,
                      [run = std::move(run), keep = memories_](Stream& stream) { run(stream); }});
  }

  void products() {
    const std::int64_t t = tokens_, m = o_.model_dim;
    const Matrix<T> x = matrix(t, m), w = matrix(m, m), y = matrix(t, m);
    const Matrix<W> dw = matrix<W>(m, m);
    const double flops = 2.0 * double(t) * double(m) * double(m), moved = double(2 * t * m + m * m);
    add("linear_forward", moved, flops, [=](Stream& s) { linear_forward<T>(s, y, x, w); });
    add("linear_backward_input", moved, flops,
        [=](Stream& s) { linear_backward_input<T>(s, x, y, w, Accumulate::kOverwrite); });
    add(
        "linear_backward_weight", double(2 * t * m), flops,
        [=](Stream& s) { linear_backward_weight<T>(s, dw, nullptr, y, x, Accumulate::kOverwrite); },
        kWide * double(m * m));
  }

  /// The logits of a router, which stay in F32: rows of BF16 have products of their own for them.
  void router_products() {
    if constexpr (!std::is_same_v<T, W>) {
      const std::int64_t t = tokens_, m = o_.model_dim, e = o_.experts;
      const Matrix<T> x = matrix(t, m), w = matrix(e, m), dx = matrix(t, m);
      const Matrix<W> y = matrix<W>(t, e), dw = matrix<W>(e, m);
      const double flops = 2.0 * double(t) * double(e) * double(m), moved = double(t * m + e * m);
      const double logits = kWide * double(t * e);
      add(
          "linear_forward_wide", moved, flops, [=](Stream& s) { linear_forward_wide<T>(s, y, x, w); }, logits);
      add(
          "linear_backward_input_wide", moved, flops,
          [=](Stream& s) { linear_backward_input_wide<T>(s, dx, y, w, Accumulate::kOverwrite); }, logits);
      add(
          "linear_backward_weight_wide", double(t * m), flops,
          [=](Stream& s) { linear_backward_weight_wide<T>(s, dw, y, x, Accumulate::kOverwrite); },
          logits + kWide * double(e * m));
    }
  }

  void experts() {
    const std::int64_t r = rows_, m = o_.model_dim, h = 2 * o_.expert_hidden_dim, e = o_.experts;  // gate and up
    auto offsets = std::make_shared<std::vector<std::int64_t>>();
    for (std::int64_t i = 0; i <= e; ++i) offsets->push_back(r * i / e);
    const Matrix<T> x = matrix(r, m), y = matrix(r, h);
    const ExpertWeights<T> w{array(e * h * m), h * m, nullptr, 0, h, m};
    const ExpertWeights<W> dw{array<W>(e * h * m), h * m, nullptr, 0, h, m};
    const double flops = 2.0 * double(r) * double(h) * double(m), moved = double(r * m + r * h + e * h * m);
    add("grouped_linear_forward", moved, flops, [=](Stream& s) { grouped_linear_forward<T>(s, y, x, w, *offsets); });
    add("grouped_linear_backward_input", moved, flops,
        [=](Stream& s) { grouped_linear_backward_input<T>(s, x, y, w, *offsets, Accumulate::kOverwrite); });
    add(
        "grouped_linear_backward_weight", double(r * m + r * h), flops,
        [=](Stream& s) { grouped_linear_backward_weight<T>(s, dw, y, x, *offsets, Accumulate::kOverwrite); },
        kWide * double(e * h * m));
    auto products = std::make_shared<std::vector<GemmProduct<T>>>();  // the forward's, as a list of matrices
    for (std::int64_t i = 0; i < e; ++i) {
      const std::int64_t first = r * i / e, count = r * (i + 1) / e - first;
      products->push_back({y.row_range(first, count), x.row_range(first, count), {w.data + i * h * m, h, m}});
    }
    add("gemm_group", moved, flops,
        [=](Stream& s) { gemm_group<T, T>(s, *products, Transpose::kNo, Transpose::kYes, Accumulate::kOverwrite); });
  }

  void norms() {
    const std::int64_t t = tokens_, m = o_.model_dim;
    const Matrix<T> x = matrix(t, m), y = matrix(t, m), dx = matrix(t, m);
    T *const weight = array(m), *const bias = array(m);
    W *const rstd = array<W>(t), *const mean = array<W>(t), *const dw = array<W>(m), *const dbias = array<W>(m);
    const double n = double(t * m);
    add("rms_norm_forward", 2 * n, 0, [=](Stream& s) { rms_norm_forward<T>(s, y, rstd, x, weight, 1e-5); });
    add("rms_norm_backward", 3 * n, 0, [=](Stream& s) {
      rms_norm_backward<T>(s, dx, dw, y, x, rstd, weight, Accumulate::kOverwrite, Accumulate::kOverwrite);
    });
    add("layer_norm_forward", 2 * n, 0,
        [=](Stream& s) { layer_norm_forward<T>(s, y, mean, rstd, x, weight, bias, 1e-5); });
    add("layer_norm_backward", 3 * n, 0, [=](Stream& s) {
      layer_norm_backward<T>(s, dx, dw, dbias, y, x, mean, rstd, weight, Accumulate::kOverwrite,
                             Accumulate::kOverwrite);
    });
  }

  void elementwise() {
    const std::int64_t r = rows_, h = o_.expert_hidden_dim, t = tokens_, m = o_.model_dim;
    const Matrix<T> gate_up = matrix(r, 2 * h), out = matrix(r, h), d_gate_up = matrix(r, 2 * h), x = matrix(t, m);
    const double n = double(r * h);
    add("swiglu_forward", 3 * n, 0, [=](Stream& s) { swiglu_forward<T>(s, out, gate_up); });
    add("swiglu_backward", 5 * n, 0, [=](Stream& s) { swiglu_backward<T>(s, d_gate_up, out, gate_up); });
    const Matrix<T> half = gate_up.row_range(0, r / 2), d_half = d_gate_up.row_range(0, r / 2);
    const double n_half = double((r / 2) * 2 * h);
    add("gelu_forward", 2 * n_half, 0, [=](Stream& s) { gelu_forward<T>(s, d_half, half); });
    const Matrix<T> dh = matrix(r / 2, 2 * h);
    add("gelu_backward", 3 * n_half, 0, [=](Stream& s) { gelu_backward<T>(s, d_half, dh, half); });
    const std::int32_t* position = upload(positions());
    add("rope", 2 * double(t * m), 0,
        [=, d = o_.head_dim](Stream& s) { rope<T>(s, x, position, d, 1e4, RopeDirection::kForward); });
  }

  [[nodiscard]] std::vector<std::int32_t> positions() const {
    std::vector<std::int32_t> out;
    for (std::int64_t i = 0; i < tokens_; ++i) out.push_back(static_cast<std::int32_t>(i % o_.sequence_length));
    return out;
  }

  /// Sequences of sequence_length, causal: a query sees half of its sequence on average.
  void attention() {
    const std::int64_t t = tokens_, m = o_.model_dim, d = o_.head_dim, heads = m / d;
    std::vector<std::int32_t> segments;
    for (std::int64_t i = 0; i < t; ++i) segments.push_back(static_cast<std::int32_t>(i / o_.sequence_length));
    const AttentionRows rows{upload(segments), upload(positions())};
    const Matrix<T> q = matrix(t, m), k = matrix(t, m), v = matrix(t, m), out = matrix(t, m), dout = matrix(t, m),
                    dq = matrix(t, m), dk = matrix(t, m), dv = matrix(t, m);
    const Matrix<W> lse = matrix<W>(t, heads), part_lse = matrix<W>(t, heads);
    const AttentionShape shape{heads, heads, d, 1.0 / std::sqrt(double(d))};
    const AttentionInputs<T> in{q, k, v, rows, rows};
    const double seen = double(t) * double(std::min(t, o_.sequence_length) + 1) / 2, n = double(t * m);
    add("attention_forward", 4 * n, 4.0 * seen * double(m),
        [=](Stream& s) { attention_forward<T>(s, out, lse, in, shape); });
    add("attention_backward", 8 * n, 10.0 * seen * double(m), [=](Stream& s) {
      attention_backward<T>(s, {dq, dk, dv}, dout, out, lse, in, shape);
    });
    const Matrix<T> part = matrix(t, m);
    const Matrix<W> merged = matrix<W>(t, m);
    add(
        "attention_merge", n, 0, [=](Stream& s) { attention_merge<T>(s, merged, lse, part, part_lse); }, 2 * kWide * n);
  }

  /// What every top-k gate runs, and the order in which its rows travel.
  void router() {
    const std::int64_t t = tokens_, e = o_.experts, k = o_.top_k;
    const Matrix<W> logits = matrix<W>(t, e), probs = matrix<W>(t, e), d = matrix<W>(t, e);
    const Matrix<W> weight = matrix<W>(t, k), d_weight = matrix<W>(t, k);
    std::vector<std::int32_t> choice;
    for (std::int64_t i = 0; i < rows_; ++i)
      choice.push_back(static_cast<std::int32_t>((i / k * kRowStep + i % k) % e));
    const Matrix<std::int32_t> expert{upload(choice), t, k}, best{upload(choice), t, k}, kept{upload(choice), t, k};
    const double scores = kWide * double(t * e), weights = kWide * double(rows_), choices = kIndex * double(rows_);
    add(
        "softmax_forward", 0, 0, [=](Stream& s) { softmax_forward<W>(s, probs, nullptr, logits); }, 2 * scores);
    add(
        "softmax_backward", 0, 0, [=](Stream& s) { softmax_backward<W>(s, d, logits, probs); }, 3 * scores);
    W* const lse = matrix<W>(1, t).data;
    add(
        "route_top_k", 0, 0,
        [=](Stream& s) {
          route_top_k<W>(s, {probs, lse, best, weight}, logits, RouterWeighting::kRenormalized);
        },
        2 * scores + kWide * double(t) + weights + choices);
    add(
        "router_backward", 0, 0,
        [=](Stream& s) {
          router_backward<W>(s, d, {probs, expert, weight, d_weight, {}, 0.0, true});
        },
        scores + 3 * weights + choices);
    add(
        "router_drop", 0, 0,
        [=, most = (rows_ + e - 1) / e](Stream& s) {
          router_drop(s, kept, expert, e, RoutingGroups::whole(t, t), most);
        },
        2 * choices);
    double* const count = upload(std::vector<double>(static_cast<std::size_t>(e)));
    add(
        "router_count", 0, 0,
        [=](Stream& s) {
          router_count(s, {count, 1, e}, expert);
        },
        choices);
    const Matrix<std::int32_t> place{upload(choice), t, k};
    std::int32_t* const token = upload(choice);
    add(
        "place_rows", 0, 0,
        [=](Stream& s) {
          place_rows(s, {place, token}, expert, {}, e);
        },
        3 * choices);
  }

  void permutes() {
    const std::int64_t t = tokens_, r = rows_, m = o_.model_dim;
    std::vector<std::int32_t> token(static_cast<std::size_t>(r)), place(token.size());
    for (std::int64_t i = 0; i < r; ++i) {  // a permutation of (token, choice), as experts would have it
      const std::int64_t from = i * kRowStep % r;
      token[static_cast<std::size_t>(i)] = static_cast<std::int32_t>(from / o_.top_k);
      place[static_cast<std::size_t>(from)] = static_cast<std::int32_t>(i);
    }
    const std::int32_t *const tokens = upload(token), *const places = upload(place);
    const Matrix<T> x = matrix(t, m), rows = matrix(r, m), out = matrix(t, m), d_rows = matrix(r, m);
    const Matrix<W> weight = matrix<W>(t, o_.top_k), d_weight = matrix<W>(t, o_.top_k);
    const Matrix<const std::int32_t> row{places, t, o_.top_k};
    const double token_elements = double(t * m), row_elements = double(r * m), index = kIndex * double(r);
    add(
        "gather_rows", token_elements + row_elements, 0, [=](Stream& s) { gather_rows<T>(s, rows, x, tokens); }, index);
    add(
        "unpermute_weighted", row_elements + 2 * token_elements, 0,
        [=](Stream& s) { unpermute_weighted<T>(s, out, x, rows, row, weight); }, index);
    add(
        "unpermute_weighted_backward", 2 * row_elements + token_elements, 0,
        [=](Stream& s) {
          unpermute_weighted_backward<T>(s, {d_rows, d_weight, row}, x, rows, row, weight);
        },
        index);
    // In two halves that change places, as between the orders of senders and of experts.
    auto blocks = std::make_shared<std::vector<RowBlock>>();
    blocks->push_back({r / 2, 0, r - r / 2});
    blocks->push_back({0, r - r / 2, r / 2});
    add("copy_blocks", 2 * row_elements, 0, [=](Stream& s) { copy_blocks<T>(s, d_rows, rows, *blocks); });
    const SlotRows slots{row, {tokens, t, o_.top_k}};
    add(
        "slots_scatter", row_elements + 2 * token_elements, 0,
        [=](Stream& s) { slots_scatter<T>(s, out, rows, slots, weight); }, 2 * index);
    add(
        "slots_scatter_backward", 2 * row_elements + token_elements, 0,
        [=](Stream& s) {
          slots_scatter_backward<T>(s, {d_rows, d_weight, row}, x, rows, slots, weight);
        },
        2 * index);
    add(
        "slots_gather_backward", row_elements + 2 * token_elements, 0,
        [=](Stream& s) { slots_gather_backward<T>(s, out, rows, slots); }, 2 * index);
    add(
        "permute_backward", row_elements + token_elements, 0,
        [=](Stream& s) { permute_backward<T>(s, out, rows, row, Accumulate::kOverwrite); }, index);
  }

  void ends() {
    const std::int64_t t = tokens_, m = o_.model_dim, vocab = o_.vocab_size;
    std::vector<std::int32_t> ids;
    for (std::int64_t i = 0; i < t; ++i) ids.push_back(static_cast<std::int32_t>(i * kRowStep % vocab));
    const std::int32_t* id = upload(ids);
    const Matrix<T> table = matrix(vocab, m), x = matrix(t, m), logits = matrix(t, vocab);
    const Matrix<W> d_table = matrix<W>(vocab, m);
    double* loss = upload(std::vector<double>(static_cast<std::size_t>(t)));
    const double* const one = upload(std::vector<double>{1.0});
    const double n = double(t * m);
    add("embedding_forward", 2 * n, 0, [=](Stream& s) { embedding_forward<T>(s, x, table, id, {}, nullptr); });
    add(
        "embedding_backward", n, 0, [=](Stream& s) { embedding_backward<T>(s, d_table, id, x, Accumulate::kAdd); },
        2 * kWide * n);
    add("cross_entropy", 2 * double(t * vocab), 0, [=](Stream& s) { cross_entropy<T>(s, loss, logits, id, one); });
  }

  void optimizer() {
    const std::int64_t n = o_.expert_hidden_dim * o_.model_dim * o_.experts;
    W *const weight = array<W>(n), *const grad = array<W>(n);
    W* const first = upload(std::vector<W>(static_cast<std::size_t>(n)));
    W* const second = upload(std::vector<W>(static_cast<std::size_t>(n)));
    double* const squares = upload(std::vector<double>{0.0});
    const AdamWFactors* const factors = upload(std::vector<AdamWFactors>{adamw_factors({.lr = 1e-4})});
    const double bytes = kWide * double(n);
    T* stored = nullptr;
    AdamWState<T> state{first, second};
    if constexpr (std::is_same_v<T, W>)
      stored = weight;
    else
      stored = array(n), state.master = weight;
    add(
        "adamw", state.master != nullptr ? double(n) : 0, 0,
        [=](Stream& s) { adamw<T>(s, stored, state, grad, n, nullptr, factors); }, 7 * bytes);
    add(
        "sum_squares", 0, 0, [=](Stream& s) { sum_squares<W>(s, squares, grad, n); }, bytes);
    add(
        "inner_product", 0, 0,
        [=](Stream& s) { inner_product<W>(s, first, weight, grad, n, W(1), Accumulate::kOverwrite); }, 2 * bytes);
    T *const x = array(n), *const y = array(n);
    add("fill", double(n), 0, [=](Stream& s) { fill<T>(s, x, n, W(0)); });
    add("axpy", 3 * double(n), 0, [=](Stream& s) { axpy<T>(s, y, x, n, W(0.5)); });
    add("copy", 2 * double(n), 0, [=](Stream& s) { copy<T>(s, y, x, n); });
    const std::int64_t m = o_.model_dim, rows = n / m;
    W* const sums = array<W>(m);
    add("sum_rows", double(n), 0,
        [=](Stream& s) { sum_rows<T>(s, sums, Matrix<const T>(x, rows, m), Accumulate::kOverwrite); });
    add("copy_rows", 2 * double(n), 0,
        [=](Stream& s) { copy_rows<T>(s, Matrix<T>(x, rows, m), Matrix<const T>(y, rows, m)); });
    if constexpr (std::is_same_v<T, BF16>)
      add(
          "narrow", double(n), 0,
          [=](Stream& s) { narrow<T>(s, Matrix<T>(x, rows, m), Matrix<const W>(weight, rows, m)); }, bytes);
  }

  Device device_;
  BenchKernelsOptions o_;
  std::unique_ptr<Stream> stream_;
  std::int64_t tokens_, rows_;  // T and R = T * K
  std::uint64_t next_ = 0;
  std::vector<std::shared_ptr<Memory>> memories_;
  std::vector<KernelCase> cases_;
};

}  // namespace

template <class T>
std::vector<KernelCase> kernel_cases(Device device, const BenchKernelsOptions& options) {
  return Cases<T>(device, options).all();
}

template std::vector<KernelCase> kernel_cases<float>(Device, const BenchKernelsOptions&);
template std::vector<KernelCase> kernel_cases<double>(Device, const BenchKernelsOptions&);
template std::vector<KernelCase> kernel_cases<BF16>(Device, const BenchKernelsOptions&);

}  // namespace weft::tools
