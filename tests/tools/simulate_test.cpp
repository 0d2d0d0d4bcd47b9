// weft simulate: the published clusters and tables, the figures it must reach, and the documents it writes.
#include <cmath>
#include <filesystem>
#include <iterator>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>

#include "core/atomic_file.h"
#include "core/error.h"
#include "scheduler/bound.h"
#include "scheduler/policy.h"
#include "tests/support/catch.h"
#include "tests/support/skip.h"
#include "tests/support/temp_folder.h"
#include "tests/tools/run_weft.h"
#include "tools/simulate/policies.h"
#include "tools/simulate/testbed.h"

using namespace weft;
using namespace weft::scheduler;
using tools::GridCase;
using tools::TestbedModel;

namespace {

test::CommandResult weft_command(const std::string& line) {
  std::istringstream words(line);
  const test::TempFolder scratch;
  return test::run_weft({std::istream_iterator<std::string>(words), {}}, scratch.path().string());
}

std::string cluster(const std::string& name) {
  return std::string(WEFT_SOURCE_DIR) + "/configs/clusters/" + name + ".textproto";
}

nlohmann::json json_of(const std::string& arguments) {
  const test::CommandResult result = weft_command(arguments + " --json");
  INFO(result.errors);
  REQUIRE(result.status == 0);
  return nlohmann::json::parse(result.output);
}

/// The schedule of a document is one that can run: precedence, one task at a time on a stream, no negative time.
void check_schedule(const nlohmann::json& document) {
  std::map<std::int64_t, std::pair<double, double>> times;
  std::map<std::string, std::vector<std::pair<double, double>>> streams;
  double last = 0.0;
  for (const auto& task : document["tasks"]) {
    const double start = task["start_ms"], end = task["end_ms"];
    times[task["id"]] = {start, end};
    streams[task["stream"]].emplace_back(start, end);
    last = std::max(last, end);
  }
  CHECK(last == Approx(document["total_ms"].get<double>()));
  bool holds = !times.empty();
  for (const auto& task : document["tasks"])
    for (const std::int64_t d : task["deps"])
      holds = holds && times.contains(d) && times[d].second <= task["start_ms"].get<double>() + 1e-9;
  for (auto& [name, busy] : streams) {
    CHECK(std::set<std::string>{"compute", "intra", "inter"}.contains(name));
    std::sort(busy.begin(), busy.end());
    for (std::size_t i = 1; i < busy.size(); ++i) holds = holds && busy[i - 1].second <= busy[i].first + 1e-9;
  }
  CHECK(holds);
}

}  // namespace

TEST_CASE("FSMoE's plans on the published testbeds take the closed form's time") {
  for (const std::string name :
       {"fsmoe_testbed_a", "fsmoe_testbed_a_gemm", "fsmoe_testbed_b", "fsmoe_testbed_b_gemm"}) {
    const TestbedModel testbed = tools::load_testbed(cluster(name));
    int exact = 0, between = 0, other = 0, place = 0;
    for (const GridCase& c : tools::grid_cases(testbed)) {
      if (c.heads != 8 || ++place % 3 != 0) continue;  // heads are no part of the time; a third of the rest
      for (const Phase phase : {Phase::kForward, Phase::kBackward})
        for (const int r : {1, 2, 4, 8}) {
          const LayerWork work = testbed.work(c, false);
          const LayerEmitter emitter(work, phase, 8);
          PolicyOptions options;
          options.degrees = {r};
          const double simulated = make_plan(PolicyKind::kFsMoe, emitter, testbed.cost(c), options).price.total_us;
          const double closed = fsmoe_layer_us(work, phase, r, testbed.cost(c));
          const auto time = [&](const Work& w, Resource resource) {
            TaskSpec spec;
            spec.resources = {resource};
            spec.work = {w.kind, w.amount / r, w.operations};
            return testbed.cost(c).cost_us(spec);
          };
          const double ta = time(work.all_to_all, Resource::kInter);
          const bool lies_between =
              (ta > time(work.all_gather, Resource::kIntra)) != (ta > time(work.reduce_scatter, Resource::kIntra));
          INFO(name << " L " << c.sequence_length << " M " << c.model_dim << " r " << r);
          CHECK(std::abs(simulated / closed - 1.0) <= 0.015);
          if (lies_between)
            ++between;
          else if (std::abs(simulated / closed - 1.0) <= 1e-9)
            ++exact;
          else
            ++other;
        }
    }
    INFO(name << ": " << exact << " exact, " << between << " between, " << other << " other");
    CHECK(other <= 2);
    CHECK(exact > 4 * between);
  }
}

