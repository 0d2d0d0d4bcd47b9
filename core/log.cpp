#include "core/log.h"

#include <spdlog/sinks/basic_file_sink.h>
#include <spdlog/sinks/stdout_color_sinks.h>

#include <cstdlib>
#include <string>

#include "core/error.h"

namespace weft {
namespace {

spdlog::level::level_enum level_from_environment() {
  const char* name = std::getenv("WEFT_LOG");
  return name == nullptr ? spdlog::level::info : spdlog::level::from_str(name);
}

std::shared_ptr<spdlog::logger> make_logger() {
  auto logger = std::make_shared<spdlog::logger>("weft", std::make_shared<spdlog::sinks::stderr_color_sink_mt>());
  logger->set_pattern("%H:%M:%S %^%l%$ %v");
  logger->set_level(level_from_environment());
  logger->flush_on(spdlog::level::info);
  return logger;
}

}  // namespace

spdlog::logger* log() {
  static const std::shared_ptr<spdlog::logger> logger = make_logger();
  return logger.get();
}

void set_log_rank(int rank, int num_ranks) {
  if (num_ranks > 1) log()->set_pattern("%H:%M:%S %^%l%$ [" + std::to_string(rank) + "] %v");
  if (rank != 0 && std::getenv("WEFT_LOG") == nullptr) log()->set_level(spdlog::level::warn);
}

void add_log_file(std::string_view path) {
  try {
    log()->sinks().push_back(std::make_shared<spdlog::sinks::basic_file_sink_mt>(std::string(path)));
  } catch (const spdlog::spdlog_ex& e) {
    throw Error(ErrorCode::kIo, str("cannot write the log file ", path, ": ", e.what()));
  }
}

}  // namespace weft
