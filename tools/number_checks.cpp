#include "tools/number_checks.h"

#include <cmath>
#include <string>

namespace weft::tools {
namespace {

template <class Holds>
CLI::Validator number_that(const char* wanted, const char* type, Holds holds) {
  const auto complaint = [=](const std::string& input) {
    double value = 0.0;
    const bool is_number = CLI::detail::lexical_cast(input, value) && std::isfinite(value);
    return is_number && holds(value) ? std::string() : "'" + input + "' is not a number " + wanted;
  };
  return CLI::Validator(complaint, type);
}

}  // namespace

CLI::Validator positive() {
  return number_that("above 0", "POSITIVE", [](double value) { return value > 0.0; });
}

CLI::Validator not_negative() {
  return number_that("from 0 on", "NONNEGATIVE", [](double value) { return value >= 0.0; });
}

}  // namespace weft::tools
