#include "core/safetensors_header.h"

#include <algorithm>
#include <array>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>

#include "core/error.h"

namespace weft::safetensors {
namespace {

using Json = nlohmann::json;

/// One entry as it stands in the header, before its parts are checked against each other.
struct Entry {
  TensorInfo info;
  std::int64_t end = 0;
  bool has_dtype = false, has_shape = false, has_offsets = false;
};

/// Walks the header as a SAX stream: nothing is built but what the format allows, at most three levels deep. Every
/// handler returns false at the first fault, which ends the walk.
class HeaderHandler final : public Json::json_sax_t {
 public:
  std::vector<Entry> entries;
  SafetensorsMetadata metadata;
  std::string problem;
  bool unknown_dtype = false;

  bool null() override { return fail("null"); }
  bool boolean(bool) override { return fail("true or false"); }
  bool number_integer(std::int64_t value) override { return fail(str("the number ", value)); }
  bool number_float(double, const std::string& text) override { return fail(str("the number ", text)); }
  bool binary(Json::binary_t&) override { return fail("binary data"); }

  bool number_unsigned(std::uint64_t value) override {
    if (value > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max()))
      return fail(str("the number ", value));
    const auto number = static_cast<std::int64_t>(value);
    if (place_ == Place::kShape) {
      entry().info.shape.push_back(number);
      return entry().info.shape.size() <= kMaxRank || fail("a shape of so many dimensions");
    }
    if (place_ == Place::kOffsets && num_offsets_ < 2) {
      (num_offsets_++ == 0 ? entry().info.begin : entry().end) = number;
      return true;
    }
    return fail(str("the number ", value));
  }

  bool string(std::string& value) override {
    if (place_ == Place::kMetadata) {
      metadata[key_] = value;
      return true;
    }
    if (place_ != Place::kEntry || key_ != "dtype") return fail(str("the text \"", value, "\""));
    try {
      entry().info.dtype = dtype_from_string(value);
    } catch (const Error&) {
      unknown_dtype = true;
      return fail(str("dtype ", value));
    }
    entry().has_dtype = true;
    return true;
  }

  bool key(std::string& value) override {
    auto& seen = place_ == Place::kTop ? top_keys_ : inner_keys_;
    key_ = value;
    if (!seen.insert(value).second) return fail_with(str("the name \"", value, "\" stands twice"));
    const bool known = place_ != Place::kEntry || value == "dtype" || value == "shape" || value == "data_offsets";
    return known || fail_with(str("tensor \"", entry().info.name, "\" has an unknown field \"", value, "\""));
  }

  bool start_object(std::size_t) override {
    inner_keys_.clear();
    if (place_ == Place::kStart) {
      place_ = Place::kTop;
    } else if (place_ == Place::kTop && key_ == "__metadata__") {
      place_ = Place::kMetadata;
    } else if (place_ == Place::kTop) {
      place_ = Place::kEntry;
      entries.emplace_back().info.name = key_;
    } else {
      return fail("an object");
    }
    return true;
  }

  bool end_object() override {
    if (place_ == Place::kEntry && !(entry().has_dtype && entry().has_shape && entry().has_offsets))
      return fail_with(str("tensor \"", entry().info.name, "\" lacks dtype, shape or data_offsets"));
    place_ = place_ == Place::kTop ? Place::kEnd : Place::kTop;
    return true;
  }

  bool start_array(std::size_t) override {
    if (place_ != Place::kEntry || key_ == "dtype") return fail("an array");
    place_ = key_ == "shape" ? Place::kShape : Place::kOffsets;
    num_offsets_ = 0;
    return true;
  }

  bool end_array() override {
    if (place_ == Place::kOffsets && num_offsets_ != 2) return fail("an array of other than two numbers");
    (place_ == Place::kShape ? entry().has_shape : entry().has_offsets) = true;
    place_ = Place::kEntry;
    return true;
  }

  bool parse_error(std::size_t position, const std::string&, const Json::exception&) override {
    return fail_with(str("no JSON at byte ", position));
  }

