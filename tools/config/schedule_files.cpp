#include "tools/config/schedule_files.h"

#include <google/protobuf/text_format.h>

#include "configs/plan.pb.h"
#include "core/atomic_file.h"
#include "core/checksum.h"
#include "core/error.h"
#include "tools/config/loader.h"

namespace weft::tools {
namespace {

using scheduler::Recompute;

constexpr Recompute kRecomputes[] = {Recompute::kNone, Recompute::kSelective, Recompute::kFull};

}  // namespace

std::string plan_to_text(const scheduler::Plan& plan) {
  config::Plan message;
  message.set_policy(plan.policy);
  for (const scheduler::LayerShape& layer : plan.shape.layers) {
    config::Plan::Layer& out = *message.add_layer();
    out.set_forward_chunks(layer.forward_chunks);
    out.set_backward_chunks(layer.backward_chunks);
    out.set_weight_grad_pieces(layer.weight_grad_pieces);
    out.mutable_gradient_share()->Assign(layer.gradient_shares.begin(), layer.gradient_shares.end());
    out.set_recompute(std::string(to_string(layer.recompute)));
  }
  message.mutable_sub_batches()->Assign(plan.shape.sub_batches.begin(), plan.shape.sub_batches.end());
  message.mutable_stream_of_resource()->Assign(plan.shape.stream_of_resource.begin(),
                                               plan.shape.stream_of_resource.end());
  message.set_micro_batches_in_flight(plan.shape.micro_batches_in_flight);
  message.set_imbalance_limit(plan.shape.imbalance_limit);
  if (plan.shape.padded) message.set_padded(true);
  message.set_slot_rest(plan.slot_rest);
  message.mutable_issue_order()->Assign(plan.issue_order.begin(), plan.issue_order.end());
  for (const std::string& line : plan.made_for) message.add_made_for(line);
  message.set_memory_limit_bytes(plan.memory_limit_bytes);
  message.set_peak_memory_bytes(plan.peak_memory_bytes);
  message.set_digest(checksum_to_text(scheduler::digest(plan)));
  google::protobuf::TextFormat::Printer printer;
  printer.SetUseShortRepeatedPrimitives(true);
  std::string text;
  printer.PrintToString(message, &text);
  return "# proto-file: configs/plan.proto\n# proto-message: weft.config.Plan\n\n" + text;
}

scheduler::Plan plan_from_text(const std::string& text, const std::string& origin) {
  config::Plan message;
  parse_text_proto(text, origin, message);
  scheduler::Plan plan;
  plan.policy = message.policy();
  for (const auto& layer : message.layer()) {
    scheduler::LayerShape& shape = plan.shape.layers.emplace_back();
    shape.forward_chunks = layer.forward_chunks();
    shape.backward_chunks = layer.backward_chunks();
    shape.weight_grad_pieces = layer.weight_grad_pieces();
    shape.gradient_shares.assign(layer.gradient_share().begin(), layer.gradient_share().end());
    WEFT_CHECK(shape.forward_chunks >= 1 && shape.backward_chunks >= 1 && shape.weight_grad_pieces >= 0, origin,
               ": a layer with no chunks");
    bool known = false;
    for (const Recompute r : kRecomputes)
      if (layer.recompute() == to_string(r)) {
        shape.recompute = r;
        known = true;
      }
    WEFT_CHECK(known, origin, ": recompute is '", layer.recompute(), "', not none, selective or full");
  }
  plan.shape.sub_batches.assign(message.sub_batches().begin(), message.sub_batches().end());
  WEFT_CHECK(message.stream_of_resource_size() == scheduler::kNumResources, origin, ": stream_of_resource has ",
             message.stream_of_resource_size(), " entries, not ", scheduler::kNumResources);
  for (int r = 0; r < scheduler::kNumResources; ++r) {
    WEFT_CHECK(message.stream_of_resource(r) >= 0 && message.stream_of_resource(r) < scheduler::kNumResources, origin,
               ": stream_of_resource ", message.stream_of_resource(r), " is none of 0 to 3");
    plan.shape.stream_of_resource[static_cast<std::size_t>(r)] =
        static_cast<std::uint8_t>(message.stream_of_resource(r));
  }
  plan.shape.micro_batches_in_flight = message.micro_batches_in_flight();
  plan.shape.imbalance_limit = message.imbalance_limit();
  plan.shape.padded = message.padded();
  plan.slot_rest = message.slot_rest();
  plan.issue_order.assign(message.issue_order().begin(), message.issue_order().end());
  plan.made_for.assign(message.made_for().begin(), message.made_for().end());
  plan.memory_limit_bytes = message.memory_limit_bytes();
  plan.peak_memory_bytes = message.peak_memory_bytes();
  if (message.digest() != checksum_to_text(scheduler::digest(plan)))
    throw Error(ErrorCode::kInvalidArgument, str(origin, ": the digest does not hold: the plan was changed by hand"),
                "make it again instead of editing it");
  return plan;
}

std::optional<scheduler::Plan> plan_of(const parallel::RunConfig& config) {
  const std::string& path = config.schedule.plan;
  if (path.empty()) return std::nullopt;
  return plan_from_text(read_file(path), path);
}

}  // namespace weft::tools
