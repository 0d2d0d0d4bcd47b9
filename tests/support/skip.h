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
