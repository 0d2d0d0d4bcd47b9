#include "tools/hf/import.h"

#include <bit>
#include <cstring>

#include "parallel/train/checkpoint.h"
#include "tests/support/catch.h"
#include "tests/support/errors.h"
#include "tests/tools/hf_folder.h"
#include "tools/config/loader.h"

namespace weft::tools {
namespace {

namespace fs = std::filesystem;
using test::HfCopy;
using test::HfTensor;
using Tensors = std::vector<HfTensor>;
using Json = nlohmann::json;

constexpr const char* kUp = "model.layers.1.block_sparse_moe.experts.4.w3.weight";

HfTensor& find(Tensors& tensors, const std::string& name) {
  for (HfTensor& t : tensors)
    if (t.info.name == name) return t;
  throw std::runtime_error("no tensor " + name);
}

// Importing `copy` fails with `code` and a text that has all of `parts`, and leaves nothing.
void check_refused(const HfCopy& copy, ErrorCode code, const std::vector<std::string>& parts) {
  const Error error = test::error_of([&] { (void)import_hf(copy.path(), copy.out()); });
  CHECK(to_string(error.code()) == to_string(code));
  for (const std::string& part : parts) CHECK_THAT(error.message(), Catch::Contains(part));
  CHECK(!error.hint().empty());
  CHECK(!fs::exists(copy.out()));
}

TEST_CASE("the stored config is whole: eval and train can start from it") {
  const HfCopy copy("per_expert");
  const HfImport import = import_hf(copy.path(), copy.out());
  const parallel::Checkpoint checkpoint(copy.out());
  const parallel::RunConfig config = parse_config(checkpoint.state().config_text, "stored");
  CHECK(config == import.config);
  CHECK(parallel::validate(config, 1).empty());
  CHECK(config.model.model_dim == 48);
  CHECK(config.model.expert_hidden_dim == 40);
  CHECK(config.model.heads == 6);
  CHECK(config.model.kv_heads == 2);
  CHECK(config.model.head_dim == 8);
  CHECK(config.model.moe.experts == 5);
  CHECK(config.model.moe.top_k == 3);
  CHECK(config.model.rope_theta == 1e6);
  CHECK(config.model.norm_eps == 1e-5);
  CHECK(config.model.max_positions == 64);
  CHECK(config.train.sequence_length == 64);
  CHECK(!checkpoint.has_optimizer());
  checkpoint.check_model(config.model);
  checkpoint.verify();
}

TEST_CASE("a missing, a left-over and a misshapen tensor are refused by name") {
  const HfCopy copy("per_expert");
  SECTION("missing") {
    copy.edit_tensors([](Tensors& t) { std::erase_if(t, [](const HfTensor& x) { return x.info.name == kUp; }); });
    check_refused(copy, ErrorCode::kInvalidArgument, {str("missing: ", kUp)});
  }
  SECTION("left over") {
    copy.edit_tensors([](Tensors& t) { t.push_back({{"model.extra", DType::kF32, {1}, 0}, std::string(4, '\0')}); });
    check_refused(copy, ErrorCode::kInvalidArgument, {"left over: model.extra"});
  }
  SECTION("transposed") {
    copy.edit_tensors([](Tensors& t) { std::ranges::reverse(find(t, kUp).info.shape); });
    check_refused(copy, ErrorCode::kInvalidArgument, {str("of another shape: ", kUp, " [48, 40] instead of [40, 48]")});
  }
  SECTION("renamed: two faults at once") {
    copy.edit_tensors([](Tensors& t) { find(t, kUp).info.name = "model.renamed"; });
    check_refused(copy, ErrorCode::kInvalidArgument, {str("missing: ", kUp), "left over: model.renamed"});
  }
  SECTION("one more expert in the config") {
    copy.edit_json("config.json", [](Json& c) { c["num_local_experts"] = 6; });
    check_refused(copy, ErrorCode::kInvalidArgument,
                  {"missing:", "block_sparse_moe.experts.5.w1", "gate.weight [5, 48] instead of [6, 48]"});
  }
  SECTION("many names are cut short") {
    copy.edit_tensors([](Tensors& t) {
      for (int i = 0; i < 30; ++i) t.push_back({{str("x.", i), DType::kF32, {0}, 0}, ""});
    });
    check_refused(copy, ErrorCode::kInvalidArgument, {"left over: x.0,", "and 18 more"});
  }
}

TEST_CASE("integer weights are refused") {
  const HfCopy copy("per_expert");
  copy.edit_tensors([](Tensors& t) { find(t, kUp).info.dtype = DType::kI32; });
  check_refused(copy, ErrorCode::kInvalidArgument, {str("not of floats: ", kUp, " I32")});
}

TEST_CASE("F64 and BF16 weights arrive as F32") {
  const HfCopy copy("per_expert"), original("per_expert");
  const bool wide = GENERATE(true, false);
  copy.edit_tensors([&](Tensors& tensors) {
    for (HfTensor& t : tensors) {
      std::string bytes;
      for (std::int64_t i = 0; i < t.info.num_elements(); ++i) {
        float x = 0.0f;
        std::memcpy(&x, t.bytes.data() + 4 * i, 4);
        bytes += wide ? test::raw(static_cast<double>(x))
                      : test::raw(static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(x) >> 16));
      }
      t.info.dtype = wide ? DType::kF64 : DType::kBF16;
      t.bytes = bytes;
    }
  });
  (void)import_hf(copy.path(), copy.out());
  (void)import_hf(original.path(), original.out());
  const parallel::Checkpoint a(copy.out()), b(original.out());
  for (const auto& [name, entry] : b.tensors()) {
    std::int64_t n = 1;
    for (const std::int64_t d : entry.shape) n *= d;
    std::vector<float> x(static_cast<std::size_t>(n)), y(x.size());
    a.read("weight", name, 0, n, x.data());
    b.read("weight", name, 0, n, y.data());
    if (!wide)
      for (float& v : y) v = std::bit_cast<float>(std::bit_cast<std::uint32_t>(v) & 0xffff0000u);
    INFO(name);
    CHECK(x == y);
  }
}

TEST_CASE("a head that is tied may be repeated, if it is the embedding") {
  const HfCopy copy("fused");
  copy.edit_tensors([](Tensors& t) {
    HfTensor head = find(t, "model.embed_tokens.weight");
    head.info.name = "lm_head.weight";
    t.push_back(head);
  });
  CHECK_NOTHROW(import_hf(copy.path(), copy.out()));
  fs::remove_all(copy.out());
  copy.edit_tensors([](Tensors& t) { find(t, "lm_head.weight").bytes[100] ^= 1; });
  check_refused(copy, ErrorCode::kInvalidArgument, {"left over: lm_head.weight"});
}

TEST_CASE("an index that disagrees with its shards is refused") {
  const HfCopy copy("sharded");
  const std::string index = "model.safetensors.index.json", head = "lm_head.weight";
  const std::string first = "model-00001-of-00002.safetensors", second = "model-00002-of-00002.safetensors";
  SECTION("a shard is missing") {
    fs::remove(copy.path() / second);
    check_refused(copy, ErrorCode::kIo, {second});
  }
  SECTION("a shard is cut") {
    fs::resize_file(copy.path() / second, fs::file_size(copy.path() / second) - 1);
    check_refused(copy, ErrorCode::kIo, {second});
  }
  SECTION("a tensor is not where it says") {
    copy.edit_json(index, [&](Json& j) { j["weight_map"][head] = second; });
    check_refused(copy, ErrorCode::kIo, {"not in the file that it names: lm_head.weight"});
  }
  SECTION("a tensor is not listed") {
    copy.edit_json(index, [&](Json& j) { j["weight_map"].erase(head); });
    check_refused(copy, ErrorCode::kIo, {"in the files, but not in it: lm_head.weight"});
  }
  SECTION("a tensor stands twice") {
    copy.edit_tensors([](Tensors& t) { t.push_back({{"lm_head.weight", DType::kF32, {0}, 0}, ""}); }, second);
    check_refused(copy, ErrorCode::kIo, {"lm_head.weight stands in another file too"});
  }
  SECTION("a file outside the folder") {
    copy.edit_json(index, [&](Json& j) { j["weight_map"][head] = "../" + first; });
    check_refused(copy, ErrorCode::kIo, {"is no name of a file in this folder"});
  }
  SECTION("it is no index") {
    write_file(copy.path() / index, "[]");
    check_refused(copy, ErrorCode::kIo, {"no index of safetensors files"});
  }
}

TEST_CASE("a folder without weights or config is an I/O error") {
  const HfCopy copy("per_expert");
  SECTION("no config") {
    fs::remove(copy.path() / "config.json");
    check_refused(copy, ErrorCode::kIo, {"config.json"});
  }
  SECTION("no weights") {
    fs::remove(copy.path() / "model.safetensors");
    check_refused(copy, ErrorCode::kIo, {"has neither model.safetensors nor"});
  }
  SECTION("no folder") {
    fs::remove_all(copy.path());
    check_refused(copy, ErrorCode::kIo, {"there is no folder"});
  }
}

TEST_CASE("a config of absurd size is refused before it is looked at closely") {
  const HfCopy copy("per_expert");
  const char* field = GENERATE("num_hidden_layers", "num_local_experts");
  copy.edit_json("config.json", [&](Json& c) {
    c["hidden_size"] = c["head_dim"] = c["intermediate_size"] = 2;
    c[field] = 1000000000;
  });
  check_refused(copy, ErrorCode::kInvalidArgument,
                {field == std::string("num_hidden_layers") ? "tasks" : "the weights are only 47 tensors"});
}

}  // namespace
}  // namespace weft::tools
