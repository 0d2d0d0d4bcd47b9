#include "tools/config/proto_convert.h"

#include <google/protobuf/descriptor.h>

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/error.h"

namespace weft::tools {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;

// Names of an enum's values in the schema; the position is the value of our enum class.
using Names = std::span<const std::string_view>;
constexpr std::string_view kFamilies[] = {"MIXTRAL", "GPT2_MOE"};
constexpr std::string_view kBalanceScopes[] = {"ROUTING_GROUP", "GLOBAL_PREVIOUS", "GLOBAL_RUNNING"};
constexpr std::string_view kBalanceForms[] = {"PER_LAYER", "HUGGING_FACE"};
constexpr std::string_view kLrSchedules[] = {"CONSTANT", "COSINE", "LINEAR", "WSD"};
constexpr std::string_view kDTypes[] = {"F32", "F64", "BF16"};
constexpr std::string_view kRecomputes[] = {"NONE", "SELECTIVE", "FULL"};
constexpr std::string_view kPolicies[] = {
    "MANUAL", "SEQUENTIAL", "TUTEL", "TUTEL_IMPROVED", "PIPEMOE_LINA", "FSMOE_NO_IIO", "FSMOE", "FLOWMOE", "WEFT"};
constexpr std::string_view kExecutors[] = {"AUTO", "INLINE", "STREAMS", "CUDA_GRAPH"};
constexpr std::string_view kPaddings[] = {"IF_FASTER", "NEVER", "ALWAYS"};
constexpr std::string_view kDevices[] = {"AUTO", "CPU", "CUDA"};
constexpr std::string_view kDispatchers[] = {"ALL_TO_ALL", "HIERARCHICAL_1D", "HIERARCHICAL_2D"};

// The fields of each struct, once, for both directions: `visit` is a Reader or a Writer.
template <class Visit>
void fields(Visit visit, parallel::MoeConfig& c) {
  visit("experts", c.experts);
  visit("top_k", c.top_k);
  visit("capacity_factor", c.capacity_factor);
  visit("gate", c.gate);
  visit("gate_options", c.gate_options);
  visit("renormalize", c.renormalize);
  visit("balance_loss_coef", c.balance_loss_coef);
  visit("balance_scope", c.balance_scope, kBalanceScopes);
  visit("balance_form", c.balance_form, kBalanceForms);
  visit("z_loss_coef", c.z_loss_coef);
  visit("group_sequences", c.group_sequences);
  visit("allow_noncausal", c.allow_noncausal);
}

template <class Visit>
void fields(Visit visit, parallel::ModelConfig& c) {
  visit("family", c.family, kFamilies);
  visit("layers", c.layers);
  visit("model_dim", c.model_dim);
  visit("expert_hidden_dim", c.expert_hidden_dim);
  visit("dense_hidden_dim", c.dense_hidden_dim);
  visit("heads", c.heads);
  visit("kv_heads", c.kv_heads);
  visit("head_dim", c.head_dim);
  visit("vocab_size", c.vocab_size);
  visit("max_positions", c.max_positions);
  visit("rope_theta", c.rope_theta);
  visit("norm_eps", c.norm_eps);
  visit("init_std", c.init_std);
  visit("tie_embeddings", c.tie_embeddings);
  visit("layer_pattern", c.layer_pattern);
  visit.group("moe", c.moe);
}

template <class Visit>
void fields(Visit visit, parallel::OptimizerConfig& c) {
  visit("lr", c.lr);
  visit("min_lr_ratio", c.min_lr_ratio);
  visit("warmup_steps", c.warmup_steps);
  visit("schedule", c.schedule, kLrSchedules);
  visit("wsd_decay_fraction", c.wsd_decay_fraction);
  visit("beta1", c.beta1);
  visit("beta2", c.beta2);
  visit("eps", c.eps);
  visit("weight_decay", c.weight_decay);
  visit("clip_norm", c.clip_norm);
}

template <class Visit>
void fields(Visit visit, parallel::TrainConfig& c) {
  visit("steps", c.steps);
  visit("global_batch", c.global_batch);
  visit("micro_batch", c.micro_batch);
  visit("sequence_length", c.sequence_length);
  visit("seed", c.seed);
  visit("dtype", c.dtype, kDTypes);
  visit.group("optimizer", c.optimizer);
  visit("validate_every", c.validate_every);
  visit("validate_sequences", c.validate_sequences);
  visit("recompute", c.recompute, kRecomputes);
  visit("time_limit_s", c.time_limit_s);
}

template <class Visit>
void fields(Visit visit, parallel::ParallelConfig& c) {
  visit("expert", c.expert);
  visit("expert_shard", c.expert_shard);
  visit("sequence_heads", c.sequence_heads);
  visit("sequence_ring", c.sequence_ring);
  visit("zero", c.zero);
  visit("dispatcher", c.dispatcher, kDispatchers);
  visit("device", c.device, kDevices);
  visit("intra_node_ctas", c.intra_node_ctas);
  visit("inter_node_ctas", c.inter_node_ctas);
}

template <class Visit>
void fields(Visit visit, parallel::DataConfig& c) {
  visit("train", c.train);
  visit("val", c.val);
  visit("attend_across_documents", c.attend_across_documents);
  visit("end_of_text", c.end_of_text);
}

template <class Visit>
void fields(Visit visit, parallel::CheckpointConfig& c) {
  visit("every", c.every);
  visit("keep", c.keep);
}

template <class Visit>
void fields(Visit visit, parallel::ScheduleConfig& c) {
  visit("policy", c.policy, kPolicies);
  visit("executor", c.executor, kExecutors);
  visit("plan", c.plan);
  visit("memory_limit_mib", c.memory_limit_mib);
  visit("forward_chunks", c.forward_chunks);
  visit("backward_chunks", c.backward_chunks);
  visit("weight_grad_pieces", c.weight_grad_pieces);
  visit("gradient_slices", c.gradient_slices);
  visit("profile", c.profile);
  visit("profile_min_r_squared", c.profile_min_r_squared);
  visit("pad_capacity", c.pad_capacity, kPaddings);
  visit("replan", c.replan);
}

template <class Visit>
void fields(Visit visit, parallel::MetricsConfig& c) {
  visit("router_every", c.router_every);
  visit("tensorboard", c.tensorboard);
  visit("prometheus", c.prometheus);
}

template <class Visit>
void fields(Visit visit, parallel::RunConfig& c) {
  visit("name", c.name);
  visit.group("model", c.model);
  visit.group("train", c.train);
  visit.group("parallel", c.parallel);
  visit.group("data", c.data);
  visit.group("checkpoint", c.checkpoint);
  visit.group("schedule", c.schedule);
  visit.group("metrics", c.metrics);
}

// A field of `message` by name. The lists above and the schema disagree only by a bug of ours, which the tests find.
const FieldDescriptor& find(const Message& message, const char* name) {
  const FieldDescriptor* field = message.GetDescriptor()->FindFieldByName(name);
  if (field == nullptr) throw Error(ErrorCode::kInternal, str("configs/weft.proto has no field '", name, "'"));
  return *field;
}

// Takes over what is present in the message.
class Reader {
 public:
  explicit Reader(const Message& message) : message_(message), reflection_(*message.GetReflection()) {}

