#include "parallel/train/event_file.h"

#include <bit>
#include <cstring>
#include <filesystem>
#include <map>
#include <optional>
#include <vector>

#include "core/atomic_file.h"
#include "core/crc32c.h"
#include "tests/support/catch.h"
#include "tests/support/errors.h"
#include "tests/support/temp_folder.h"

using namespace weft;
using namespace weft::parallel;

namespace {

/// A reader of its own: what is written is read by the formats' rules, not by our writer's code.
struct Reader {
  std::string_view data;
  std::size_t at = 0;

  template <class T>
  T fixed() {
    REQUIRE(at + sizeof(T) <= data.size());
    T value;
    std::memcpy(&value, data.data() + at, sizeof value);
    at += sizeof value;
    return value;
  }
  std::uint64_t varint() {
    std::uint64_t value = 0;
    for (int shift = 0;; shift += 7) {
      const auto byte = fixed<std::uint8_t>();
      value |= std::uint64_t{byte & 0x7FU} << shift;
      if (byte < 0x80) return value;
    }
  }
  std::string_view bytes(std::size_t count) {
    REQUIRE(at + count <= data.size());
    at += count;
    return data.substr(at - count, count);
  }
  [[nodiscard]] bool more() const { return at < data.size(); }
};

std::uint32_t masked(std::string_view data) {
  const std::uint32_t crc = crc32c(data);
  return ((crc >> 15) | (crc << 17)) + 0xA282EAD8U;
}

std::vector<std::string> records(const std::string& file) {
  Reader in{file};
  std::vector<std::string> out;
  while (in.more()) {
    const std::string_view head = std::string_view(file).substr(in.at, 8);
    const auto length = in.fixed<std::uint64_t>();
    REQUIRE(in.fixed<std::uint32_t>() == masked(head));
    const std::string_view data = in.bytes(length);
    REQUIRE(in.fixed<std::uint32_t>() == masked(data));
    out.emplace_back(data);
  }
  return out;
}

struct Event {
  double wall_time = 0.0;
  std::int64_t step = 0;
  std::string version;
  std::optional<std::int64_t> session;
  std::map<std::string, float> scalars;
};

void read_summary(std::string_view text, Event& event) {
  Reader in{text};
  while (in.more()) {
    REQUIRE(in.varint() == (1U << 3U | 2U));  // Summary.value
    Reader value{in.bytes(in.varint())};
    REQUIRE(value.varint() == (1U << 3U | 2U));  // Value.tag
    const std::string tag(value.bytes(value.varint()));
    REQUIRE(value.varint() == (2U << 3U | 5U));  // Value.simple_value
    event.scalars[tag] = value.fixed<float>();
    REQUIRE_FALSE(value.more());
  }
}

Event read_event(const std::string& text) {
  Event event;
  Reader in{text};
  while (in.more()) switch (in.varint()) {
      case 1U << 3U | 1U:
        event.wall_time = in.fixed<double>();
        break;
      case 2U << 3U:
        event.step = static_cast<std::int64_t>(in.varint());
        break;
      case 3U << 3U | 2U:
        event.version = in.bytes(in.varint());
        break;
      case 5U << 3U | 2U:
        read_summary(in.bytes(in.varint()), event);
        break;
      case 7U << 3U | 2U: {
        Reader log{in.bytes(in.varint())};
        REQUIRE(log.varint() == 1U << 3U);
        event.session = static_cast<std::int64_t>(log.varint());
        break;
      }
      default:
        FAIL("a field that Event does not have");
    }
  return event;
}

}  // namespace

TEST_CASE("Scalars survive the way through an event file", "[event_file]") {
  const test::TempFolder folder;
  const Scalar first[] = {{"loss", 5.5}, {"moe/layer_00/entropy", 0.25}};
  const Scalar second[] = {{std::string(300, 'x'), -1e30}};
  {
    EventFile file(folder.path() / "tb", 8);
    file.write(8, first);
    file.write(std::int64_t{1} << 40, second);
    file.write(10, {});
  }
  std::vector<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::directory_iterator(folder.path() / "tb")) files.push_back(entry.path());
  REQUIRE(files.size() == 1);
  CHECK_THAT(files.front().filename().string(), Catch::StartsWith("events.out.tfevents."));
  const std::vector<std::string> found = records(read_file(files.front()));
  REQUIRE(found.size() == 5);
  CHECK(read_event(found[0]).version == "brain.Event:2");
  const Event start = read_event(found[1]);
  CHECK(start.session == 1);  // SessionLog.START: what was said of this step and later is void
  CHECK(start.step == 8);
  const Event one = read_event(found[2]), two = read_event(found[3]), none = read_event(found[4]);
  CHECK(one.step == 8);
  CHECK(one.wall_time > 1.6e9);
  CHECK(one.scalars == std::map<std::string, float>{{"loss", 5.5F}, {"moe/layer_00/entropy", 0.25F}});
  CHECK(two.step == std::int64_t{1} << 40);
  CHECK(two.scalars == std::map<std::string, float>{{std::string(300, 'x'), -1e30F}});
  CHECK(none.scalars.empty());
}

TEST_CASE("A record is framed byte by byte as documented", "[event_file]") {
  const std::string record = framed("abc");
  REQUIRE(record.size() == 8 + 4 + 3 + 4);
  CHECK(record.substr(0, 8) == std::string("\3\0\0\0\0\0\0\0", 8));
  CHECK(record.substr(12, 3) == "abc");
}

TEST_CASE("An event file that cannot be made is an I/O error", "[event_file]") {
  const test::TempFolder folder;
  write_file(folder.path() / "tb", "no folder");
  test::check_error(ErrorCode::kIo, "tb", [&] { EventFile file(folder.path() / "tb", 1); });
}
