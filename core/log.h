// core/log.h - the process's logger. Included by .cpp files only (spdlog is heavy and does not compile in .cu files).
#pragma once

#include <spdlog/spdlog.h>

#include <memory>
#include <string_view>

namespace weft {

/// The one logger: standard error, pattern with time, level and rank. Level from WEFT_LOG (trace ... off), default
/// info.
[[nodiscard]] spdlog::logger* log();

/// Puts `rank` into the pattern and silences info on ranks other than 0. Call once, at start-up.
void set_log_rank(int rank, int num_ranks);

/// Copies what is logged into `path` too (appending). Throws Error{kIo}.
void add_log_file(std::string_view path);

}  // namespace weft
