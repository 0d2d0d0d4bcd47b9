#include "tools/bench/bench_device.h"

#include <map>
#include <string>

#include "comm/factory.h"
#include "parallel/train/run_device.h"

namespace weft::tools {
namespace {

using parallel::DeviceChoice;

template <class Choice>
CLI::Option* device_option(CLI::App& command, Choice& choice, const char* text) {
  static const std::map<std::string, DeviceChoice> names{
      {"AUTO", DeviceChoice::kAuto}, {"CPU", DeviceChoice::kCpu}, {"CUDA", DeviceChoice::kCuda}};
  return command
      .add_option_function<std::string>(
          "--device", [&choice](const std::string& name) { choice = names.at(name); }, text)
      ->check(CLI::IsMember({"AUTO", "CPU", "CUDA"}, CLI::ignore_case));
}

}  // namespace

void add_device_option(CLI::App& command, DeviceChoice& choice) {
  device_option(command, choice, "What to measure; AUTO: a GPU where every rank has one")->default_str("AUTO");
}

void add_device_option(CLI::App& command, std::optional<DeviceChoice>& choice) {
  device_option(command, choice, "What to measure; AUTO: a GPU where every rank has one; default: parallel.device");
}

Device bench_device(DeviceChoice choice, comm::Communicator& world) {
  return parallel::run_device(choice, "--device", world);
}

Device bench_device(DeviceChoice choice) {
  Device out;
  comm::run_local_ranks(1, [&](comm::Communicator& world) { out = bench_device(choice, world); });
  return out;
}

}  // namespace weft::tools
