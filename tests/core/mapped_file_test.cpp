#include "core/mapped_file.h"

#include <utility>

#include "tests/support/catch.h"
#include "tests/support/errors.h"
#include "tests/support/temp_folder.h"

namespace weft::test {
namespace {

std::string text_of(const MappedFile& file) {
  return {reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()};
}

TEST_CASE("a mapped file is its bytes", "[core]") {
  const TempFolder folder;
  put_bytes(folder / "a", "some bytes");
  put_bytes(folder / "empty", "");
  MappedFile a(folder / "a");
  MappedFile empty(folder / "empty");
  CHECK(text_of(a) == "some bytes");
  CHECK(empty.bytes().empty());
  MappedFile moved = std::move(a);
  CHECK(text_of(moved) == "some bytes");
  CHECK(a.bytes().empty());  // NOLINT: a moved-from file is empty
  empty = std::move(moved);
  CHECK(text_of(empty) == "some bytes");
  CHECK(empty.path() == folder / "a");
}

TEST_CASE("what cannot be mapped is an error", "[core]") {
  const TempFolder folder;
  check_error(ErrorCode::kIo, "No such file", [&] { MappedFile{folder / "nothing"}; });
  check_error(ErrorCode::kIo, "Is a directory", [&] { MappedFile{folder.path()}; });
  check_error(ErrorCode::kIo, "cannot map /dev/null", [&] { MappedFile{"/dev/null"}; });
}

}  // namespace
}  // namespace weft::test
