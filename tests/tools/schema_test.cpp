#include "tools/config/schema.h"

#include <set>

#include "core/error.h"
#include "parallel/moe/gate_registry.h"
#include "tests/support/catch.h"
#include "tests/support/errors.h"
#include "tools/config/loader.h"
#include "tools/config/proto_convert.h"

namespace weft::tools {
namespace {

using Strings = std::vector<std::string>;

parallel::RunConfig with(const Strings& sets) {
  return parse_config("data { train: 'file.bin' val: 'v.bin' }", "x", sets);
}

Error refusal(const std::string& set) {
  return test::error_of([&] { (void)with({set}); });
}

TEST_CASE("--set takes every type") {
  CHECK(with({"train.steps=12"}).train.steps == 12);
  CHECK(with({"train.steps=-12"}).train.steps == -12);
  CHECK(with({"train.seed=18446744073709551615"}).train.seed == ~std::uint64_t{0});
  CHECK(with({"train.optimizer.lr=2.5e-4"}).train.optimizer.lr == 2.5e-4);
  CHECK(with({"model.moe.capacity_factor=0"}).model.moe.capacity_factor == 0.0);
  CHECK(with({"train.dtype=F64"}).train.dtype == DType::kF64);
  CHECK(with({"train.dtype=f64"}).train.dtype == DType::kF64);
  CHECK(with({"name=a=b c"}).name == "a=b c");
  CHECK(with({"name="}).name.empty());
  for (const char* yes : {"true", "1", "on", "yes", "TRUE"}) CHECK(with({str("parallel.zero=", yes)}).parallel.zero);
  for (const char* no : {"false", "0", "off", "no", "False"}) CHECK(!with({str("parallel.zero=", no)}).parallel.zero);
}

TEST_CASE("--set of a list replaces the file's, and further ones append") {
  CHECK(with({}).data.train == Strings{"file.bin"});
  CHECK(with({"data.train=a.bin,b.bin"}).data.train == Strings{"a.bin", "b.bin"});
  CHECK(with({"data.train=a.bin", "train.steps=3", "data.train=b.bin"}).data.train == Strings{"a.bin", "b.bin"});
  CHECK(with({"data.train=a.bin"}).data.val == Strings{"v.bin"});
  CHECK(with({"data.train="}).data.train.empty());
  CHECK(with({"data.train=,a.bin,"}).data.train == Strings{"a.bin"});
}

TEST_CASE("--set refuses wrong values and says what it expects") {
  for (const char* set : {"train.steps=", "train.steps=x", "train.steps=3.0", "train.steps=3 ", "train.steps= 3",
                          "train.steps=2147483648", "train.steps=0x10", "train.seed=-1", "train.optimizer.lr=1,5",
                          "train.optimizer.lr=", "parallel.zero=maybe", "parallel.zero=2",
                          "train.dtype=", "train.dtype=F16", "schedule.policy=0"}) {
    INFO(set);
    CHECK(refusal(set).code() == ErrorCode::kInvalidArgument);
    CHECK_THAT(refusal(set).message(), Catch::Matchers::Contains("is not "));
    CHECK_THAT(refusal(set).hint(), Catch::Matchers::StartsWith("weft config explain "));
  }
}

TEST_CASE("--set refuses unknown paths and names the nearest") {
  CHECK(refusal("train.stpes=3").hint() == "did you mean 'train.steps'?");
  CHECK(refusal("moe.experts=3").hint() == "did you mean 'model.moe.experts'?");
  CHECK(refusal("experts=3").hint() == "did you mean 'model.moe.experts'?");
  CHECK(refusal("train.steps.x=3").message() == "a config has no field 'train.steps.x'");
  CHECK(refusal("train.optimizer=3").message() == "--set train.optimizer: this is a group of fields");
  for (const char* set : {"=3", ".=3", "train.=3", ".train=3", "train..steps=3", "steps", "", "train.steps:3"}) {
    INFO(set);
    CHECK(refusal(set).code() == ErrorCode::kInvalidArgument);
  }
}

TEST_CASE("the paths that checks rely on exist") {
  for (const char* path : {"model.family",
                           "model.layers",
                           "model.model_dim",
                           "model.expert_hidden_dim",
                           "model.heads",
                           "model.kv_heads",
                           "model.vocab_size",
                           "model.moe.experts",
                           "model.moe.top_k",
                           "model.moe.capacity_factor",
                           "model.moe.gate",
                           "train.steps",
                           "train.global_batch",
                           "train.micro_batch",
                           "train.sequence_length",
                           "train.seed",
                           "train.dtype",
                           "parallel.expert",
                           "parallel.expert_shard",
                           "parallel.zero",
                           "checkpoint.every",
                           "checkpoint.keep",
                           "schedule.policy",
                           "data.train",
                           "data.val"}) {
    INFO(path);
    CHECK(explain(path).size() == 1);
  }
}

TEST_CASE("explain knows a comment and the default of every field") {
  const auto help = explain("");
  std::set<std::string> paths;
  for (const FieldHelp& field : help) {
    INFO(field.path);
    CHECK(paths.insert(field.path).second);
    CHECK(field.comment.size() > 8);
    CHECK(!field.type.empty());
    if (field.type.starts_with("list")) continue;
    // what it prints is what --set takes, and changes nothing
    CHECK(parse_config("", "x", Strings{field.path + "=" + field.default_value}) == parallel::RunConfig{});
  }
  CHECK(help.size() > 50);
}

TEST_CASE("explain shows a group, a field with its values, or the nearest path") {
  CHECK(explain("train.optimizer").size() == 10);
  const auto field = explain("train.recompute").at(0);
  CHECK(field.type == "NONE | SELECTIVE | FULL");
  CHECK(field.default_value == "NONE");
  CHECK_THAT(field.comment, Catch::Matchers::Contains("\nFULL: "));
  CHECK_THROWS_AS(explain("train.opt"), Error);
  CHECK_THROWS_AS(explain("."), Error);
}

TEST_CASE("explain knows the gates and their options, a line each") {
  const auto gate = explain("model.moe.gate").at(0), options = explain("model.moe.gate_options").at(0);
  CHECK(gate.default_value == "softmax_top_k");
  for (const parallel::GateEntry& entry : parallel::gate_registry()) {
    CHECK_THAT(gate.comment, Catch::Matchers::Contains(str("\n", entry.name, ": ", entry.summary)));
    for (const parallel::GateOption& option : entry.options)
      CHECK_THAT(options.comment, Catch::Matchers::Contains(str("\n", entry.name, ": ", option.name, "=")));
  }
  CHECK_THAT(options.comment, Catch::Matchers::Contains("soft_moe: slots_per_expert=1: "));
}

TEST_CASE("nearest counts edits") {
  const Strings words{"steps", "seed", "model.moe.experts"};
  CHECK(nearest("step", words) == "steps");
  CHECK(nearest("sede", words) == "seed");
  CHECK(nearest("experts", words) == "model.moe.experts");
  CHECK(nearest("zzzz", words).empty());
  CHECK(nearest("", words).empty());
}

}  // namespace
}  // namespace weft::tools
