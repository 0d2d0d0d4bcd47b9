// tools/number_checks.h - checks of options whose value is a number, with words that people can read.
#pragma once

#include <CLI/CLI.hpp>

namespace weft::tools {

/// For CLI::Option::check: a number above 0. CLI11's own names the ends of the range, of which one has 309 digits.
[[nodiscard]] CLI::Validator positive();
[[nodiscard]] CLI::Validator not_negative();  ///< 0 or more.

}  // namespace weft::tools