TEST_CASE("The grid reaches its figures, and weft is never above another policy") {
  if (test::kSanitized) WEFT_SKIP("takes minutes under sanitizers; the release build checks the figures");
  for (const auto& [name, least] :
       {std::pair<std::string, double>{"fsmoe_testbed_a", 1.15}, {"fsmoe_testbed_b", 1.10}}) {
    INFO(name);
    const nlohmann::json document = json_of("simulate --grid fsmoe --policy all --cluster " + cluster(name));
    REQUIRE(document["cases"].size() == 1458);
    double speedup = 0.0, tutel = 0.0, gap = 0.0, worst = 0.0;
    bool never_above = true, keys = true;
    for (const auto& c : document["cases"]) {
      const auto total = [&](const char* policy) { return c["policies"][policy]["total_ms"].get<double>(); };
      keys = keys && c["policies"].size() == 8;
      for (const auto& [policy, figures] : c["policies"].items()) {
        never_above = never_above && total("weft") <= figures["total_ms"].get<double>() * (1 + 1e-12);
        keys = keys && figures["total_ms"].get<double>() ==
                           Approx(figures["forward_ms"].get<double>() + figures["backward_ms"].get<double>());
      }
      speedup += total("fsmoe") / total("weft") / 1458;
      tutel += total("tutel") / total("fsmoe") / 1458;
      const double own = total("weft") / c["lower_bound_ms"].get<double>() - 1.0;
      gap += own / 1458;
      worst = std::max(worst, own);
      keys = keys && own >= -1e-9;
    }
    CHECK(keys);
    CHECK(never_above);
    CHECK(speedup >= least);
    CHECK(gap <= 0.015);
    CHECK(worst <= 0.055);
    CHECK(tutel >= 1.03);
    CHECK(tutel <= 1.30);
    CHECK(document["summary"]["mean_gap"].get<double>() == Approx(gap));
  }
}

TEST_CASE("Chunks of unequal sizes are reported apart, never slower than weft's equal ones") {
  int faster = 0;
  for (const std::string name : {"fsmoe_testbed_a", "fsmoe_testbed_b"})
    for (const int number : {20, 700, 1101, 1457}) {
      INFO(name << ", case " << number);
      const nlohmann::json document =
          json_of(str("simulate --grid fsmoe --unequal --policy weft --case ", number, " --cluster ", cluster(name)));
      const nlohmann::json &found = document["cases"][0]["weft_unequal"],
                           &weft = document["cases"][0]["policies"]["weft"];
      CHECK(document["cases"][0]["policies"].size() == 1);
      for (const std::string phase : {"forward", "backward"}) {
        CHECK(found[phase + "_ms"].get<double>() <= weft[phase + "_ms"].get<double>());
        double sum = 0.0;
        for (const double share : found["shares_" + phase]) sum += share;
        CHECK(sum == Approx(1.0));
      }
      const double total = found["total_ms"];
      CHECK(total == Approx(found["forward_ms"].get<double>() + found["backward_ms"].get<double>()));
      CHECK(total >= found["lower_bound_ms"].get<double>() * (1 - 1e-9));
      const double gain = document["summary"]["weft_unequal"]["mean_speedup_over_weft"];
      CHECK(gain == Approx(weft["total_ms"].get<double>() / total));
      faster += gain > 1.005 ? 1 : 0;
    }
  CHECK(faster >= 4);
}

TEST_CASE("The grid compares a list of policies with the two it is measured against, named or not") {
  const std::string line = "simulate --grid fsmoe --case 700 --cluster " + cluster("fsmoe_testbed_a") + " --policy ";
  const nlohmann::json few = json_of(line + "tutel,flowmoe"), all = json_of(line + "all");
  CHECK(few["cases"][0]["policies"].size() == 2);
  for (const char* base : {"mean_speedup_over_fsmoe", "mean_speedup_over_sequential"})
    for (const char* policy : {"tutel", "flowmoe"}) CHECK(few["summary"][base][policy] == all["summary"][base][policy]);
}

