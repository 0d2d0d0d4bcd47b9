// tools/exit_status.h - how the command ends: documented, stable exit codes, and errors in one voice.
#pragma once

#include <iosfwd>
#include <string>
#include <string_view>

#include "core/error.h"

namespace weft::tools {

enum ExitStatus : int {
  kExitDone = 0,
  kExitOther = 1,      ///< Anything without a code of its own.
  kExitUsage = 2,      ///< Bad usage or config.
  kExitIo = 74,        ///< A file is missing, damaged or cannot be written.
  kExitRequeue = 75,   ///< Saved and stopped on request: start me again.
  kExitHang = 79,      ///< A collective passed its deadline.
  kExitNonFinite = 80  ///< The loss or the gradient norm is NaN or infinite.
};

[[nodiscard]] ExitStatus exit_status(ErrorCode code) noexcept;

/// "error: ..." and, where there is a hint, "hint: ...": one line each, newlines and control characters made visible.
[[nodiscard]] std::string error_lines(std::string_view message, std::string_view hint);

/// Says on standard error why this process ends. Under a launcher, ranks that end for the same reason say it once: rank
/// 0 if it is among them. A rank that is alone with its error names itself.
void report_error(std::string_view message, std::string_view hint);

}  // namespace weft::tools
