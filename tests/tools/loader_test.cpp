#include "tools/config/loader.h"

#include <filesystem>

#include "core/error.h"
#include "tests/support/catch.h"
#include "tests/support/errors.h"
#include "tests/support/temp_folder.h"

namespace weft::tools {
namespace {

namespace fs = std::filesystem;
using Strings = std::vector<std::string>;

// The error that parsing `text` with `sets` ends in.
Error refusal(const std::string& text, const Strings& sets = {}) {
  return test::error_of([&] { (void)parse_config(text, "x.textproto", sets); });
}

void write(const fs::path& path, const std::string& text) {
  fs::create_directories(path.parent_path());
  test::put_bytes(path, text);
}

TEST_CASE("an empty config is the defaults") { CHECK(parse_config("", "x") == parallel::RunConfig{}); }

TEST_CASE("a config overrides what it says and nothing else") {
  parallel::RunConfig expected;
  expected.model.moe.experts = 12;
  expected.train.optimizer.lr = 0.25;
  expected.parallel.zero = false;
  expected.data.train = {"a.bin", "b.bin"};
  CHECK(parse_config("model { moe { experts: 12 } }  # a comment\n train { optimizer { lr: 0.25 } }"
                     "parallel { zero: false } data { train: 'a.bin' train: \"b.bin\" }",
                     "x") == expected);
}

TEST_CASE("a config that is not strict is refused with file, line and column") {
  struct Case {
    const char* text;
    const char* message;
  };
  const auto [text, message] = GENERATE(values<Case>({
      {"train {\n  stpes: 5\n}", "x.textproto:2:3: unknown field 'stpes'"},
      {"train { steps: 5\n  steps: 6 }", "x.textproto:2:3: field 'steps' is given twice"},
      {"train { steps: 5\n  steps: 5 }", "x.textproto:2:3: field 'steps' is given twice"},
      {"model { }\nmodel { layers: 3 }", "x.textproto:2:1: field 'model' is given twice"},
      {"model { layers: 3.5 }", "x.textproto:1:17: Expected integer, got: 3.5"},
      {"model { layers: \"3\" }", "x.textproto:1:17: Expected integer, got: \"3\""},
      {"model { layers: 99999999999 }", "x.textproto:1:17: Integer out of range (99999999999)"},
      {"train { seed: -1 }", "x.textproto:1:15: Expected integer, got: -"},
      {"train { dtype: F16 }", "x.textproto:1:20: Unknown enumeration value of \"F16\" for field \"dtype\"."},
      {"model { layers: 3", "x.textproto:1:18: the file ends inside a group; a '}' or a value is missing"},
      {"1: 5", "x.textproto:1:1: Expected identifier, got: 1"},
      {"[google.protobuf.Any] { }", "x.textproto:1:23: Extension \"google.protobuf.Any\" is not defined"},
  }));
  INFO(text);
  const Error error = refusal(text);
  CHECK(error.code() == ErrorCode::kInvalidArgument);
  CHECK_THAT(error.message(), Catch::Matchers::StartsWith(message));
  CHECK(!error.hint().empty());
}

TEST_CASE("an unknown field brings up the nearest one of its group") {
  CHECK(refusal("train { stpes: 5 }").hint() == "did you mean 'steps'?");
  CHECK(refusal("model { moe { expert: 5 } }").hint() == "did you mean 'experts'?");
  CHECK(refusal("zzzzzzzzz: 5").hint() == "weft config explain lists the fields and their types");
}

TEST_CASE("nesting bombs are refused") {
  std::string known = "model {", unknown = "model { moe ";
  for (int i = 0; i < 100000; ++i) known += " model {", unknown += "{ x ";
  CHECK(refusal(known).code() == ErrorCode::kInvalidArgument);
  CHECK(refusal(unknown).code() == ErrorCode::kInvalidArgument);
}

TEST_CASE("binary noise is refused") {
  std::string noise;
  for (int i = 0; i < 4096; ++i) noise.push_back(static_cast<char>(i * 2654435761u >> 13));
  CHECK(refusal(noise).code() == ErrorCode::kInvalidArgument);
}

TEST_CASE("a file that cannot be read is an I/O error, and so is a huge one") {
  const test::TempFolder folder;
  const auto code_of = [](const fs::path& path) {
    return test::error_of([&] { (void)load_config(path.string()); }).code();
  };
  CHECK(code_of(folder / "missing.textproto") == ErrorCode::kIo);
  CHECK(code_of(folder.path()) == ErrorCode::kIo);
  write(folder / "huge.textproto", std::string((1 << 20) + 1, '#'));
  CHECK(code_of(folder / "huge.textproto") == ErrorCode::kIo);
  write(folder / "largest.textproto", std::string(1 << 20, '#'));
  CHECK_NOTHROW(load_config((folder / "largest.textproto").string()));
}

TEST_CASE("the defaults give way to the file, the file to --set, the first --set to the last") {
  const std::string text = "train { steps: 5 global_batch: 32 }";
  const auto config = parse_config(text, "x", Strings{"train.steps=6", "train.steps=7"});
  CHECK(config.train.steps == 7);
  CHECK(config.train.global_batch == 32);
  CHECK(config.train.micro_batch == parallel::TrainConfig{}.micro_batch);
}

TEST_CASE("data files are looked for from the current folder, then from the config's folder upwards") {
  const test::TempFolder folder;
  write(folder / "repo/configs/train/a.textproto",
        "data { train: 'corpus/a.bin' train: 'corpus/megatron' val: 'gone.bin' }");
  write(folder / "repo/corpus/a.bin", "");
  write(folder / "repo/corpus/megatron.bin", "");
  const auto config = load_config((folder / "repo/configs/train/a.textproto").string());
  CHECK(config.data.train == Strings{folder / "repo/corpus/a.bin", folder / "repo/corpus/megatron"});
  CHECK(config.data.val == Strings{"gone.bin"});
  write(folder / "repo/configs/corpus/a.bin", "");  // nearer
  CHECK(find_data_file("corpus/a.bin", folder / "repo/configs/train/a.textproto") ==
        folder / "repo/configs/corpus/a.bin");
  CHECK(find_data_file("/gone/a.bin", "x") == "/gone/a.bin");
}

TEST_CASE("every config of the repository loads and can run") {
  int count = 0;
  for (const auto& entry : fs::recursive_directory_iterator(fs::path(WEFT_SOURCE_DIR) / "configs")) {
    if (entry.path().extension() != ".textproto" || entry.path().parent_path().filename() == "clusters") continue;
    INFO(entry.path());
    const auto config = load_config(entry.path().string());
    CHECK(parallel::validate(config, config.parallel.expert * config.parallel.expert_shard) == Strings{});
    ++count;
  }
  CHECK(count >= 2);
}

TEST_CASE("the tiny config runs on 1, 2, 4 and 8 ranks with every EP") {
  const std::string path = str(WEFT_SOURCE_DIR, "/configs/train/tiny.textproto");
  for (int ranks : {1, 2, 4, 8})
    for (int expert = 1; expert <= ranks; expert *= 2)
      CHECK_NOTHROW(require_valid(load_config(path, Strings{str("parallel.expert=", expert)}), ranks));
}

TEST_CASE("require_valid names every problem in one line") {
  parallel::RunConfig config;
  config.model.moe.top_k = 9;
  config.train.steps = 0;
  const Error error = test::error_of([&] { require_valid(config, 1); });
  CHECK(error.code() == ErrorCode::kInvalidArgument);
  CHECK_THAT(error.message(), Catch::Matchers::StartsWith("2 problems"));
  CHECK_THAT(error.message(),
             Catch::Matchers::Contains("model.moe.top_k = 9") && Catch::Matchers::Contains("train.steps = 0"));
}

}  // namespace
}  // namespace weft::tools