TEST_CASE("Whole steps from Table 2 reach their figures") {
  if (test::kSanitized) WEFT_SKIP("takes minutes under sanitizers; the release build checks the figures");
  struct Bar {
    const char* table;
    double four, one, cap;  // speedup over fsmoe with 4 and 1 micro-batches; what the loads alone allow
  };
  for (const Bar& bar :
       {Bar{"fsmoe_table2_a_gpt2", 1.50, 1.25, 1.746}, Bar{"fsmoe_table2_a_mixtral", 1.45, 1.16, 1.563},
        Bar{"fsmoe_table2_b_gpt2", 1.27, 1.24, 1.296}, Bar{"fsmoe_table2_b_mixtral", 1.31, 1.24, 1.344}})
    for (const int micro_batches : {4, 1}) {
      INFO(bar.table << ", " << micro_batches << " micro-batches");
      const test::TempFolder folder;
      const std::string out = (folder.path() / "schedule.json").string();
      const nlohmann::json policies =
          json_of(str("simulate --layers 8 --policy all --micro_batches ", micro_batches, " --schedule_out ", out,
                      " --stages ", cluster(bar.table)))["policies"];
      CHECK(policies.size() == 8);
      const double fsmoe = policies["fsmoe"]["total_ms"], weft = policies["weft"]["total_ms"];
      CHECK(fsmoe / weft >= (micro_batches == 4 ? bar.four : bar.one));
      for (const auto& [name, figures] : policies.items()) {
        INFO(name);
        CHECK(weft <= figures["total_ms"].get<double>());
        CHECK(figures["lower_bound_ms"].get<double>() <= weft);
      }
      if (micro_batches == 4) CHECK(fsmoe / policies["weft"]["lower_bound_ms"].get<double>() <= bar.cap + 1e-3);
      const nlohmann::json schedule = nlohmann::json::parse(read_file(out));
      CHECK(schedule["policy"] == "weft");
      CHECK(schedule["total_ms"].get<double>() == Approx(weft));
      check_schedule(schedule);
    }
}

TEST_CASE("A schedule document names stages, streams and places") {
  const test::TempFolder folder;
  const std::string out = (folder.path() / "s.json").string();
  json_of("simulate --grid fsmoe --policy fsmoe --case 7 --schedule_out " + out + " --cluster " +
          cluster("fsmoe_testbed_b"));
  const nlohmann::json schedule = nlohmann::json::parse(read_file(out));
  check_schedule(schedule);
  std::set<std::string> stages, phases;
  for (const auto& task : schedule["tasks"]) {
    stages.insert(task["stage"]);
    phases.insert(task["phase"]);
    for (const char* key : {"id", "name", "layer", "micro_batch", "sub_batch", "chunk"}) CHECK(task.contains(key));
  }
  CHECK(stages == std::set<std::string>{"dispatch", "all_gather", "expert", "reduce_scatter", "combine"});
  CHECK(phases == std::set<std::string>{"forward", "backward"});
}

/// Costs of nothing but one kind of work, so that a step takes the sum of its tasks of that kind.
std::string costs_of_only(const std::string& kind) {
  std::string text = "source: \"by hand\"\n";
  for (const char* work : {"GEMM", "GROUPED_GEMM", "ATTENTION", "MEMORY"})
    text += str("cost { work: ", work, " alpha_us: 0 beta_us: ", kind == work ? 1e-3 : 0.0, " }\n");
  for (const char* work : {"ALL_TO_ALL", "ALL_GATHER", "REDUCE_SCATTER", "ALL_REDUCE", "SEND_RECV"})
    for (const char* link : {"INTRA", "INTER"})
      text += str("cost { work: ", work, " link: ", link, " alpha_us: 0 beta_us: ", kind == work ? 1e-3 : 0.0, " }\n");
  return text;
}

