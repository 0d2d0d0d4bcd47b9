#include "tools/exit_status.h"

#include "tests/support/catch.h"

namespace weft::tools {
namespace {

TEST_CASE("exit codes are the documented ones") {
  CHECK(exit_status(ErrorCode::kInvalidArgument) == 2);
  CHECK(exit_status(ErrorCode::kIo) == 74);
  CHECK(exit_status(ErrorCode::kTimeout) == 79);
  CHECK(exit_status(ErrorCode::kNonFinite) == 80);
  CHECK(kExitRequeue == 75);
  for (ErrorCode code :
       {ErrorCode::kUnavailable, ErrorCode::kOutOfMemory, ErrorCode::kDevice, ErrorCode::kComm, ErrorCode::kInternal})
    CHECK(exit_status(code) == 1);
}

TEST_CASE("an error is one line, and so is its hint") {
  CHECK(error_lines("bad", "") == "error: bad\n");
  CHECK(error_lines("bad", "do this") == "error: bad\nhint: do this\n");
  CHECK(error_lines("a\nb \nc", "x\ny") == "error: a b c\nhint: x y\n");
  CHECK(error_lines("\x1b[31mred\t", "") == "error: ?[31mred?\n");
  CHECK(error_lines("caf\xc3\xa9", "") == "error: caf\xc3\xa9\n");
}

}  // namespace
}  // namespace weft::tools
