// scheduler/plan_pack.cpp - a plan as numbers.
#include <bit>

#include "core/error.h"
#include "scheduler/plan.h"

namespace weft::scheduler {
namespace {

class Writer {
 public:
  void integer(std::int64_t value) { out_.push_back(value); }
  void real(double value) { out_.push_back(std::bit_cast<std::int64_t>(value)); }
  void text(const std::string& value) {
    integer(static_cast<std::int64_t>(value.size()));
    for (const char c : value) integer(c);
  }
  [[nodiscard]] std::vector<std::int64_t> take() { return std::move(out_); }

 private:
  std::vector<std::int64_t> out_;
};

class Reader {
 public:
  explicit Reader(std::span<const std::int64_t> in) : in_(in) {}
  std::int64_t integer() {
    if (at_ == in_.size()) throw Error(ErrorCode::kInternal, "a packed plan ends early");
    return in_[at_++];
  }
  /// A number of entries that follow.
  std::size_t count() {
    const std::int64_t n = integer();
    if (n < 0 || static_cast<std::size_t>(n) > in_.size() - at_)
      throw Error(ErrorCode::kInternal, str("a packed plan claims ", n, " entries"));
    return static_cast<std::size_t>(n);
  }
  double real() { return std::bit_cast<double>(integer()); }
  std::string text() {
    std::string out(count(), ' ');
    for (char& c : out) c = static_cast<char>(integer());
    return out;
  }

 private:
  std::span<const std::int64_t> in_;
  std::size_t at_ = 0;
};

}  // namespace

std::vector<std::int64_t> pack(const Plan& plan) {
  Writer w;
  w.text(plan.policy);
  w.integer(static_cast<std::int64_t>(plan.shape.layers.size()));
  for (const LayerShape& l : plan.shape.layers) {
    for (const int value : {l.forward_chunks, l.backward_chunks, l.weight_grad_pieces, static_cast<int>(l.recompute)})
      w.integer(value);
    w.integer(static_cast<std::int64_t>(l.gradient_shares.size()));
    for (const double share : l.gradient_shares) w.real(share);
  }
  w.integer(static_cast<std::int64_t>(plan.shape.sub_batches.size()));
  for (const int pieces : plan.shape.sub_batches) w.integer(pieces);
  w.integer(plan.shape.micro_batches_in_flight);
  for (const int stream : plan.shape.stream_of_resource) w.integer(stream);
  w.real(plan.shape.imbalance_limit);
  w.integer(plan.shape.padded ? 1 : 0);
  w.integer(plan.slot_rest);
  w.integer(static_cast<std::int64_t>(plan.issue_order.size()));
  for (const TaskId t : plan.issue_order) w.integer(t);
  w.integer(static_cast<std::int64_t>(plan.made_for.size()));
  for (const std::string& line : plan.made_for) w.text(line);
  w.integer(plan.memory_limit_bytes);
  w.integer(plan.peak_memory_bytes);
  return w.take();
}

Plan unpack(std::span<const std::int64_t> numbers) {
  Reader r(numbers);
  Plan plan;
  plan.policy = r.text();
  plan.shape.layers.resize(r.count());
  for (LayerShape& l : plan.shape.layers) {
    for (int* value : {&l.forward_chunks, &l.backward_chunks, &l.weight_grad_pieces})
      *value = static_cast<int>(r.integer());
    l.recompute = static_cast<Recompute>(r.integer());
    l.gradient_shares.resize(r.count());
    for (double& share : l.gradient_shares) share = r.real();
  }
  plan.shape.sub_batches.resize(r.count());
  for (int& pieces : plan.shape.sub_batches) pieces = static_cast<int>(r.integer());
  plan.shape.micro_batches_in_flight = static_cast<int>(r.integer());
  for (std::uint8_t& stream : plan.shape.stream_of_resource) stream = static_cast<std::uint8_t>(r.integer());
  plan.shape.imbalance_limit = r.real();
  plan.shape.padded = r.integer() != 0;
  plan.slot_rest = static_cast<std::int32_t>(r.integer());
  plan.issue_order.resize(r.count());
  for (TaskId& t : plan.issue_order) t = static_cast<TaskId>(r.integer());
  plan.made_for.resize(r.count());
  for (std::string& line : plan.made_for) line = r.text();
  plan.memory_limit_bytes = r.integer();
  plan.peak_memory_bytes = r.integer();
  return plan;
}

}  // namespace weft::scheduler
