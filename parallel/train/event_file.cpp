#include "parallel/train/event_file.h"

#include <unistd.h>

#include <bit>
#include <cerrno>
#include <chrono>
#include <cstring>

#include "core/atomic_file.h"
#include "core/crc32c.h"
#include "core/error.h"

namespace weft::parallel {
namespace {

double now_s() { return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count(); }

template <class T>
void put_little_endian(std::string& out, T bits) {
  for (std::size_t byte = 0; byte < sizeof bits; ++byte) out.push_back(static_cast<char>(bits >> (8 * byte)));
}

std::uint32_t masked_crc(std::string_view data) {
  const std::uint32_t crc = crc32c(data);
  return std::rotr(crc, 15) + 0xA282EAD8U;
}

/// A protobuf message, field by field.
class Message {
 public:
  void put_double(int field, double value) {
    key(field, 1);
    put_little_endian(text_, std::bit_cast<std::uint64_t>(value));
  }
  void put_float(int field, float value) {
    key(field, 5);
    put_little_endian(text_, std::bit_cast<std::uint32_t>(value));
  }
  void put_int(int field, std::int64_t value) {
    key(field, 0);
    varint(static_cast<std::uint64_t>(value));
  }
  void put_bytes(int field, std::string_view value) {  // a string or a message
    key(field, 2);
    varint(value.size());
    text_ += value;
  }
  [[nodiscard]] const std::string& text() const noexcept { return text_; }

 private:
  void key(int field, int wire_type) {
    varint(static_cast<std::uint64_t>(field) << 3U | static_cast<unsigned>(wire_type));
  }
  void varint(std::uint64_t value) {
    for (; value >= 0x80; value >>= 7U) text_.push_back(static_cast<char>(value | 0x80U));
    text_.push_back(static_cast<char>(value));
  }

  std::string text_;
};

// Field numbers of event.proto and summary.proto.
constexpr int kWallTime = 1, kStep = 2, kFileVersion = 3, kSummary = 5, kSessionLog = 7;
constexpr int kSummaryValue = 1, kValueTag = 1, kValueSimple = 2;
constexpr int kSessionStatus = 1, kSessionStart = 1;

}  // namespace

std::string framed(std::string_view data) {
  std::string length, out;
  put_little_endian(length, static_cast<std::uint64_t>(data.size()));
  out = length;
  put_little_endian(out, masked_crc(length));
  out += data;
  put_little_endian(out, masked_crc(data));
  return out;
}

std::string scalar_event(std::int64_t step, double wall_time_s, std::span<const Scalar> scalars) {
  Message summary;
  for (const auto& [tag, number] : scalars) {
    Message value;
    value.put_bytes(kValueTag, tag);
    value.put_float(kValueSimple, static_cast<float>(number));
    summary.put_bytes(kSummaryValue, value.text());
  }
  Message event;
  event.put_double(kWallTime, wall_time_s);
  event.put_int(kStep, step);
  event.put_bytes(kSummary, summary.text());
  return event.text();
}

EventFile::EventFile(const std::filesystem::path& folder, std::int64_t first_step) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error) throw_io_error("make", folder, error.value());
  char host[256] = {};
  if (gethostname(host, sizeof host - 1) != 0) std::strcpy(host, "unknown");
  const double now = now_s();
  // readers take files by name, so a later start must have a later one
  path_ =
      (folder / str("events.out.tfevents.", static_cast<std::int64_t>(now), ".", host, ".", getpid(), ".0")).string();
  file_.reset(std::fopen(path_.c_str(), "abe"));
  if (!file_) throw_io_error("write", path_, errno);
  Message version, start, status;
  version.put_double(kWallTime, now);
  version.put_bytes(kFileVersion, "brain.Event:2");
  append(framed(version.text()));
  status.put_int(kSessionStatus, kSessionStart);
  start.put_double(kWallTime, now);
  start.put_int(kStep, first_step);
  start.put_bytes(kSessionLog, status.text());
  append(framed(start.text()));
}

void EventFile::write(std::int64_t step, std::span<const Scalar> scalars) {
  append(framed(scalar_event(step, now_s(), scalars)));
}

void EventFile::append(const std::string& record) {
  if (std::fwrite(record.data(), 1, record.size(), file_.get()) != record.size() || std::fflush(file_.get()) != 0)
    throw_io_error("write", path_, errno);
}

}  // namespace weft::parallel