 private:
  enum class Place { kStart, kTop, kMetadata, kEntry, kShape, kOffsets, kEnd };
  static constexpr std::size_t kMaxRank = 64;

  Entry& entry() { return entries.back(); }
  bool fail_with(std::string what) {
    problem = std::move(what);
    return false;
  }
  bool fail(std::string_view what) {
    const std::string at = place_ == Place::kStart || place_ == Place::kEnd ? "at the top" : str("at \"", key_, "\"");
    const bool in_entry = place_ == Place::kEntry || place_ == Place::kShape || place_ == Place::kOffsets;
    const std::string of = in_entry ? str(" of tensor \"", entry().info.name, "\"") : "";
    return fail_with(str("unexpected ", what, " ", at, of));
  }

  Place place_ = Place::kStart;
  std::string key_;
  std::set<std::string> top_keys_, inner_keys_;
  int num_offsets_ = 0;
};

[[noreturn]] void throw_damaged(std::string_view file, std::string_view what) {
  throw Error(ErrorCode::kIo, str(file, " is no valid safetensors file: ", what),
              "the file is damaged or was not written completely");
}

/// Bytes that shape and dtype say. -1: more than an int64 holds.
std::int64_t bytes_of(const TensorInfo& info) {
  if (std::ranges::find(info.shape, 0) != info.shape.end()) return 0;
  std::int64_t bytes = size_of(info.dtype);
  for (const std::int64_t n : info.shape)
    if (__builtin_mul_overflow(bytes, n, &bytes)) return -1;
  return bytes;
}

void check_ranges(const std::vector<Entry>& entries, std::string_view file) {
  std::int64_t next = 0;
  for (const Entry& e : entries) {
    const std::string name = str("tensor \"", e.info.name, "\" ");
    if (e.end < e.info.begin) throw_damaged(file, str(name, "ends before it begins"));
    if (e.info.begin < next) throw_damaged(file, str(name, "overlaps the one before it"));
    if (e.info.begin > next) throw_damaged(file, str("there is a hole before ", name));
    if (e.end - e.info.begin != bytes_of(e.info))
      throw_damaged(file, str(name, "has ", e.end - e.info.begin, " bytes, not what its shape and dtype say"));
    next = e.end;
  }
}

std::string quoted(const std::string& text) { return Json(text).dump(); }

}  // namespace

Header parse_header(std::string_view text, std::string_view file) {
  if (text.empty() || text.front() != '{') throw_damaged(file, "its header does not start with {");
  HeaderHandler handler;
  if (!Json::sax_parse(text.begin(), text.end(), &handler)) {
    if (handler.unknown_dtype)
      throw Error(ErrorCode::kInvalidArgument, str(file, ": ", handler.problem, ": Weft does not read this dtype"),
                  "convert the file to F32, F64, BF16, I32, I64 or U8");
    throw_damaged(file, handler.problem);
  }
  auto& entries = handler.entries;
  std::ranges::stable_sort(entries, {}, [](const Entry& e) { return std::pair(e.info.begin, e.end); });
  check_ranges(entries, file);
  Header header;
  header.metadata = std::move(handler.metadata);
  header.data_bytes = entries.empty() ? 0 : entries.back().end;
  for (Entry& e : entries) header.tensors.push_back(std::move(e.info));
  return header;
}

std::string format_header(const std::vector<TensorInfo>& tensors, const SafetensorsMetadata& metadata) {
  std::string text = "{";
  const auto separate = [&] {
    if (text.size() > 1) text += ',';
  };
  if (!metadata.empty()) text += str("\"__metadata__\":", Json(metadata).dump());
  for (const TensorInfo& t : tensors) {
    separate();
    text += str(quoted(t.name), ":{\"dtype\":\"", to_string(t.dtype), "\",\"shape\":", Json(t.shape).dump(),
                ",\"data_offsets\":[", t.begin, ",", t.begin + t.bytes(), "]}");
  }
  text += '}';
  text.append((8 - text.size() % 8) % 8, ' ');
  return text;
}

}  // namespace weft::safetensors
