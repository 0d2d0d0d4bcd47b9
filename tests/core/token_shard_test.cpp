#include "core/token_shard.h"

#include <numeric>

#include "tests/support/catch.h"
#include "tests/support/errors.h"
#include "tests/support/temp_folder.h"

namespace weft::test {
namespace {

using Tokens = std::vector<std::int32_t>;

Tokens read_all(const TokenShard& shard) {
  Tokens tokens(static_cast<std::size_t>(shard.num_tokens()));
  shard.read(0, tokens);
  return tokens;
}

std::string llmc_header(std::int32_t magic, std::int32_t version, std::int32_t num_tokens) {
  std::string header = raw(magic) + raw(version) + raw(num_tokens);
  header.resize(1024, '\0');
  return header;
}

template <class T>
std::string array_of(const std::vector<T>& values) {
  std::string bytes;
  for (const T x : values) bytes += raw(x);
  return bytes;
}

/// A Megatron index. Every field can be set wrong.
struct Index {
  std::string magic{"MMIDIDX\0\0", 9};
  std::uint64_t version = 1;
  std::uint8_t code = 8;  // uint16
  std::vector<std::int32_t> lengths{3, 0, 4, 2};
  std::vector<std::int64_t> pointers{0, 6, 6, 14};
  std::vector<std::int64_t> documents{0, 2, 4};
  std::uint64_t num_sequences = 4, num_documents = 3;
  std::string tail;
  [[nodiscard]] std::string bytes() const {
    return magic + raw(version) + raw(code) + raw(num_sequences) + raw(num_documents) + array_of(lengths) +
           array_of(pointers) + array_of(documents) + tail;
  }
};

const std::vector<std::uint16_t> kNine{10, 11, 12, 13, 14, 15, 16, 17, 65535};

TEST_CASE("an llm.c file of uint32 tokens, written and read", "[core]") {
  const TempFolder folder;
  for (const std::size_t n : {std::size_t{0}, std::size_t{1}, std::size_t{7}, std::size_t{10007}}) {
    Tokens tokens(n);
    std::iota(tokens.begin(), tokens.end(), 2147470000 - static_cast<std::int32_t>(n));
    TokenShardWriter writer(folder / "a.bin");
    writer.append(std::span(tokens).first(n / 2));
    writer.append(std::span(tokens).subspan(n / 2));
    CHECK(writer.num_tokens() == static_cast<std::int64_t>(n));
    writer.finish();
    const auto shard = open_token_shard(folder / "a.bin");
    CHECK(shard->format() == "llm.c");
    CHECK(shard->token_type() == "uint32");
    CHECK(shard->path() == folder / "a.bin");
    CHECK_FALSE(shard->document_starts());
    CHECK(read_all(*shard) == tokens);
    CHECK(get_bytes(folder / "a.bin").substr(0, 12) == raw(20240801) + raw(7) + raw(static_cast<std::int32_t>(n)));
  }
}

TEST_CASE("an llm.c file of uint16 tokens, and ranges of it", "[core]") {
  const TempFolder folder;
  put_bytes(folder / "a.bin", llmc_header(20240520, 1, 9) + array_of(kNine));
  const auto shard = open_token_shard(folder / "a.bin");
  CHECK(shard->token_type() == "uint16");
  CHECK(read_all(*shard) == Tokens{10, 11, 12, 13, 14, 15, 16, 17, 65535});
  Tokens two(2);
  shard->read(7, two);
  CHECK(two == Tokens{17, 65535});
  shard->read(9, {});
  const auto bad = [&](std::int64_t first) {
    check_error(ErrorCode::kInvalidArgument, "of 9", [&] { shard->read(first, two); });
  };
  bad(8);
  bad(-1);
  bad(INT64_MAX - 1);
}

TEST_CASE("a damaged llm.c file is refused with its fault", "[core]") {
  const TempFolder folder;
  const auto refused = [&](const std::string& bytes, const std::string& text) {
    put_bytes(folder / "a.bin", bytes);
    check_error(ErrorCode::kIo, text, [&] { (void)open_token_shard(folder / "a.bin"); });
    check_error(ErrorCode::kIo, (folder / "a.bin").string(), [&] { (void)open_token_shard(folder / "a.bin"); });
  };
  const std::string tokens = array_of(kNine);
  refused("", "only 0 bytes");
  refused("12345678901", "only 11 bytes");
  refused(llmc_header(12345, 1, 9) + tokens, "starts with 12345");
  refused(llmc_header(20240520, 2, 9) + tokens, "version is 2, not 1");
  refused(llmc_header(20240801, 1, 9) + tokens, "version is 1, not 7");
  refused(llmc_header(20240520, 1, -1) + tokens, "announces -1 tokens");
  refused(llmc_header(20240520, 1, 10) + tokens, "announces 10 tokens, so 1044 bytes, but it has 1042");
  refused(llmc_header(20240520, 1, 8) + tokens, "announces 8 tokens, so 1040 bytes, but it has 1042");
  refused(llmc_header(20240801, 7, 9) + tokens, "so 1060 bytes");
  refused(llmc_header(20240520, 1, 0).substr(0, 1023), "but it has 1023");
  check_error(ErrorCode::kIo, "No such file", [&] { (void)open_token_shard(folder / "none.bin"); });
}

TEST_CASE("a value that is no token id is an error at its position", "[core]") {
  const TempFolder folder;
  put_bytes(folder / "a.bin", llmc_header(20240801, 7, 3) + raw(1) + raw(2) + raw(0x80000000U));
  const auto shard = open_token_shard(folder / "a.bin");
  Tokens one(1);
  shard->read(1, one);
  CHECK(one[0] == 2);
  check_error(ErrorCode::kIo, "token 2 has the id 2147483648", [&] { shard->read(2, one); });
}

TEST_CASE("the writer refuses what is no token id", "[core]") {
  const TempFolder folder;
  TokenShardWriter writer(folder / "a.bin");
  writer.append(Tokens{1, 2});
  check_error(ErrorCode::kInvalidArgument, "token 3 has the id -5", [&] { writer.append(Tokens{7, -5}); });
}

TEST_CASE("a Megatron pair by any of its names", "[core]") {
  const TempFolder folder;
  put_bytes(folder / "text_document.idx", Index{}.bytes());
  put_bytes(folder / "text_document.bin", array_of(kNine));
  for (const char* name : {"text_document", "text_document.bin", "text_document.idx"}) {
    const auto shard = open_token_shard(folder / name);
    CHECK(shard->format() == "megatron");
    CHECK(shard->token_type() == "uint16");
    CHECK(read_all(*shard) == Tokens{10, 11, 12, 13, 14, 15, 16, 17, 65535});
    const auto documents = shard->document_starts();
    REQUIRE(documents);
    CHECK(std::vector<std::int64_t>(documents->begin(), documents->end()) == std::vector<std::int64_t>{0, 3});
  }
}

TEST_CASE("all of Megatron's integer types", "[core]") {
  const TempFolder folder;
  const auto check = [&](std::uint8_t code, std::int64_t size, const std::string& tokens, const char* type) {
    Index index;
    index.code = code;
    for (auto& p : index.pointers) p = p / 2 * size;
    index.tail = std::string(4, '\1');  // multimodal modes
    put_bytes(folder / "m.idx", index.bytes());
    put_bytes(folder / "m.bin", tokens);
    const auto shard = open_token_shard(folder / "m");
    CHECK(shard->token_type() == type);
    CHECK(read_all(*shard) == Tokens{0, 1, 2, 3, 4, 5, 6, 7, 100});
  };
  check(1, 1, array_of(std::vector<std::uint8_t>{0, 1, 2, 3, 4, 5, 6, 7, 100}), "uint8");
  check(2, 1, array_of(std::vector<std::int8_t>{0, 1, 2, 3, 4, 5, 6, 7, 100}), "int8");
  check(3, 2, array_of(std::vector<std::int16_t>{0, 1, 2, 3, 4, 5, 6, 7, 100}), "int16");
  check(4, 4, array_of(std::vector<std::int32_t>{0, 1, 2, 3, 4, 5, 6, 7, 100}), "int32");
  check(5, 8, array_of(std::vector<std::int64_t>{0, 1, 2, 3, 4, 5, 6, 7, 100}), "int64");
  check(8, 2, array_of(std::vector<std::uint16_t>{0, 1, 2, 3, 4, 5, 6, 7, 100}), "uint16");
}

TEST_CASE("documents without tokens are no documents", "[core]") {
  const TempFolder folder;
  Index index;
  index.documents = {0, 0, 1, 2, 2, 4};  // [] [3] [0 tokens] [] [6]
  index.num_documents = 6;
  put_bytes(folder / "m.idx", index.bytes());
  put_bytes(folder / "m.bin", array_of(kNine));
  const auto shard = open_token_shard(folder / "m");
  const auto documents = *shard->document_starts();
  CHECK(std::vector<std::int64_t>(documents.begin(), documents.end()) == std::vector<std::int64_t>{0, 3});
}

TEST_CASE("a damaged Megatron pair is refused with its fault", "[core]") {
  const TempFolder folder;
  put_bytes(folder / "m.bin", array_of(kNine));
  const auto refused = [&](const std::string& text, const auto& change) {
    Index index;
    change(index);
    put_bytes(folder / "m.idx", index.bytes());
    check_error(ErrorCode::kIo, text, [&] { (void)open_token_shard(folder / "m"); });
  };
  refused("MMIDIDX", [](Index& i) { i.magic[0] = 'X'; });
  refused("version is 2", [](Index& i) { i.version = 2; });
  refused("the code 6", [](Index& i) { i.code = 6; });
  refused("the code 0", [](Index& i) { i.code = 0; });
  refused("announces 18446744073709551615 sequence lengths", [](Index& i) { i.num_sequences = ~std::uint64_t{0}; });
  refused("announces 5000 document indices", [](Index& i) { i.num_documents = 5000; });
  refused("length of -1", [](Index& i) { i.lengths[2] = -1; });
  refused("sequence 2 begins at byte 7, expected 6", [](Index& i) { i.pointers[2] = 7; });
  refused("sequence 0 begins at byte -2", [](Index& i) { i.pointers[0] = -2; });
  refused("from 0 to the number", [](Index& i) { i.documents = {1, 2, 4}; });
  refused("from 0 to the number", [](Index& i) { i.documents = {0, 2, 3}; });
  refused("below the one before it", [](Index& i) { i.documents = {0, 5, 4}; });
  refused("below the one before it", [](Index& i) { i.documents = {0, -1, 4}; });
  refused("3 bytes after its last field", [](Index& i) { i.tail = "abc"; });
  refused("announces 8 tokens, so 16 bytes, but it has 18", [](Index& i) { i.lengths[3] = 1; });
  const std::string good = Index{}.bytes();
  for (std::size_t length = 0; length < good.size(); ++length) {
    put_bytes(folder / "m.idx", good.substr(0, length));
    CHECK(error_of([&] { (void)open_token_shard(folder / "m"); }).code() == ErrorCode::kIo);
  }
  put_bytes(folder / "m.idx", good);
  std::filesystem::remove(folder / "m.bin");
  check_error(ErrorCode::kIo, "m.bin", [&] { (void)open_token_shard(folder / "m"); });
}

}  // namespace
}  // namespace weft::test
