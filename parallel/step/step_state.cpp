#include "parallel/step/step_state.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/error.h"

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

StepStatistics::StepStatistics(const ModelConfig& model, int num_units, int world_size)
    : num_layers_(model.layers), num_experts_(model.moe.experts), num_units_(num_units), world_size_(world_size) {
  router_.resize(static_cast<std::size_t>(num_units) * static_cast<std::size_t>(num_layers_));
  for (std::size_t i = 0; i < router_.size(); ++i)
    if (model.is_moe_layer(static_cast<int>(i) % num_layers_)) {
      router_[i].choices.resize(static_cast<std::size_t>(num_experts_));
      router_[i].kept.resize(static_cast<std::size_t>(num_experts_));
    }
  loss_sum_.resize(static_cast<std::size_t>(num_units));
  received_rows_.resize(static_cast<std::size_t>(num_units));
}

void StepStatistics::reset() {
  for (RouterStatistics& r : router_) {
    std::fill(r.choices.begin(), r.choices.end(), 0.0);
    std::fill(r.kept.begin(), r.kept.end(), 0.0);
    r.balance_loss = r.z_loss = 0.0;
  }
  std::fill(loss_sum_.begin(), loss_sum_.end(), 0.0);
  std::fill(received_rows_.begin(), received_rows_.end(), 0.0);
}

std::vector<double> StepStatistics::pack(int world_rank, double gradient_squares) const {
  const auto e = static_cast<std::size_t>(num_experts_);
  const std::size_t per_layer = 2 + 2 * e;
  std::vector<double> out(2 + static_cast<std::size_t>(num_layers_) * per_layer +
                          static_cast<std::size_t>(world_size_));
  out[0] = std::accumulate(loss_sum_.begin(), loss_sum_.end(), 0.0);
  out[1] = gradient_squares;
  for (int unit = 0; unit < num_units_; ++unit)
    for (int layer = 0; layer < num_layers_; ++layer) {
      const RouterStatistics& r = router_[index(unit, layer)];
      double* at = out.data() + 2 + static_cast<std::size_t>(layer) * per_layer;
      at[0] += r.balance_loss;
      at[1] += r.z_loss;
      for (std::size_t i = 0; i < r.choices.size(); ++i) at[2 + i] += r.choices[i];
      for (std::size_t i = 0; i < r.kept.size(); ++i) at[2 + e + i] += r.kept[i];
    }
  out[out.size() - static_cast<std::size_t>(world_size_ - world_rank)] =
      std::accumulate(received_rows_.begin(), received_rows_.end(), 0.0);
  return out;
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
