#include "tools/config/proto_convert.h"

#include <google/protobuf/descriptor.h>

#include <cmath>
#include <limits>

#include "core/error.h"
#include "core/rng.h"
#include "tests/support/catch.h"
#include "tools/config/loader.h"

namespace weft::tools {
namespace {

using namespace parallel;

// Draws values of each kind, extremes among them.
class Draw {
 public:
  explicit Draw(std::uint64_t seed) : rng_(seed, RngPurpose::kTest) {}
  std::uint64_t below(std::uint64_t bound) { return rng_.below(bound, counter_++); }
  int integer() {
    constexpr int kSpecial[] = {0, 1, -1, std::numeric_limits<int>::max(), std::numeric_limits<int>::min()};
    return below(4) == 0 ? kSpecial[below(5)] : static_cast<int>(below(1u << 30)) - (1 << 29);
  }
  std::uint64_t unsigned64() { return below(4) == 0 ? ~std::uint64_t{0} : below(~std::uint64_t{0}); }
  double real() {
    constexpr double kSpecial[] = {0.0, -0.0, 0.1, 1e-300, 1e300, 5e-324, 1.0 / 3.0};
    return below(3) == 0 ? kSpecial[below(7)] : rng_.normal(counter_++) * std::pow(10.0, double(below(40)) - 20.0);
  }
  bool boolean() { return below(2) == 1; }
  std::string text() {
    std::string out;
    for (std::uint64_t n = below(12); n > 0; --n) out.push_back("ab/._-\"'\\\n\t ,=#{}"[below(17)]);
    return out;
  }
  std::vector<std::string> list() {
    std::vector<std::string> out(below(4));
    for (std::string& entry : out) entry = text();
    return out;
  }
  template <class Enum>
  Enum choice(int count) {
    return static_cast<Enum>(below(static_cast<std::uint64_t>(count)));
  }

