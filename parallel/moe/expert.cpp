#include "parallel/moe/expert.h"

#include "parallel/step/feed_forward.h"

namespace weft::parallel {
namespace {

/// Two grouped products with an activation between them: SwiGLU (kMixtral) or GELU (kGpt2Moe).
template <class T, ModelFamily family>
class FeedForwardExpert final : public Expert<T> {
 public:
  FeedForwardExpert(std::int64_t width, std::int64_t hidden, const ExpertParameters<T>& p) : hidden_width_(hidden) {
    pre_ = {p.pre.weight, p.stride, p.pre_bias.weight, p.stride, pre_width(), width};
    d_pre_ = {p.pre.grad, p.stride, p.pre_bias.grad, p.stride, pre_width(), width};
    down_ = {p.down.weight, p.stride, p.down_bias.weight, p.stride, width, hidden};
    d_down_ = {p.down.grad, p.stride, p.down_bias.grad, p.stride, width, hidden};
  }
  [[nodiscard]] std::int64_t hidden_width() const override { return hidden_width_; }
  [[nodiscard]] std::int64_t pre_width() const override { return is_gated(family) ? 2 * hidden_width_ : hidden_width_; }

  void forward(Stream& stream, ExpertOffsets offsets, Matrix<T> y, Matrix<T> pre, Matrix<T> hidden,
               Matrix<const T> x) const override {
    kernels::grouped_linear_forward<T>(stream, pre, x, pre_, offsets);
    activation_forward<T>(stream, family, hidden, pre);
    kernels::grouped_linear_forward<T>(stream, y, hidden, down_, offsets);
  }
  void activate(Stream& stream, Matrix<T> hidden, Matrix<const T> pre) const override {
    activation_forward<T>(stream, family, hidden, pre);
  }
  void backward_input(Stream& stream, ExpertOffsets offsets, Matrix<T> dx, Matrix<T> pre, Matrix<T> d_hidden,
                      Matrix<const T> dy) const override {
    using kernels::Accumulate;
    kernels::grouped_linear_backward_input<T>(stream, d_hidden, dy, down_, offsets, Accumulate::kOverwrite);
    activation_backward<T>(stream, family, pre, d_hidden, pre);
    kernels::grouped_linear_backward_input<T>(stream, dx, pre, pre_, offsets, Accumulate::kOverwrite);
  }
  void backward_weight(Stream& stream, ExpertOffsets offsets, const typename Expert<T>::WeightInputs& in,
                       kernels::Accumulate accumulate) const override {
    kernels::grouped_linear_backward_weight<T>(stream, d_down_, in.dy, in.hidden, offsets, accumulate);
    kernels::grouped_linear_backward_weight<T>(stream, d_pre_, in.d_pre, in.x, offsets, accumulate);
  }

 private:
  std::int64_t hidden_width_;
  kernels::ExpertWeights<T> pre_, down_;
  kernels::ExpertWeights<Wide<T>> d_pre_, d_down_;  ///< Their gradients.
};

}  // namespace

template <class T>
std::unique_ptr<Expert<T>> make_expert(const ModelConfig& model, std::int64_t hidden_width,
                                       const ExpertParameters<T>& parameters) {
  if (model.family == ModelFamily::kMixtral)
    return std::make_unique<FeedForwardExpert<T, ModelFamily::kMixtral>>(model.model_dim, hidden_width, parameters);
  return std::make_unique<FeedForwardExpert<T, ModelFamily::kGpt2Moe>>(model.model_dim, hidden_width, parameters);
}

template std::unique_ptr<Expert<float>> make_expert(const ModelConfig&, std::int64_t, const ExpertParameters<float>&);
template std::unique_ptr<Expert<double>> make_expert(const ModelConfig&, std::int64_t, const ExpertParameters<double>&);
template std::unique_ptr<Expert<BF16>> make_expert(const ModelConfig&, std::int64_t, const ExpertParameters<BF16>&);

}  // namespace weft::parallel
