#include "core/atomic_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <system_error>
#include <utility>

#include "core/error.h"

namespace weft {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t kMaxCallBytes = std::int64_t{1} << 30;  // Linux writes at most 2 GiB - 4 KiB in one call

std::string_view hint_for(int error_number) {
  switch (error_number) {
    case ENOSPC:
    case EDQUOT:
      return "free some space on that file system, or point the output to another one";
    case EACCES:
    case EPERM:
    case EROFS:
      return "check the permissions of the folder, or point the output to another one";
    case ENOENT:
      return "check the path";
    case EFBIG:
      return "the file system or `ulimit -f` limits the size of a file";
    default:
      return {};
  }
}

/// Owns a descriptor that is only synced or read.
class Descriptor {
 public:
  Descriptor(const fs::path& path, int flags, std::string_view action) : fd_(::open(path.c_str(), flags | O_CLOEXEC)) {
    if (fd_ < 0) throw_io_error(action, path, errno);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  ~Descriptor() { ::close(fd_); }
  [[nodiscard]] int get() const noexcept { return fd_; }

 private:
  int fd_;
};

/// The folder that `path` lies in.
fs::path parent_of(const fs::path& path) {
  const fs::path parent = path.parent_path();
  return parent.empty() ? fs::path(".") : parent;
}

/// Where a file of that name has its bytes: links are followed, so that renaming replaces what they point at. Devices,
/// pipes and folders would be lost by a rename, so they are refused.
fs::path target_of(const fs::path& path) {
  std::error_code error;
  fs::path target = path;
  if (fs::is_symlink(path, error))
    target = fs::exists(path, error) ? fs::canonical(path, error) : parent_of(path) / fs::read_symlink(path, error);
  const fs::file_status status = fs::status(target, error);
  if (fs::exists(status) && !fs::is_regular_file(status))
    throw Error(ErrorCode::kIo, str("cannot write ", path.string(), ": it is no regular file"),
                "point the output to a file");
  return target;
}

void rename_or_throw(const fs::path& from, const fs::path& to) {
  if (::rename(from.c_str(), to.c_str()) != 0) throw_io_error(str("rename ", from.string(), " to"), to, errno);
}

}  // namespace

void throw_io_error(std::string_view action, const fs::path& path, int error_number) {
  throw Error(ErrorCode::kIo,
              str("cannot ", action, " ", path.string(), ": ", std::generic_category().message(error_number)),
              hint_for(error_number));
}

AtomicFile::AtomicFile(const fs::path& path) : path_(target_of(path)), temporary_(path_.string() + ".tmp") {
  descriptor_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (descriptor_ < 0) throw_io_error("create", temporary_, errno);
}

AtomicFile::~AtomicFile() {
  if (descriptor_ < 0) return;
  close();
  ::unlink(temporary_.c_str());
}

void AtomicFile::close() noexcept { ::close(std::exchange(descriptor_, -1)); }

void AtomicFile::write(const void* data, std::int64_t bytes) {
  overwrite(bytes_written_, data, bytes);
  bytes_written_ += bytes;
}

void AtomicFile::overwrite(std::int64_t offset, const void* data, std::int64_t bytes) {
  const auto* next = static_cast<const char*>(data);
  while (bytes > 0) {
    const auto chunk = static_cast<std::size_t>(std::min(bytes, kMaxCallBytes));
    const ssize_t written = ::pwrite(descriptor_, next, chunk, offset);
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) throw_io_error("write", temporary_, errno);
    if (written == 0) throw_io_error("write", temporary_, EIO);
    next += written;
    offset += written;
    bytes -= written;
  }
}

void AtomicFile::commit() {
  WEFT_CHECK(descriptor_ >= 0, "AtomicFile: ", path_.string(), " was committed before");
  if (::fsync(descriptor_) != 0) throw_io_error("sync", temporary_, errno);
  // Some network file systems report a failed write at close; there the rename must not happen.
  if (::close(std::exchange(descriptor_, -1)) != 0 && errno != EINTR) {
    const int error_number = errno;
    ::unlink(temporary_.c_str());
    throw_io_error("close", temporary_, error_number);
  }
  if (::rename(temporary_.c_str(), path_.c_str()) != 0) {
    const int error_number = errno;
    ::unlink(temporary_.c_str());
    throw_io_error("rename to", path_, error_number);
  }
  sync_folder(parent_of(path_));
}

void write_file(const fs::path& path, std::string_view content) {
  AtomicFile file(path);
  file.write(content);
  file.commit();
}

std::string read_file(const fs::path& path, std::int64_t max_bytes) {
  const Descriptor file(path, O_RDONLY, "open");
  struct stat info {};
  if (::fstat(file.get(), &info) != 0) throw_io_error("read", path, errno);
  if (S_ISDIR(info.st_mode)) throw_io_error("read", path, EISDIR);
  std::string content;
  std::string chunk(1 << 16, '\0');
  while (true) {
    const ssize_t n = ::read(file.get(), chunk.data(), chunk.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) throw_io_error("read", path, errno);
    if (n == 0) return content;
    content.append(chunk.data(), static_cast<std::size_t>(n));
    if (static_cast<std::int64_t>(content.size()) > max_bytes)
      throw Error(ErrorCode::kIo, str(path.string(), " is longer than the ", max_bytes, " bytes it may have"));
  }
}

void make_empty_folder(const fs::path& folder) {
  std::error_code error;
  fs::remove_all(folder, error);
  if (error) throw_io_error("empty", folder, error.value());
  fs::create_directories(folder, error);
  if (error) throw_io_error("create", folder, error.value());
}

void commit_folder(const fs::path& temporary, const fs::path& path) {
  std::error_code error;
  if (fs::exists(path, error)) throw_io_error(str("rename ", temporary.string(), " to"), path, EEXIST);
  sync_folder(temporary);
  rename_or_throw(temporary, path);
  sync_folder(parent_of(path));
}

void remove_folder(const fs::path& path) {
  std::error_code error;
  const fs::path doomed = path.string() + ".deleted";
  fs::remove_all(doomed, error);
  if (error) throw_io_error("remove", doomed, error.value());
  if (!fs::exists(path, error)) return;
  rename_or_throw(path, doomed);
  sync_folder(parent_of(path));
  fs::remove_all(doomed, error);
  if (error) throw_io_error("remove", doomed, error.value());
}

void sync_folder(const fs::path& folder) {
  const Descriptor directory(folder, O_RDONLY | O_DIRECTORY, "open the folder");
  if (::fsync(directory.get()) != 0 && errno != EINVAL)  // EINVAL: a file system that has no sync of folders
    throw_io_error("sync the folder", folder, errno);
}

}  // namespace weft