TEST_CASE("Recorded routing prices each layer by the load of its busiest rank") {
  const test::TempFolder folder;
  const std::string routing = (folder.path() / "metrics.jsonl").string(), costs = (folder.path() / "c").string();
  // Four ranks with two of eight experts each; busiest over mean by hand: 1, 4, 3, 2, then 3, 4, 3, 2.
  write_file(
      routing,
      "{\"schema\": 1, \"format\": \"weft.metrics\"}\n"
      "{\"step\": 1, \"rank_imbalance\": 4.0}\n"
      "{\"step\": 2, \"expert_tokens\": [[1,1,1,1,1,1,1,1],[6,2,0,0,0,0,0,0],[0,0,3,3,1,0,1,0],[4,0,0,0,2,2,0,0]]}\n"
      "{\"step\": 4, \"expert_tokens\": [[3,3,1,1,0,0,0,0],[0,0,0,0,0,0,1,7],[0,0,3,3,1,0,1,0],[4,0,0,0,2,2,0,0]]}\n");
  const std::string config = std::string(WEFT_SOURCE_DIR) + "/configs/train/tiny.textproto";
  const std::string line =
      "simulate --policy sequential --nodes 2 --gpus_per_node 2 --set parallel.expert=4 --config " + config +
      " --cluster " + costs + " --routing " + routing;
  const double first = 1.0 + 0.95 * 2.0, mean = (first + 4.0 + 3.0 + 2.0) / 4;
  for (const std::string kind : {"GROUPED_GEMM", "ALL_TO_ALL"}) {
    INFO(kind);
    write_file(costs, costs_of_only(kind));
    const nlohmann::json found = json_of(line)["routing"];
    const auto layers = found["recorded"]["busiest_over_mean_by_moe_layer"].get<std::vector<double>>();
    REQUIRE(layers.size() == 4);
    CHECK(layers[0] == Approx(first));
    CHECK(std::vector<double>(layers.begin() + 1, layers.end()) == std::vector<double>{4.0, 3.0, 2.0});
    CHECK(found["recorded"]["steps"] == 2);
    const double uniform = found["uniform"]["predicted_ms"], recorded = found["recorded"]["predicted_ms"],
                 worst = found["worst case"]["predicted_ms"];
    CHECK(found["worst case"]["busiest_over_mean"] == 4.0);
    CHECK((recorded - uniform) / (worst - uniform) == Approx((mean - 1.0) / (4.0 - 1.0)));
    if (kind == "GROUPED_GEMM") CHECK(recorded / uniform == Approx(mean));  // the exchange of counts follows no load
    CHECK(found["recorded"]["memory_bytes"] == found["worst case"]["memory_bytes"]);
    CHECK(found["recorded"]["memory_bytes"] > found["uniform"]["memory_bytes"]);
  }
  CHECK(json_of(line + " --set model.moe.capacity_factor=1.5")["routing"]["worst case"]["busiest_over_mean"] == 1.5);
}

TEST_CASE("A step beside GPUs waits on the host for routed counts, and says what that adds") {
  const std::string line = "simulate --policy all --nodes 2 --gpus_per_node 2 --set parallel.expert=4 --config " +
                           std::string(WEFT_SOURCE_DIR) + "/configs/train/tiny.textproto --cluster ";
  const nlohmann::json gpus = json_of(line + cluster("h100_nvlink_ib400")),
                       cpus = json_of(line + cluster("nominal_cpu"));
  for (const auto& [name, row] : gpus["policies"].items()) {
    INFO(name);
    CHECK(row["host_waits"].get<int>() >= 4);  // of each MoE layer
    CHECK(row["host_waits"].get<int>() % 4 == 0);
    CHECK(row["exposed_host_ms"].get<double>() > 0.0);
    CHECK(row["exposed_host_ms"].get<double>() < row["predicted_ms"].get<double>());
    CHECK(gpus["policies"]["weft"]["predicted_ms"] <= row["predicted_ms"]);
    CHECK(cpus["policies"][name]["host_waits"] == 0);
    CHECK(cpus["policies"][name]["exposed_host_ms"] == 0.0);
  }
  const nlohmann::json known = json_of(line + cluster("h100_nvlink_ib400") +
                                       " --set model.moe.gate=expert_choice --set model.moe.allow_noncausal=true"
                                       " --set model.moe.capacity_factor=1");
  for (const auto& [name, row] : known["policies"].items()) CHECK(row["host_waits"] == 0);
}

