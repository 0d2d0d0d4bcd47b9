#include "core/atomic_file.h"

#include <sys/resource.h>
#include <sys/stat.h>

#include <csignal>
#include <cstdlib>

#include "tests/support/catch.h"
#include "tests/support/errors.h"
#include "tests/support/temp_folder.h"

namespace weft::test {
namespace {

namespace fs = std::filesystem;

/// Files may grow to `bytes` within the scope: a write beyond fails with EFBIG, as on a full disk.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) : handler_(std::signal(SIGXFSZ, SIG_IGN)) {
    ::getrlimit(RLIMIT_FSIZE, &before_);
    rlimit limit = before_;
    limit.rlim_cur = bytes;
    ::setrlimit(RLIMIT_FSIZE, &limit);
  }
  FileSizeLimit(const FileSizeLimit&) = delete;
  FileSizeLimit& operator=(const FileSizeLimit&) = delete;
  ~FileSizeLimit() {
    ::setrlimit(RLIMIT_FSIZE, &before_);
    std::signal(SIGXFSZ, handler_);
  }

 private:
  rlimit before_{};
  void (*handler_)(int);
};

TEST_CASE("an atomic file appears at commit, whole", "[core]") {
  const TempFolder folder;
  const fs::path path = folder / "a";
  {
    AtomicFile file(path);
    file.write("1234");
    file.write(std::string(100000, 'x'));
    file.overwrite(1, "AB", 2);
    CHECK(file.bytes_written() == 100004);
    CHECK_FALSE(fs::exists(path));
    file.commit();
    CHECK(get_bytes(path) == "1AB4" + std::string(100000, 'x'));
    check_error(ErrorCode::kInvalidArgument, "committed before", [&] { file.commit(); });
  }
  CHECK(get_bytes(path).size() == 100004);  // the destructor leaves a committed file alone
  CHECK_FALSE(fs::exists(folder / "a.tmp"));
}

TEST_CASE("links are followed, and what is no regular file is left alone", "[core]") {
  const TempFolder folder;
  put_bytes(folder / "file", "old");
  fs::create_symlink("file", folder / "link");
  write_file(folder / "link", "new");
  CHECK(fs::is_symlink(folder / "link"));
  CHECK(get_bytes(folder / "file") == "new");
  fs::create_symlink("later", folder / "dangling");
  write_file(folder / "dangling", "first");
  CHECK(get_bytes(folder / "later") == "first");
  REQUIRE(::mkfifo((folder / "pipe").c_str(), 0600) == 0);
  check_error(ErrorCode::kIo, "no regular file", [&] { write_file(folder / "pipe", "x"); });
  CHECK(fs::is_fifo(folder / "pipe"));
  check_error(ErrorCode::kIo, "no regular file", [&] { write_file(folder.path(), "x"); });
}

TEST_CASE("without commit the old file stays", "[core]") {
  const TempFolder folder;
  put_bytes(folder / "a", "old");
  {
    AtomicFile file(folder / "a");
    file.write("new");
  }
  CHECK(get_bytes(folder / "a") == "old");
  CHECK_FALSE(fs::exists(folder / "a.tmp"));
  write_file(folder / "a", "newer");
  CHECK(get_bytes(folder / "a") == "newer");
}

TEST_CASE("a write that fails names file and reason and leaves the old file", "[core]") {
  const TempFolder folder;
  put_bytes(folder / "a", "old");
  const FileSizeLimit limit(4096);
  check_error(ErrorCode::kIo, "cannot write " + (folder / "a.tmp").string() + ": File too large",
              [&] { write_file(folder / "a", std::string(10000, 'x')); });
  CHECK(get_bytes(folder / "a") == "old");
  CHECK_FALSE(fs::exists(folder / "a.tmp"));
}

TEST_CASE("a full disk is named as such, with a hint", "[core]") {
  const TempFolder folder;
  fs::create_symlink("/dev/full", folder / "a.tmp");  // where the temporary file goes
  const Error e = error_of([&] { write_file(folder / "a", "content"); });
  CHECK(e.code() == ErrorCode::kIo);
  CHECK_THAT(e.message(), Catch::Contains("No space left on device"));
  CHECK_THAT(e.hint(), Catch::Contains("free some space"));
  CHECK_FALSE(fs::exists(folder / "a"));
}

TEST_CASE("a folder that is not there is an error", "[core]") {
  const TempFolder folder;
  check_error(ErrorCode::kIo, "No such file", [&] { write_file(folder / "no/such/file", "x"); });
  check_error(ErrorCode::kIo, "No such file", [&] { (void)read_file(folder / "nothing"); });
  check_error(ErrorCode::kIo, "No such file", [&] { sync_folder(folder / "nothing"); });
  check_error(ErrorCode::kIo, "directory", [&] { (void)read_file(folder.path()); });
}

TEST_CASE("read_file gives all bytes, up to its limit", "[core]") {
  const TempFolder folder;
  for (const std::size_t size : {std::size_t{0}, std::size_t{1}, std::size_t{65536}, std::size_t{200001}}) {
    put_bytes(folder / "a", std::string(size, 'q'));
    CHECK(read_file(folder / "a") == std::string(size, 'q'));
  }
  CHECK(read_file(folder / "a", 200001).size() == 200001);
  check_error(ErrorCode::kIo, "longer than the 200000 bytes", [&] { (void)read_file(folder / "a", 200000); });
}

TEST_CASE("a folder appears at commit, and goes at once", "[core]") {
  const TempFolder folder;
  const fs::path temporary = folder / "step-1.tmp", path = folder / "step-1";
  fs::create_directories(temporary / "leftover");
  make_empty_folder(temporary);
  CHECK(fs::is_empty(temporary));
  write_file(temporary / "a", "content");
  CHECK_FALSE(fs::exists(path));
  commit_folder(temporary, path);
  CHECK(get_bytes(path / "a") == "content");
  CHECK_FALSE(fs::exists(temporary));

  make_empty_folder(temporary);
  check_error(ErrorCode::kIo, "File exists", [&] { commit_folder(temporary, path); });
  CHECK(get_bytes(path / "a") == "content");

  fs::create_directories(folder / "step-1.deleted");  // of an attempt that was killed
  remove_folder(path);
  CHECK_FALSE(fs::exists(path));
  CHECK_FALSE(fs::exists(folder / "step-1.deleted"));
  CHECK_NOTHROW(remove_folder(path));
}

}  // namespace
}  // namespace weft::test
