// core/atomic_file.h - files and folders that are there completely or not at all, whatever kills the process.
// The steps are those of rename(2) and fsync(2): write to a temporary name, fsync the file, rename it, fsync its
// folder.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

namespace weft {

/// Writes `path` through a temporary neighbour ("<path>.tmp"). What stood at `path` before stays whole and in place
/// until commit(); without a commit() the neighbour is removed. One writer at a time for one path. Every call throws
/// Error{kIo} with the path and the system's text; after a throw only destruction is left.
class AtomicFile {
 public:
  explicit AtomicFile(const std::filesystem::path& path);
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;
  ~AtomicFile();

  void write(const void* data, std::int64_t bytes);  ///< Appends.
  void write(std::string_view text) { write(text.data(), static_cast<std::int64_t>(text.size())); }
  /// Replaces bytes [offset, offset + bytes) that were written before: for headers that count what follows.
  void overwrite(std::int64_t offset, const void* data, std::int64_t bytes);
  void commit();
  [[nodiscard]] std::int64_t bytes_written() const noexcept { return bytes_written_; }

 private:
  void close() noexcept;

  std::filesystem::path path_;
  std::filesystem::path temporary_;
  int descriptor_ = -1;
  std::int64_t bytes_written_ = 0;
};

/// One AtomicFile with `content`.
void write_file(const std::filesystem::path& path, std::string_view content);
/// The whole file. Throws Error{kIo} when it is missing, unreadable or longer than max_bytes.
[[nodiscard]] std::string read_file(const std::filesystem::path& path, std::int64_t max_bytes = std::int64_t{1} << 30);

/// Makes `folder`, empty, removing what an earlier attempt left there; parents are made too. Throws Error{kIo}.
void make_empty_folder(const std::filesystem::path& folder);
/// Makes the finished `temporary` folder, whose files are synced already, appear as `path`, which must not exist:
/// fsync, rename, fsync of the parent. Throws Error{kIo}.
void commit_folder(const std::filesystem::path& temporary, const std::filesystem::path& path);
/// Removes a folder and all in it so that a crash on the way leaves no half of it under its name: it is renamed to
/// "<path>.deleted" first. Nothing happens when there is none. Throws Error{kIo}.
void remove_folder(const std::filesystem::path& path);
/// Makes renames inside `folder` durable. Throws Error{kIo}.
void sync_folder(const std::filesystem::path& folder);

/// Error{kIo}: "cannot <action> <path>: <text of errno>", with a hint for a full disk and the like.
[[noreturn]] void throw_io_error(std::string_view action, const std::filesystem::path& path, int error_number);

}  // namespace weft
