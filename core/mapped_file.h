// core/mapped_file.h - a file's bytes as read-only memory.
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>

namespace weft {

/// Move-only. The file must not shrink while it is mapped (reading past its end then is a SIGBUS, as with any mapping):
/// readers check it against its own header when they open it.
class MappedFile {
 public:
  /// Throws Error{kIo}: missing, no permission, not a regular file.
  explicit MappedFile(std::filesystem::path path);
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  ~MappedFile();

  [[nodiscard]] std::span<const std::byte> bytes() const noexcept { return {data_, size_}; }
  [[nodiscard]] const std::filesystem::path& path() const noexcept { return path_; }

 private:
  std::filesystem::path path_;
  const std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace weft
