// core/safetensors.h - named tensors in one file.
// Source: "Format" of github.com/huggingface/safetensors: 8 bytes, little-endian, with the length of a JSON header; the
// header; the data, where each tensor has a range [begin, end), without holes or overlaps.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/atomic_file.h"
#include "core/dtype.h"
#include "core/mapped_file.h"

namespace weft {

struct TensorInfo {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<std::int64_t> shape;  ///< [] is a scalar; a 0 in it, an empty tensor.
  std::int64_t begin = 0;           ///< First byte, counted from the start of the data.

  [[nodiscard]] std::int64_t num_elements() const;
  [[nodiscard]] std::int64_t bytes() const { return num_elements() * size_of(dtype); }
  friend bool operator==(const TensorInfo&, const TensorInfo&) = default;
};

using SafetensorsMetadata = std::map<std::string, std::string>;

/// Opens and checks a whole header; trusts nothing in it. Data is read from a mapping, when asked for.
class SafetensorsReader {
 public:
  /// Throws Error{kIo} naming the file and what is wrong: missing, truncated, or a header that breaks the format
  /// (duplicate name, unknown field, ranges with holes, overlaps or other lengths than shape and dtype say, ...);
  /// Error{kInvalidArgument} for a dtype that Weft does not read.
  explicit SafetensorsReader(const std::filesystem::path& path);

  [[nodiscard]] const std::filesystem::path& path() const noexcept { return file_.path(); }
  [[nodiscard]] const std::vector<TensorInfo>& tensors() const noexcept { return tensors_; }  ///< In order of `begin`.
  [[nodiscard]] const SafetensorsMetadata& metadata() const noexcept { return metadata_; }
  [[nodiscard]] const TensorInfo* find(std::string_view name) const noexcept;  ///< nullptr: not in the file.
  /// The tensor of that name. Throws Error{kInvalidArgument} naming file and tensor when there is none.
  [[nodiscard]] const TensorInfo& get(std::string_view name) const;
  /// The tensor's bytes, little-endian and row-major, aligned to nothing in particular; valid as long as the reader.
  [[nodiscard]] std::span<const std::byte> data(const TensorInfo& info) const;
  /// Elements [first, first + count) of a float tensor (F32, F64, BF16) as T = float or double. Throws
  /// Error{kInvalidArgument} for an integer tensor or a range outside it.
  template <class T>
  void read(const TensorInfo& info, std::int64_t first, std::int64_t count, T* out) const;

 private:
  MappedFile file_;
  std::span<const std::byte> data_;
  std::vector<TensorInfo> tensors_;
  std::map<std::string, std::size_t, std::less<>> index_;
  SafetensorsMetadata metadata_;
};

/// Writes tensors one after the other, so that a file larger than memory is no problem. Nothing appears at `path`
/// before finish(). Throws Error{kIo} as AtomicFile, Error{kInvalidArgument} for wrong names, sizes or order.
class SafetensorsWriter {
 public:
  /// `tensors`: all of them, in the order of the file; `begin` is ignored.
  SafetensorsWriter(const std::filesystem::path& path, std::vector<TensorInfo> tensors,
                    const SafetensorsMetadata& metadata = {});
  /// The next `bytes` bytes of the tensor `name`: the next one of the list, or the rest of the one begun.
  void write(std::string_view name, const void* data, std::int64_t bytes);
  void finish();  ///< All tensors must be complete.

 private:
  AtomicFile file_;
  std::vector<TensorInfo> tensors_;
  std::size_t current_ = 0;         ///< Tensor under way.
  std::int64_t current_bytes_ = 0;  ///< Of it, written.
};

}  // namespace weft
