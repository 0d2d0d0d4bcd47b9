#include "core/crc32c.h"

#include <string>

#include "tests/support/catch.h"

using namespace weft;

TEST_CASE("CRC-32C of the values that RFC 3720 lists", "[crc32c]") {
  CHECK(crc32c("") == 0U);
  CHECK(crc32c("123456789") == 0xE3069283U);
  CHECK(crc32c(std::string(32, '\0')) == 0x8A9136AAU);
  CHECK(crc32c(std::string(32, '\xff')) == 0x62A8AB43U);
  std::string rising;
  for (int i = 0; i < 32; ++i) rising.push_back(static_cast<char>(i));
  CHECK(crc32c(rising) == 0x46DD794EU);
}