TEST_CASE("Routing of another run is refused") {
  const test::TempFolder folder;
  const std::string routing = (folder.path() / "metrics.jsonl").string();
  const std::string line =
      "simulate --policy sequential --nodes 1 --gpus_per_node 2 --set parallel.expert=2 --config " +
      std::string(WEFT_SOURCE_DIR) + "/configs/train/tiny.textproto --routing ";
  for (const auto& [record, says] :
       {std::pair<std::string, std::string>{"{\"step\": 1}", "no expert_tokens"},
        {"{\"expert_tokens\": [[1,1,1,1,1,1,1,1]]}", "counts of 1 MoE layers, the config has 4"},
        {"{\"expert_tokens\": [[1],[1],[1],[1]]}", "counts of 1 experts, the config has 8"},
        {"{\"expert_tokens\": [[1,1,1,1,1,1,1,-1],[],[],[]]}", "negative"},
        {"{\"expert_tokens\": 3}", "line 1: expert_tokens is not a list"},
        {"{\"schema\": 9, \"format\": \"weft.metrics\"}", "metrics.jsonl: schema 9, this weft knows schema 1"}}) {
    write_file(routing, record + "\n");
    const test::CommandResult result = weft_command(line + routing);
    INFO(result.errors);
    CHECK(result.status == 2);
    CHECK_THAT(result.errors, Catch::Contains(says));
  }
  CHECK(weft_command(line + "/nowhere").status == 74);
}

TEST_CASE("Policies are named one by one, in lists, or all at once") {
  using scheduler::PolicyKind;
  CHECK(tools::policies_named("fsmoe") == std::vector{PolicyKind::kFsMoe});
  CHECK(tools::policies_named("weft,sequential,weft") == std::vector{PolicyKind::kSequential, PolicyKind::kWeft});
  CHECK(tools::policies_named("all").size() == scheduler::kNumPolicies);
  CHECK(tools::policies_named("tutel,all") == tools::policies_named("all"));
  for (const char* bad : {"", "fsmo", "fsmoe,", "fsmoe weft"}) CHECK_THROWS_AS(tools::policies_named(bad), Error);
}

TEST_CASE("The plans of a list are those of all policies") {
  const scheduler::StageEmitter emitter(tools::load_stage_table(cluster("fsmoe_table2_a_gpt2")), 2, 2);
  const scheduler::CostModel cost = emitter.costs();
  const auto all = tools::plans_of(tools::policies_named("all"), emitter, cost);
  const auto some = tools::plans_of(tools::policies_named("fsmoe,weft"), emitter, cost);
  REQUIRE(some.size() == 2);
  CHECK(some[0].plan.policy == "fsmoe");
  CHECK(some[1].plan.policy == "weft");
  CHECK(some[0].price.total_us == all[static_cast<std::size_t>(scheduler::PolicyKind::kFsMoe)].price.total_us);
  CHECK(some[1].price.total_us == all.back().price.total_us);
}

TEST_CASE("simulate refuses what it cannot do") {
  const std::string grid = "simulate --grid fsmoe --cluster " + cluster("fsmoe_testbed_a");
  for (const auto& [arguments, says] :
       {std::pair<std::string, std::string>{"simulate", "one of --grid, --stages and --config"},
        {"simulate --grid fsmoe", "--cluster"},
        {"simulate --config x", "--nodes"},
        {"simulate --grid other --cluster x", "no grid 'other'"},
        {grid + " --policy wefd", "did you mean weft"},
        {grid + " --case 1458", "cases 0 to 1457"},
        {grid + " --schedule_out /tmp/x", "--case"},
        {grid + " --unequal --policy fsmoe", "--unequal starts from weft's plan"},
        {"simulate --unequal --stages " + cluster("fsmoe_table2_a_gpt2"), "go with --grid alone"},
        {"simulate --grid fsmoe --cluster " + cluster("nominal_cpu"), "nominal_cpu.textproto"},
        {"simulate --stages " + cluster("fsmoe_testbed_a"), "fsmoe_testbed_a.textproto"}}) {
    const test::CommandResult result = weft_command(arguments);
    INFO(arguments << ": " << result.errors);
    CHECK(result.status == 2);
    CHECK_THAT(result.errors, Catch::Contains(says));
  }
  CHECK(weft_command("simulate --stages /nowhere").status == 74);
}
