#include "parallel/step/step_state.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/error.h"
#include "kernels/reduce.h"

namespace weft::parallel {

std::vector<Unit> make_units(const StepGeometry& g, const scheduler::Shape& shape) {
  const int groups = g.micro_batch / g.group_sequences;
  const std::int64_t group_rows = std::int64_t{g.group_sequences} * g.rows_per_sequence();
  std::vector<Unit> units;
  for (int mb = 0; mb < g.num_micro_batches; ++mb) {
    const int sub_batches = sub_batches_of(shape, mb);
    WEFT_CHECK(sub_batches >= 1 && sub_batches <= groups, "sub_batches is ", sub_batches, ", but a micro-batch has ",
               groups, " routing groups to cut between");
    for (int s = 0; s < sub_batches; ++s) {
      const std::int64_t begin = std::int64_t{groups} * s / sub_batches,
                         end = std::int64_t{groups} * (s + 1) / sub_batches;
      units.push_back({static_cast<int>(units.size()), mb, s, begin * group_rows, (end - begin) * group_rows});
    }
  }
  return units;
}

StepStatistics::StepStatistics(const ModelConfig& model, int num_units, int world_size, Device device)
    : num_layers_(model.layers),
      num_experts_(model.moe.experts),
      num_units_(num_units),
      world_size_(world_size),
      width_(2 + std::int64_t{num_layers_} * (2 + 2 * num_experts_)),
      received_rows_(static_cast<std::size_t>(num_units)) {
  const std::int64_t choices = 2 * std::int64_t{num_layers_} * num_experts_;
  device_ = Memory(device, (first_sum() + num_sums() + 1 + choices) * std::int64_t{sizeof(double)});
  if (device.kind != DeviceKind::kCpu) host_ = Memory(device, device_.bytes(), MemoryPlace::kPinned);
}

double* StepStatistics::sums() const { return device_.as<double>() + first_sum(); }
double* StepStatistics::clip_factor() const { return sums() + num_sums(); }

/// step 0: the last one, 1: this one.
double* StepStatistics::choices_of(int step, int layer) const {
  return clip_factor() + 1 + (std::int64_t{step} * num_layers_ + layer) * num_experts_;
}
const double* StepStatistics::previous_choices(int layer) const { return choices_of(0, layer); }
double* StepStatistics::running_choices(int layer) const { return choices_of(1, layer); }

RouterFigures StepStatistics::router(int unit, int layer) const {
  double* first = at(unit, 2 + std::int64_t{layer} * (2 + 2 * num_experts_));
  return {first, first + 1, first + 2, first + 2 + num_experts_};
}

void StepStatistics::start(Stream& stream, const std::vector<std::vector<double>>& previous) {
  forget_received_rows();
  kernels::fill<double>(stream, device_.as<double>(), device_.bytes() / std::int64_t{sizeof(double)}, 0.0);
  const bool apart = host_.data() != nullptr;
  double* image = apart ? host_.as<double>() : choices_of(0, 0);  // nothing has been fetched into it yet
  const std::int64_t count = std::int64_t{num_layers_} * num_experts_;
  if (apart) std::fill_n(image, count, 0.0);
  for (std::size_t layer = 0; layer < previous.size(); ++layer)
    std::copy(previous[layer].begin(), previous[layer].end(), image + static_cast<std::int64_t>(layer) * num_experts_);
  if (apart) copy_bytes(stream, choices_of(0, 0), image, count * std::int64_t{sizeof(double)});
}

void StepStatistics::pack(Stream& stream, int world_rank) const {
  kernels::sum_rows<double>(stream, sums(), Matrix<const double>(device_.as<double>(), num_units_, width_));
  kernels::fill<double>(stream, sums() + width_, world_size_, 0.0);
  kernels::fill<double>(stream, sums() + width_ + world_rank, 1,
                        std::accumulate(received_rows_.begin(), received_rows_.end(), 0.0));
}

void StepStatistics::fetch(Stream& stream) const {
  if (host_.data() != nullptr)
    copy_bytes(stream, host_.data(), device_.data(), (first_sum() + num_sums()) * std::int64_t{sizeof(double)});
}

std::vector<double> StepStatistics::sums_on_host() const {
  const double* first = on_host() + first_sum();
  return {first, first + num_sums()};
}

StepResult unpack(const std::vector<double>& sums, const ModelConfig& model, double num_valid_tokens) {
  const auto e = static_cast<std::size_t>(model.moe.experts);
  StepResult out;
  out.loss = sums[0] / num_valid_tokens;
  out.gradient_norm = std::sqrt(sums[1]);
  out.router.resize(static_cast<std::size_t>(model.layers));
  double choices = 0.0, kept = 0.0;
  const double* at = sums.data() + 2;
  for (int layer = 0; layer < model.layers; ++layer, at += 2 + 2 * e) {
    if (!model.is_moe_layer(layer)) continue;
    RouterStatistics& r = out.router[static_cast<std::size_t>(layer)];
    r.balance_loss = at[0];
    r.z_loss = at[1];
    r.choices.assign(at + 2, at + 2 + e);
    r.kept.assign(at + 2 + e, at + 2 + 2 * e);
    out.balance_loss += r.balance_loss;
    out.z_loss += r.z_loss;
    const double layer_choices = std::accumulate(r.choices.begin(), r.choices.end(), 0.0);
    choices += layer_choices;
    kept += std::accumulate(r.kept.begin(), r.kept.end(), 0.0);
    out.dead_experts += static_cast<int>(std::count(r.choices.begin(), r.choices.end(), 0.0));
    if (layer_choices > 0)
      out.max_violation = std::max(
          out.max_violation, *std::max_element(r.choices.begin(), r.choices.end()) * double(e) / layer_choices - 1.0);
  }
  out.drop_fraction = choices > 0 ? (choices - kept) / choices : 0.0;
  const double* end = sums.data() + sums.size();
  const double received = std::accumulate(at, end, 0.0);
  if (received > 0) out.rank_imbalance = *std::max_element(at, end) * double(end - at) / received;
  return out;
}

std::vector<std::vector<std::int64_t>> expert_tokens(const StepResult& result) {
  std::vector<std::vector<std::int64_t>> out;
  for (const RouterStatistics& layer : result.router)
    if (!layer.kept.empty()) out.emplace_back(layer.kept.begin(), layer.kept.end());
  return out;
}

}  // namespace weft::parallel
