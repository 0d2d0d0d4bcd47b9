#include "parallel/train/figures.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <numeric>
#include <optional>

#include "core/error.h"
#include "parallel/step/step_state.h"

namespace weft::parallel {
namespace {

struct Figure {
  const char* key;  ///< In metrics.jsonl.
  const char* tag;
  double tag_scale;
  const char* name;  ///< Behind "weft_".
  double name_scale;
  const char* help;
};

constexpr std::array kFigures{
    Figure{"step", nullptr, 1, "step", 1, "Optimizer steps done."},
    Figure{"loss", "loss_metrics/global_avg_loss", 1, "loss", 1, "Mean cross-entropy of the step, nats per token."},
    Figure{"val_loss", "validation_metrics/loss", 1, "validation_loss", 1, "Validation loss, nats per token."},
    Figure{"grad_norm", "grad_norm", 1, "gradient_norm", 1, "Gradient norm before clipping."},
    Figure{"lr", "lr", 1, "learning_rate", 1, "Learning rate."},
    Figure{"tokens", "tokens", 1, "tokens_total", 1, "Tokens trained on."},
    Figure{"step_ms", "time_metrics/end_to_end(s)", 1e-3, "step_seconds", 1e-3, "Wall time of the step on rank 0."},
    Figure{"predicted_ms", "time_metrics/predicted(s)", 1e-3, "predicted_step_seconds", 1e-3,
           "What the plan's simulation says of a step."},
    Figure{"tokens_per_second", "throughput(tps)", 1, "tokens_per_second", 1, "Tokens per second over all ranks."},
    Figure{"model_tflops", "tflops", 1, "model_flops_per_second", 1e12, "Model FLOPs per second and rank."},
    Figure{"exposed_comm_frac", "time_metrics/exposed_comm_frac", 1, "exposed_comm_ratio", 1,
           "Share of the step in which only communication ran."},
    Figure{"aux_loss", "moe/aux_loss", 1, "balance_loss", 1, "Balance loss, its coefficient included."},
    Figure{"z_loss", "moe/z_loss", 1, "z_loss", 1, "Router z-loss, its coefficient included."},
    Figure{"drop_frac", "moe/drop_frac", 1, "dropped_ratio", 1, "Dropped choices over all choices."},
    Figure{"max_vio", "moe/max_vio", 1, "max_violation", 1, "Busiest expert over the mean, minus 1; the worst layer."},
    Figure{"rank_imbalance", "moe/rank_imbalance", 1, "rank_imbalance", 1, "Rows of the busiest rank over the mean."},
    Figure{"dead_experts", "moe/dead_experts", 1, "dead_experts", 1, "Experts of all layers without a choice."}};

std::string escaped(const std::string& label) {
  std::string out;
  for (const char c : label) {
    if (c == '\\' || c == '"') out += '\\';
    out += c == '\n' ? ' ' : c;
  }
  return out;
}

void add_layer(std::vector<Scalar>& out, std::size_t layer, const std::vector<double>& choices) {
  const double sum = std::accumulate(choices.begin(), choices.end(), 0.0);
  const auto experts = static_cast<double>(choices.size());
  if (!(sum > 0.0)) return;
  char head[32];
  std::snprintf(head, sizeof head, "moe/layer_%02zu/", layer);
  double entropy = 0.0;
  for (const double n : choices)
    if (n > 0.0) entropy -= n / sum * std::log(n / sum);
  out.emplace_back(head + std::string("max_vio"),
                   *std::max_element(choices.begin(), choices.end()) / sum * experts - 1.0);
  out.emplace_back(head + std::string("entropy"), experts > 1 ? entropy / std::log(experts) : 1.0);
  out.emplace_back(head + std::string("dead_experts"),
                   static_cast<double>(std::count(choices.begin(), choices.end(), 0.0)));
}

}  // namespace

std::vector<Scalar> tensorboard_scalars(const MetricsLine& line, const StepResult& result) {
  std::vector<Scalar> out;
  for (const Figure& figure : kFigures)
    if (const std::optional<double> value = line.number(figure.key); value && figure.tag != nullptr)
      out.emplace_back(figure.tag, *value * figure.tag_scale);
  for (std::size_t l = 0; l < result.router.size(); ++l) add_layer(out, l, result.router[l].choices);
  return out;
}

std::string prometheus_text(const MetricsLine& line, const std::string& run) {
  std::string out;
  for (const Figure& figure : kFigures) {
    const std::optional<double> value = line.number(figure.key);
    if (!value) continue;
    const std::string name = str("weft_", figure.name);
    const bool counter = name.ends_with("_total");
    char text[40];
    std::snprintf(text, sizeof text, "%.17g", *value * figure.name_scale);
    out += str("# HELP ", name, " ", figure.help, "\n# TYPE ", name, counter ? " counter\n" : " gauge\n", name,
               "{run=\"", escaped(run), "\"} ", text, "\n");
  }
  return out;
}

}  // namespace weft::parallel
