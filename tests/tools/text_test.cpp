#include "tools/train/text.h"

#include <cmath>

#include "tests/support/catch.h"

using namespace weft::tools;

TEST_CASE("A number that rounds to zero has no minus", "[text]") {
  CHECK(fixed(-0.04, 1) == "0.0");
  CHECK(fixed(-0.06, 1) == "-0.1");
  CHECK(fixed(-0.4, 0) == "0");
  CHECK(fixed(-10.0, 0) == "-10");
  CHECK(fixed(0.0, 2) == "0.00");
  CHECK(fixed(-HUGE_VAL, 1) == "-inf");
}

TEST_CASE("One has no plural", "[text]") {
  CHECK(counted(1, "rank") == "1 rank");
  CHECK(counted(0, "rank") == "0 ranks");
  CHECK(counted(4, "node") == "4 nodes");
}