 private:
  Rng rng_;
  std::uint64_t counter_ = 0;
};

ModelConfig random_model(Draw& d) {
  ModelConfig c;
  c.family = d.choice<ModelFamily>(2);
  for (int* field :
       {&c.layers, &c.model_dim, &c.expert_hidden_dim, &c.dense_hidden_dim, &c.heads, &c.kv_heads, &c.head_dim,
        &c.vocab_size, &c.max_positions, &c.moe.experts, &c.moe.top_k, &c.moe.group_sequences})
    *field = d.integer();
  for (double* field :
       {&c.rope_theta, &c.norm_eps, &c.init_std, &c.moe.capacity_factor, &c.moe.balance_loss_coef, &c.moe.z_loss_coef})
    *field = d.real();
  c.tie_embeddings = d.boolean();
  c.layer_pattern = d.text();
  c.moe.renormalize = d.boolean();
  c.moe.allow_noncausal = d.boolean();
  c.moe.gate = d.text();
  c.moe.gate_options = d.list();
  c.moe.balance_scope = d.choice<BalanceScope>(3);
  c.moe.balance_form = d.choice<BalanceForm>(2);
  return c;
}

RunConfig random_config(std::uint64_t seed) {
  Draw d(seed);
  RunConfig c;
  c.name = d.text();
  c.model = random_model(d);
  for (int* field :
       {&c.train.steps, &c.train.global_batch, &c.train.micro_batch, &c.train.sequence_length, &c.train.validate_every,
        &c.train.validate_sequences, &c.train.optimizer.warmup_steps, &c.parallel.expert, &c.parallel.expert_shard,
        &c.parallel.sequence_heads, &c.parallel.sequence_ring, &c.checkpoint.every, &c.checkpoint.keep,
        &c.schedule.forward_chunks, &c.schedule.backward_chunks, &c.schedule.gradient_slices,
        &c.schedule.weight_grad_pieces, &c.metrics.router_every})
    *field = d.integer();
  OptimizerConfig& o = c.train.optimizer;
  for (double* field : {&o.lr, &o.min_lr_ratio, &o.wsd_decay_fraction, &o.beta1, &o.beta2, &o.eps, &o.weight_decay,
                        &o.clip_norm, &c.train.time_limit_s})
    *field = d.real();
  c.train.seed = d.unsigned64();
  c.train.dtype = d.choice<DType>(3);
  c.train.recompute = d.choice<Recompute>(3);
  o.schedule = d.choice<LrSchedule>(4);
  c.parallel.zero = d.boolean();
  c.parallel.dispatcher = d.choice<DispatcherKind>(3);
  c.parallel.device = d.choice<DeviceChoice>(3);
  c.parallel.intra_node_ctas = d.integer();
  c.parallel.inter_node_ctas = d.integer();
  c.data.train = d.list();
  c.data.val = d.list();
  c.data.attend_across_documents = d.boolean();
  c.data.end_of_text = d.integer();
  c.metrics.tensorboard = d.boolean();
  c.metrics.prometheus = d.boolean();
  c.schedule.policy = d.choice<SchedulePolicy>(9);
  c.schedule.executor = d.choice<ExecutorChoice>(4);
  return c;
}

TEST_CASE("a config survives the way through the schema and through text") {
  for (std::uint64_t seed = 0; seed < 200; ++seed) {
    INFO("seed " << seed);
    const RunConfig config = random_config(seed);
    REQUIRE(from_proto(to_proto(config)) == config);
    REQUIRE(parse_config(to_text(config), "text") == config);
  }
}

// Counts the value fields of `message` that are absent, below every group.
int absent_fields(const google::protobuf::Message& message) {
  int absent = 0;
  for (int i = 0; i < message.GetDescriptor()->field_count(); ++i) {
    const auto* field = message.GetDescriptor()->field(i);
    if (field->is_repeated())
      absent += message.GetReflection()->FieldSize(message, field) == 0;
    else if (!message.GetReflection()->HasField(message, field))
      ++absent;
    else if (field->message_type() != nullptr)
      absent += absent_fields(message.GetReflection()->GetMessage(message, field));
  }
  return absent;
}

TEST_CASE("every field of the schema has a counterpart in the structs") {
  RunConfig config;
  config.data.train = config.data.val = config.model.moe.gate_options = {"x"};
  CHECK(absent_fields(to_proto(config)) == 0);
  CHECK(absent_fields(config::RunConfig()) == 8);  // the count itself counts
}

TEST_CASE("every enum value of the schema has a counterpart") {
  const auto* file = config::RunConfig::descriptor()->file();
  int values = 0;
  for (int i = 0; i < file->message_type_count(); ++i) {
    const auto* type = file->message_type(i);
    for (int j = 0; j < type->field_count(); ++j) {
      const auto* field = type->field(j);
      for (int k = 0; field->enum_type() != nullptr && k < field->enum_type()->value_count(); ++k, ++values) {
        config::RunConfig message;  // reach the group that has the field
        google::protobuf::Message* group = &message;
        if (type->name() == "ModelConfig") group = message.mutable_model();
        if (type->name() == "MoeConfig") group = message.mutable_model()->mutable_moe();
        if (type->name() == "TrainConfig") group = message.mutable_train();
        if (type->name() == "OptimizerConfig") group = message.mutable_train()->mutable_optimizer();
        if (type->name() == "ParallelConfig") group = message.mutable_parallel();
        if (type->name() == "ScheduleConfig") group = message.mutable_schedule();
        INFO(field->full_name() << " = " << field->enum_type()->value(k)->name());
        REQUIRE(group->GetDescriptor() == type);
        group->GetReflection()->SetEnum(group, field, field->enum_type()->value(k));
        const config::RunConfig back = to_proto(from_proto(message));
        const google::protobuf::Message* same = &back;
        if (type->name() == "ModelConfig") same = &back.model();
        if (type->name() == "MoeConfig") same = &back.model().moe();
        if (type->name() == "TrainConfig") same = &back.train();
        if (type->name() == "OptimizerConfig") same = &back.train().optimizer();
        if (type->name() == "ParallelConfig") same = &back.parallel();
        if (type->name() == "ScheduleConfig") same = &back.schedule();
        CHECK(same->GetReflection()->GetEnum(*same, field) == field->enum_type()->value(k));
      }
    }
  }
  CHECK(values == 2 + 3 + 2 + 4 + 3 + 3 + 3 + 3 + 9 + 4 + 3);
}

TEST_CASE("a dtype that configs do not have cannot be written") {
  RunConfig config;
  config.train.dtype = DType::kI64;
  CHECK_THROWS_AS(to_proto(config), Error);
}

}  // namespace
}  // namespace weft::tools