  void operator()(const char* name, int& out) { read(name, out, &Reflection::GetInt32); }
  void operator()(const char* name, std::uint64_t& out) { read(name, out, &Reflection::GetUInt64); }
  void operator()(const char* name, double& out) { read(name, out, &Reflection::GetDouble); }
  void operator()(const char* name, bool& out) { read(name, out, &Reflection::GetBool); }
  void operator()(const char* name, std::string& out) { read(name, out, &Reflection::GetString); }
  void operator()(const char* name, std::vector<std::string>& out) {
    const FieldDescriptor& field = find(message_, name);
    const int count = reflection_.FieldSize(message_, &field);
    if (count == 0) return;
    out.clear();
    for (int i = 0; i < count; ++i) out.push_back(reflection_.GetRepeatedString(message_, &field, i));
  }
  template <class Enum>
  void operator()(const char* name, Enum& out, Names names) {
    const FieldDescriptor& field = find(message_, name);
    if (!reflection_.HasField(message_, &field)) return;
    const std::string& value = reflection_.GetEnum(message_, &field)->name();
    for (std::size_t i = 0; i < names.size(); ++i)
      if (names[i] == value) return void(out = static_cast<Enum>(i));
    throw Error(ErrorCode::kInternal, str("no counterpart of ", field.full_name(), " = ", value));
  }
  template <class Struct>
  void group(const char* name, Struct& out) {
    const FieldDescriptor& field = find(message_, name);
    if (reflection_.HasField(message_, &field)) fields(Reader(reflection_.GetMessage(message_, &field)), out);
  }

 private:
  using Reflection = google::protobuf::Reflection;

  template <class T, class Get>
  void read(const char* name, T& out, Get get) {
    const FieldDescriptor& field = find(message_, name);
    if (reflection_.HasField(message_, &field)) out = (reflection_.*get)(message_, &field);
  }

  const Message& message_;
  const Reflection& reflection_;
};

// Sets every field of the message.
class Writer {
 public:
  explicit Writer(Message& message) : message_(message), reflection_(*message.GetReflection()) {}

  void operator()(const char* name, int value) { reflection_.SetInt32(&message_, &find(message_, name), value); }
  void operator()(const char* name, std::uint64_t value) {
    reflection_.SetUInt64(&message_, &find(message_, name), value);
  }
  void operator()(const char* name, double value) { reflection_.SetDouble(&message_, &find(message_, name), value); }
  void operator()(const char* name, bool value) { reflection_.SetBool(&message_, &find(message_, name), value); }
  void operator()(const char* name, const std::string& value) {
    reflection_.SetString(&message_, &find(message_, name), value);
  }
  void operator()(const char* name, const std::vector<std::string>& values) {
    for (const std::string& value : values) reflection_.AddString(&message_, &find(message_, name), value);
  }
  template <class Enum>
  void operator()(const char* name, Enum value, Names names) {
    const FieldDescriptor& field = find(message_, name);
    const auto index = static_cast<std::size_t>(value);
    WEFT_CHECK(index < names.size(), field.full_name(), ": value ", index, " cannot stand in a config");
    reflection_.SetEnum(&message_, &field, field.enum_type()->FindValueByName(std::string(names[index])));
  }
  template <class Struct>
  void group(const char* name, Struct& value) {
    fields(Writer(*reflection_.MutableMessage(&message_, &find(message_, name))), value);
  }

 private:
  Message& message_;
  const google::protobuf::Reflection& reflection_;
};

}  // namespace

parallel::RunConfig from_proto(const config::RunConfig& message) {
  parallel::RunConfig config;
  fields(Reader(message), config);
  return config;
}

config::RunConfig to_proto(const parallel::RunConfig& config) {
  config::RunConfig message;
  parallel::RunConfig copy = config;  // the lists above take both directions, so they ask for a mutable struct
  fields(Writer(message), copy);
  return message;
}

}  // namespace weft::tools
