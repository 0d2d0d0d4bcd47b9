// tests/kernels/kernel_test.h - what the kernel tests share.
#pragma once

#include <cctype>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/stream.h"
#include "tests/support/catch.h"
#include "tests/support/close.h"
#include "tests/support/generators.h"
#include "tests/support/gradcheck.h"
#include "tests/support/reference.h"

namespace weft::test {

/// A stream that runs kernels on the spot.
inline Stream& inline_stream() {
  static const std::unique_ptr<Stream> stream = make_inline_stream();
  return *stream;
}

/// The message of the kInvalidArgument that `call` throws; "" when it throws nothing.
template <class F>
[[nodiscard]] std::string error_of(const F& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.code() == ErrorCode::kInvalidArgument ? error.message() : std::string("another code: ") + error.what();
  }
  return {};
}

template <class T>
[[nodiscard]] reference::Reals reals(const std::vector<T>& values) {
  return reference::Reals(values.begin(), values.end());
}

/// Matches the message of a bad shape: it starts with the kernel and names the argument.
[[nodiscard]] inline auto says(const std::string& kernel, const std::string& argument) {
  std::string pattern = kernel + ": .*";
  for (const char c : argument)
    pattern += std::isalnum(static_cast<unsigned char>(c)) ? std::string{c} : std::string{'\\', c};
  return Catch::Matchers::Matches(pattern + ".*");
}

}  // namespace weft::test
