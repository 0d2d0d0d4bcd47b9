#include "parallel/train/run_device.h"

#include <algorithm>

#include "core/error.h"
#include "core/log.h"
#include "scheduler/cta_budget.h"

namespace weft::parallel {

using scheduler::LinkClass;

Device run_device(const RunConfig& config, comm::Communicator& world) {
  return run_device(config.parallel.device, "parallel.device", world);
}

Device run_device(DeviceChoice choice, const char* setting, comm::Communicator& world) {
  if (choice == DeviceChoice::kCpu) return {};
  std::string why = is_available(DeviceKind::kCuda) ? "" : why_unavailable(DeviceKind::kCuda);
  std::int32_t without = why.empty() ? 0 : 1;
  world.all_reduce(comm::as_buffer(&without, 1), comm::as_buffer(&without, 1), comm::ReduceOp::kSum,
                   *make_inline_stream());
  if (without == 0) {
    if (world.rank() == 0) log()->info("computing on GPUs");
    return comm::choose_device(world, DeviceKind::kCuda);
  }
  if (why.empty()) why = str(without, " of ", world.size(), " ranks see no GPU");
  if (choice == DeviceChoice::kCuda)
    throw Error(ErrorCode::kUnavailable, str(setting, " = CUDA: ", why), str("set ", setting, " to AUTO or CPU"));
  // where this rank sees no GPU, asking has logged why
  if (world.rank() == 0 && is_available(DeviceKind::kCuda)) log()->info("{}; computing on the CPU", why);
  return {};
}

comm::CtaBudgets cta_budgets(const RunConfig& config, const std::vector<scheduler::CtaSample>& samples) {
  const auto budget = [&](int of_config, LinkClass link) {
    return of_config > 0 ? of_config : scheduler::choose_ctas(samples, link);
  };
  return {budget(config.parallel.intra_node_ctas, LinkClass::kIntra),
          budget(config.parallel.inter_node_ctas, LinkClass::kInter)};
}

std::string describe_ctas(const RunConfig& config, const std::vector<scheduler::CtaSample>& samples) {
  const comm::CtaBudgets budgets = cta_budgets(config, samples);
  const auto describe = [&](int ctas, int of_config, LinkClass link) {
    const bool measured = std::any_of(samples.begin(), samples.end(), [&](const auto& s) { return s.link == link; });
    const std::string what = ctas > 0 ? str(ctas) : "as NCCL decides";
    return what + (of_config > 0 ? " (config)" : measured ? " (profile)" : " (not measured)");
  };
  return str("CTAs of NCCL's groups inside nodes: ",
             describe(budgets.intra_node, config.parallel.intra_node_ctas, LinkClass::kIntra),
             ", between nodes: ", describe(budgets.inter_node, config.parallel.inter_node_ctas, LinkClass::kInter));
}

}  // namespace weft::parallel
