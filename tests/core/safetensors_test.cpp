#include "core/safetensors.h"

#include <array>
#include <bit>
#include <cstring>

#include "core/rng.h"
#include "tests/support/catch.h"
#include "tests/support/errors.h"
#include "tests/support/temp_folder.h"

namespace weft::test {
namespace {

/// A file with this header and data, put together by hand.
std::string file_of(const std::string& header, const std::string& data = "") {
  return raw(static_cast<std::uint64_t>(header.size())) + header + data;
}

std::string entry(const std::string& name, const std::string& shape, int begin, int end, const char* dtype = "F32") {
  return str("\"", name, "\":{\"dtype\":\"", dtype, "\",\"shape\":", shape, ",\"data_offsets\":[", begin, ",", end,
             "]}");
}

void check_refused(const std::string& file, const std::string& text, ErrorCode code = ErrorCode::kIo) {
  const TempFolder folder;
  put_bytes(folder / "t", file);
  const Error e = error_of([&] { SafetensorsReader{folder / "t"}; });
  INFO(e.what());
  CHECK(to_string(e.code()) == to_string(code));
  CHECK_THAT(e.message(), Catch::Contains(text) && Catch::Contains((folder / "t").string()));
}

TEST_CASE("tensors come back as they were written", "[core]") {
  const TempFolder folder;
  const std::vector<float> a{1.5F, -2.0F, 3.25F, 0.0F, 1e-20F, 7.0F};
  const std::vector<double> b{3.14};
  const std::vector<std::int64_t> c{-1, 1LL << 40};
  const std::vector<std::uint8_t> odd{1, 2, 3};
  const std::string name = "quote\" back\\slash \xc3\xa9 new\nline";
  SafetensorsWriter writer(folder / "t",
                           {{"odd", DType::kU8, {3}, 0},
                            {name, DType::kF32, {2, 3}, 0},
                            {"empty", DType::kF32, {4, 0}, 0},
                            {"scalar", DType::kF64, {}, 0},
                            {"ids", DType::kI64, {2}, 0},
                            {"last empty", DType::kI32, {0}, 0}},
                           {{"format", "pt"}, {"note", "a \"quoted\" text"}});
  writer.write("odd", odd.data(), 3);
  writer.write(name, a.data(), 8);  // in two pieces
  writer.write(name, a.data() + 2, 16);
  writer.write("scalar", b.data(), 8);  // "empty" needs no write
  writer.write("ids", c.data(), 16);
  CHECK_FALSE(std::filesystem::exists(folder / "t"));
  writer.finish();

  const SafetensorsReader reader(folder / "t");
  CHECK(reader.metadata() == SafetensorsMetadata{{"format", "pt"}, {"note", "a \"quoted\" text"}});
  REQUIRE(reader.tensors().size() == 6);
  CHECK(reader.get("empty").shape == std::vector<std::int64_t>{4, 0});
  CHECK(reader.get("scalar").shape.empty());
  CHECK(reader.find("nothing") == nullptr);
  const auto bytes = reader.data(reader.get(name));
  CHECK(std::memcmp(bytes.data(), a.data(), 24) == 0);
  CHECK(std::memcmp(reader.data(reader.get("ids")).data(), c.data(), 16) == 0);
  CHECK(reader.data(reader.get("empty")).empty());
  check_error(ErrorCode::kInvalidArgument, "no tensor \"nothing\"", [&] { (void)reader.get("nothing"); });
  std::array<double, 4> middle{};
  reader.read(reader.get(name), 1, 4, middle.data());
  CHECK(middle == std::array<double, 4>{-2.0, 3.25, 0.0, static_cast<double>(1e-20F)});
  check_error(ErrorCode::kInvalidArgument, "4 elements from 3 on",
              [&] { reader.read(reader.get(name), 3, 4, middle.data()); });
  check_error(ErrorCode::kInvalidArgument, "1 elements from -1 on",
              [&] { reader.read(reader.get(name), -1, 1, middle.data()); });
  check_error(ErrorCode::kInvalidArgument, "is I64, floats",
              [&] { reader.read(reader.get("ids"), 0, 1, middle.data()); });
}

TEST_CASE("BF16 and F64 are read as floats", "[core]") {
  const TempFolder folder;
  const std::array<std::uint16_t, 3> bf16{0x3f80, 0xc000, 0x7f80};  // 1, -2, infinity
  const std::array<double, 1> f64{0.1};
  SafetensorsWriter writer(folder / "t", {{"b", DType::kBF16, {3}, 0}, {"d", DType::kF64, {1}, 0}});
  writer.write("b", bf16.data(), 6);
  writer.write("d", f64.data(), 8);
  writer.finish();
  const SafetensorsReader reader(folder / "t");
  std::array<float, 3> b{};
  std::array<float, 1> d{};
  reader.read(reader.get("b"), 0, 3, b.data());
  reader.read(reader.get("d"), 0, 1, d.data());
  CHECK(b == std::array<float, 3>{1.0F, -2.0F, std::numeric_limits<float>::infinity()});
  CHECK(d[0] == 0.1F);
}

TEST_CASE("a header as other libraries write it", "[core]") {
  const TempFolder folder;
  put_bytes(folder / "t", file_of("{ \"b\" : {\"data_offsets\":[8,12],\"shape\":[1],\"dtype\":\"I32\"} ,\n" +
                                      entry("a", "[2]", 0, 8) + "}   ",
                                  std::string(12, '\1')));
  const SafetensorsReader reader(folder / "t");
  CHECK(reader.tensors()[0] == TensorInfo{"a", DType::kF32, {2}, 0});
  CHECK(reader.tensors()[1] == TensorInfo{"b", DType::kI32, {1}, 8});
  put_bytes(folder / "none", file_of("{}"));
  CHECK(SafetensorsReader(folder / "none").tensors().empty());
}

TEST_CASE("the data starts at a multiple of eight bytes", "[core]") {
  const TempFolder folder;
  for (std::size_t length = 1; length < 10; ++length) {
    SafetensorsWriter(folder / "t", {{std::string(length, 'n'), DType::kF32, {0}, 0}}).finish();
    CHECK(get_bytes(folder / "t").size() % 8 == 0);
    CHECK(SafetensorsReader(folder / "t").tensors().size() == 1);
  }
}

TEST_CASE("a damaged safetensors file is refused with its fault", "[core]") {
  const std::string four(4, '\0'), eight(8, '\0');
  check_refused("", "only 0 bytes");
  check_refused("1234567", "only 7 bytes");
  check_refused(raw(std::uint64_t{200000000}) + "{}", "announces a header of 200000000");
  check_refused(raw(~std::uint64_t{0}) + "{}", "announces a header");
  check_refused(raw(std::uint64_t{9}) + "{}", "9 bytes, 2 are left");
  check_refused(file_of(""), "does not start with {");
  check_refused(file_of(" {}"), "does not start with {");
  check_refused(file_of("[]"), "does not start with {");
  check_refused(file_of("{"), "no JSON");
  check_refused(file_of("{}{}"), "no JSON");
  check_refused(file_of("{\"a\":1}"), "unexpected the number 1 at \"a\"");
  check_refused(file_of("{\"a\":null}"), "unexpected null");
  check_refused(file_of("{\"a\":true}"), "unexpected true");
  check_refused(file_of("{\"a\":[]}"), "unexpected an array");
  check_refused(file_of("{\"a\":\"x\"}"), "unexpected the text");
  check_refused(file_of("{\"a\":{}}"), "lacks dtype");
  check_refused(file_of("{\"a\":{\"dtype\":\"F32\",\"shape\":[]}}"), "lacks dtype, shape or data_offsets");
  check_refused(file_of("{\"a\":{\"dtype\":{}}}"), "unexpected an object");
  check_refused(file_of("{\"a\":{\"dtype\":[]}}"), "unexpected an array");
  check_refused(file_of("{\"a\":{\"size\":4}}"), "unknown field \"size\"");
  check_refused(file_of("{\"a\":{\"dtype\":\"F32\",\"dtype\":\"F32\"}}"), "\"dtype\" stands twice");
  check_refused(file_of("{" + entry("a", "[1]", 0, 4) + "," + entry("a", "[1]", 4, 8) + "}", eight),
                "\"a\" stands twice");
  check_refused(file_of("{\"__metadata__\":{\"k\":1}}"), "unexpected the number 1 at \"k\"");
  check_refused(file_of("{\"__metadata__\":{\"k\":\"1\",\"k\":\"2\"}}"), "\"k\" stands twice");
  check_refused(file_of("{\"__metadata__\":{\"k\":{}}}"), "unexpected an object");
  check_refused(file_of("{" + entry("a", "[-1]", 0, 4) + "}", four), "the number -1");
  check_refused(file_of("{" + entry("a", "[1.0]", 0, 4) + "}", four), "the number 1.0");
  check_refused(file_of("{" + entry("a", "[1e3]", 0, 4) + "}", four), "the number 1e3");
  check_refused(file_of("{" + entry("a", "[99999999999999999999]", 0, 4) + "}", four), "the number 9999");
  check_refused(file_of("{" + entry("a", "[18446744073709551615]", 0, 4) + "}", four),
                "the number 18446744073709551615");
  check_refused(file_of("{" + entry("a", "[[1]]", 0, 4) + "}", four), "unexpected an array");
  check_refused(file_of("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0]}}"), "other than two");
  check_refused(file_of("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4,4]}}"), "the number 4");
  check_refused(file_of("{" + entry("a", "[4611686018427387904,4]", 0, 0) + "}"), "not what its shape");
}

TEST_CASE("ranges that contradict one another are refused", "[core]") {
  const std::string eight(8, '\0');
  check_refused(file_of("{" + entry("a", "[1]", 4, 0) + "}", eight), "ends before it begins");
  check_refused(file_of("{" + entry("a", "[1]", 4, 8) + "}", eight), "a hole before");
  check_refused(file_of("{" + entry("a", "[2]", 0, 8) + "," + entry("b", "[1]", 4, 8) + "}", eight), "overlaps");
  check_refused(file_of("{" + entry("a", "[2]", 0, 8) + "," + entry("b", "[2]", 0, 8) + "}", eight), "overlaps");
  check_refused(file_of("{" + entry("a", "[3]", 0, 8) + "}", eight), "not what its shape and dtype say");
  check_refused(file_of("{" + entry("a", "[1]", 0, 4) + "}", eight), "4 bytes, 8 are there");
  check_refused(file_of("{" + entry("a", "[4]", 0, 16) + "}", eight), "16 bytes, 8 are there");
  check_refused(file_of("{" + entry("a", "[2]", 0, 4, "F16") + "}", eight), "dtype F16", ErrorCode::kInvalidArgument);
}

TEST_CASE("nesting bombs and strange bytes do not harm the reader", "[core]") {
  check_refused(file_of("{\"a\":" + std::string(1 << 20, '[')), "unexpected an array");
  std::string nested = "{";
  for (int i = 0; i < 100000; ++i) nested += "\"a\":{";
  check_refused(file_of(nested), "unknown field");
  check_refused(file_of("{\"\xff\xfe\":1}"), "no JSON");
  check_refused(file_of("{\"a\":{\"dtype\":\"F32\",\"shape\":[" + std::string(200000, '1') + "]}}"), "no JSON");
}

/// Every truncation and many mutations of a good file: refused with an Error, or read as a file that keeps the rules.
TEST_CASE("truncated and mutated files are refused or sound", "[core]") {
  const TempFolder folder;
  SafetensorsWriter writer(folder / "t", {{"weight", DType::kF32, {2, 3}, 0}, {"b", DType::kI64, {1}, 0}},
                           {{"k", "v"}});
  const std::array<float, 6> w{1, 2, 3, 4, 5, 6};
  const std::int64_t b = 9;
  writer.write("weight", w.data(), 24);
  writer.write("b", &b, 8);
  writer.finish();
  const std::string good = get_bytes(folder / "t");
  const auto try_file = [&](const std::string& bytes) {
    put_bytes(folder / "m", bytes);
    try {
      const SafetensorsReader reader(folder / "m");
      std::int64_t total = 0;
      for (const TensorInfo& t : reader.tensors()) total += static_cast<std::int64_t>(reader.data(t).size());
      CHECK(total <= static_cast<std::int64_t>(bytes.size()));
      return true;
    } catch (const Error& e) {
      CHECK((e.code() == ErrorCode::kIo || e.code() == ErrorCode::kInvalidArgument));
      return false;
    }
  };
  for (std::size_t length = 0; length < good.size(); ++length) CHECK_FALSE(try_file(good.substr(0, length)));
  CHECK_FALSE(try_file(good + "x"));
  const std::uint64_t seed = 20240601;
  INFO("seed " << seed);
  const Rng rng(seed, RngPurpose::kTest);
  int num_read = 0;
  for (std::uint64_t i = 0; i < 4000; ++i) {
    std::string bytes = good;
    for (std::uint64_t k = 0; k <= rng.below(3, i * 16); ++k)
      bytes[rng.below(good.size() - 32, i * 16 + 2 * k + 1)] = static_cast<char>(rng.below(256, i * 16 + 2 * k + 2));
    num_read += try_file(bytes) ? 1 : 0;
  }
  CHECK(num_read > 0);  // a new letter in a name is fine
  CHECK(num_read < 2000);
}

TEST_CASE("the writer refuses what would make a wrong file", "[core]") {
  const TempFolder folder;
  const std::array<float, 4> x{};
  using Infos = std::vector<TensorInfo>;
  const auto bad = [&](const std::string& text, const auto& call) {
    check_error(ErrorCode::kInvalidArgument, text, call);
  };
  bad("stands twice", [&] {
    SafetensorsWriter(folder / "t", Infos{{"a", DType::kF32, {1}, 0}, {"a", DType::kF32, {1}, 0}});
  });
  bad("reserved", [&] { SafetensorsWriter(folder / "t", Infos{{"__metadata__", DType::kF32, {1}, 0}}); });
  bad("dimension of -1", [&] { SafetensorsWriter(folder / "t", Infos{{"a", DType::kF32, {-1}, 0}}); });
  SafetensorsWriter writer(folder / "t", Infos{{"a", DType::kF32, {2}, 0}, {"b", DType::kF32, {1}, 0}});
  bad("\"b\" is not the next", [&] { writer.write("b", x.data(), 4); });
  bad("12 bytes for \"a\", 8 are left", [&] { writer.write("a", x.data(), 12); });
  writer.write("a", x.data(), 4);
  bad("\"a\" is not complete", [&] { writer.finish(); });
  writer.write("a", x.data(), 4);
  bad("\"b\" is not complete: 0 of 4", [&] { writer.finish(); });
  bad("\"c\" is not the next", [&] { writer.write("c", x.data(), 4); });
  CHECK_FALSE(std::filesystem::exists(folder / "t"));
}

}  // namespace
}  // namespace weft::test
