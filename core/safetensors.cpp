#include "core/safetensors.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <set>
#include <type_traits>
#include <utility>

#include "core/error.h"
#include "core/safetensors_header.h"

namespace weft {
namespace {

static_assert(std::endian::native == std::endian::little, "safetensors data is little-endian");

constexpr std::int64_t kLengthBytes = 8;

std::string_view header_text(const MappedFile& file) {
  const auto bytes = file.bytes();
  const auto fail = [&](const auto&... what) {
    throw Error(ErrorCode::kIo, str(file.path().string(), " is no valid safetensors file: ", what...),
                "the file is damaged or was not written completely");
  };
  if (bytes.size() < kLengthBytes) fail("it has only ", bytes.size(), " bytes");
  std::uint64_t length = 0;
  std::memcpy(&length, bytes.data(), kLengthBytes);
  if (length > safetensors::kMaxHeaderBytes) fail("it announces a header of ", length, " bytes");
  if (length > bytes.size() - kLengthBytes)
    fail("its header has ", length, " bytes, ", bytes.size() - kLengthBytes, " are left of the file");
  return {reinterpret_cast<const char*>(bytes.data()) + kLengthBytes, static_cast<std::size_t>(length)};
}

template <class T, class Stored>
void convert(const std::byte* from, std::int64_t count, T* out) {
  for (std::int64_t i = 0; i < count; ++i) {
    Stored x;
    std::memcpy(&x, from + i * static_cast<std::int64_t>(sizeof(Stored)), sizeof(Stored));
    if constexpr (std::is_same_v<Stored, std::uint16_t>)  // BF16: the upper half of an F32
      out[i] = static_cast<T>(std::bit_cast<float>(static_cast<std::uint32_t>(x) << 16));
    else
      out[i] = static_cast<T>(x);
  }
}

}  // namespace

std::int64_t TensorInfo::num_elements() const {
  if (std::ranges::find(shape, 0) != shape.end()) return 0;  // first: the other factors may overflow
  std::int64_t n = 1;
  for (const std::int64_t d : shape) n *= d;
  return n;
}

SafetensorsReader::SafetensorsReader(const std::filesystem::path& path) : file_(path) {
  const std::string_view text = header_text(file_);
  data_ = file_.bytes().subspan(kLengthBytes + text.size());
  auto header = safetensors::parse_header(text, path.string());
  if (header.data_bytes != static_cast<std::int64_t>(data_.size())) {
    throw Error(ErrorCode::kIo,
                str(path.string(), " is no valid safetensors file: its tensors have ", header.data_bytes, " bytes, ",
                    data_.size(), " are there"),
                "the file is damaged or was not written completely");
  }
  tensors_ = std::move(header.tensors);
  metadata_ = std::move(header.metadata);
  for (std::size_t i = 0; i < tensors_.size(); ++i) index_[tensors_[i].name] = i;
}

const TensorInfo* SafetensorsReader::find(std::string_view name) const noexcept {
  const auto found = index_.find(name);
  return found == index_.end() ? nullptr : &tensors_[found->second];
}

const TensorInfo& SafetensorsReader::get(std::string_view name) const {
  const TensorInfo* info = find(name);
  WEFT_CHECK(info != nullptr, path().string(), " has no tensor \"", name, "\"");
  return *info;
}

std::span<const std::byte> SafetensorsReader::data(const TensorInfo& info) const {
  return data_.subspan(static_cast<std::size_t>(info.begin), static_cast<std::size_t>(info.bytes()));
}

template <class T>
void SafetensorsReader::read(const TensorInfo& info, std::int64_t first, std::int64_t count, T* out) const {
  WEFT_CHECK(first >= 0 && count >= 0 && first <= info.num_elements() - count, path().string(), ": ", count,
             " elements from ", first, " on, of tensor \"", info.name, "\", which has ", info.num_elements());
  const std::byte* from = data(info).data() + first * size_of(info.dtype);
  switch (info.dtype) {
    case DType::kF32:
      return convert<T, float>(from, count, out);
    case DType::kF64:
      return convert<T, double>(from, count, out);
    case DType::kBF16:
      return convert<T, std::uint16_t>(from, count, out);
    case DType::kI32:
    case DType::kI64:
    case DType::kU8:
      break;
  }
  throw Error(ErrorCode::kInvalidArgument,
              str(path().string(), ": tensor \"", info.name, "\" is ", to_string(info.dtype), ", floats are wanted"));
}

template void SafetensorsReader::read(const TensorInfo&, std::int64_t, std::int64_t, float*) const;
template void SafetensorsReader::read(const TensorInfo&, std::int64_t, std::int64_t, double*) const;

SafetensorsWriter::SafetensorsWriter(const std::filesystem::path& path, std::vector<TensorInfo> tensors,
                                     const SafetensorsMetadata& metadata)
    : file_(path), tensors_(std::move(tensors)) {
  std::set<std::string_view> names;
  std::int64_t next = 0;
  for (TensorInfo& t : tensors_) {
    WEFT_CHECK(t.name != "__metadata__" && names.insert(t.name).second, "safetensors: the name \"", t.name,
               "\" is reserved or stands twice");
    for (const std::int64_t d : t.shape) WEFT_CHECK(d >= 0, "safetensors: \"", t.name, "\" has a dimension of ", d);
    t.begin = next;
    next += t.bytes();
  }
  const std::string header = safetensors::format_header(tensors_, metadata);
  const std::uint64_t length = header.size();
  file_.write(&length, kLengthBytes);
  file_.write(header);
}

void SafetensorsWriter::write(std::string_view name, const void* data, std::int64_t bytes) {
  const auto is_complete = [&] { return current_bytes_ == tensors_[current_].bytes(); };
  while (current_ < tensors_.size() && tensors_[current_].name != name && is_complete()) {
    ++current_;
    current_bytes_ = 0;
  }
  WEFT_CHECK(current_ < tensors_.size() && tensors_[current_].name == name, "safetensors: \"", name,
             "\" is not the next tensor of the file");
  const std::int64_t left = tensors_[current_].bytes() - current_bytes_;
  WEFT_CHECK(bytes >= 0 && bytes <= left, "safetensors: ", bytes, " bytes for \"", name, "\", ", left, " are left");
  file_.write(data, bytes);
  current_bytes_ += bytes;
}

void SafetensorsWriter::finish() {
  for (; current_ < tensors_.size(); ++current_, current_bytes_ = 0)
    WEFT_CHECK(current_bytes_ == tensors_[current_].bytes(), "safetensors: \"", tensors_[current_].name,
               "\" is not complete: ", current_bytes_, " of ", tensors_[current_].bytes(), " bytes");
  file_.commit();
}

}  // namespace weft
