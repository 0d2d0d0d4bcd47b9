// tests/support/skip.h - leaving a test case that cannot run here, so that it is counted and its reason shown.
#pragma once

#include "tests/support/catch.h"

/// Leaves the test case; scripts/test counts it as skipped and lists `reason`. For what this machine lacks, never for
/// what is broken.
#define WEFT_SKIP(reason)        \
  do {                           \
    WARN("skipped: " << reason); \
    SUCCEED();                   \
    return;                      \
  } while (false)

namespace weft::test {

/// This build is many times slower than a release build: long figures are left to the latter.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr bool kSanitized = true;
#else
inline constexpr bool kSanitized = false;
#endif

}  // namespace weft::test
