#include "core/checksum.h"

#include <string>

#include "tests/support/catch.h"
#include "tests/support/errors.h"

namespace weft::test {
namespace {

TEST_CASE("checksums are XXH3 and the same in one piece or many", "[core]") {
  CHECK(checksum_to_text(checksum("", 0)) == "2d06800538d394c2");  // XXH3_64bits of nothing, seed 0
  std::string data;
  for (int i = 0; i < 5000; ++i) data += static_cast<char>(i * 31 % 251);
  const auto size = static_cast<std::int64_t>(data.size());
  for (const std::int64_t piece : {1, 7, 1024, 4999, 5000}) {
    Checksum sum;
    for (std::int64_t first = 0; first < size; first += piece)
      sum.update(data.data() + first, std::min(piece, size - first));
    CHECK(sum.value() == checksum(data.data(), size));
  }
  for (std::size_t i = 0; i < data.size(); i += 97) {
    std::string damaged = data;
    damaged[i] ^= 1;
    CHECK(checksum(damaged.data(), size) != checksum(data.data(), size));
  }
}

TEST_CASE("checksums as text", "[core]") {
  for (const std::uint64_t value :
       {std::uint64_t{0}, std::uint64_t{1}, ~std::uint64_t{0}, std::uint64_t{0x0123456789abcdef}})
    CHECK(checksum_from_text(checksum_to_text(value)) == value);
  CHECK(checksum_to_text(0xab) == "00000000000000ab");
  for (const char* text :
       {"", "ab", "00000000000000ag", "00000000000000AB", "0x000000000000ab", "-0000000000000ab", "00000000000000abc"})
    check_error(ErrorCode::kInvalidArgument, "is not a checksum", [&] { (void)checksum_from_text(text); });
}

}  // namespace
}  // namespace weft::test
