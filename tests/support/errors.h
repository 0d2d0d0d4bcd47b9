// tests/support/errors.h - the Error that a call throws, to look at its code and text.
#pragma once

#include <optional>
#include <string>

#include "core/error.h"
#include "tests/support/catch.h"

namespace weft::test {

/// The Error of `call`; a failure of the test case when it throws nothing or something else.
template <class Call>
Error error_of(const Call& call) {
  std::optional<Error> error;
  try {
    call();
  } catch (const Error& e) {
    error = e;
  }
  if (!error) FAIL("no Error was thrown");
  return *error;
}

/// `call` throws an Error with this code, whose message contains `text`.
template <class Call>
void check_error(ErrorCode code, const std::string& text, const Call& call) {
  const Error e = error_of(call);
  INFO(e.what());
  CHECK(to_string(e.code()) == to_string(code));
  CHECK_THAT(e.message(), Catch::Contains(text));
}

}  // namespace weft::test
