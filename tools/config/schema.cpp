#include "tools/config/schema.h"

#include <google/protobuf/compiler/parser.h>
#include <google/protobuf/descriptor.h>
#include <google/protobuf/descriptor.pb.h>
#include <google/protobuf/io/tokenizer.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>
#include <google/protobuf/text_format.h>

#include <algorithm>
#include <charconv>
#include <cstring>
#include <functional>
#include <numeric>
#include <set>

#include "core/error.h"
#include "parallel/moe/gate_registry.h"
#include "tools/build_info.h"
#include "tools/config/proto_convert.h"

namespace weft::tools {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::DescriptorPool;
using google::protobuf::EnumDescriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;

std::string joined(const std::string& prefix, const std::string& name) {
  return prefix.empty() ? name : prefix + "." + name;
}

/// Calls visit(path, field) for each field that holds a value, depth first, in the order of the schema.
void walk(const Descriptor& type, const std::string& prefix,
          const std::function<void(const std::string&, const FieldDescriptor&)>& visit) {
  for (int i = 0; i < type.field_count(); ++i) {
    const FieldDescriptor& field = *type.field(i);
    const std::string path = joined(prefix, field.name());
    if (field.message_type() != nullptr)
      walk(*field.message_type(), path, visit);
    else
      visit(path, field);
  }
}

std::vector<std::string> value_paths(const Descriptor& root) {
  std::vector<std::string> paths;
  walk(root, "", [&](const std::string& path, const FieldDescriptor&) { paths.push_back(path); });
  return paths;
}

std::vector<std::string> enum_names(const EnumDescriptor& type) {
  std::vector<std::string> names;
  for (int i = 0; i < type.value_count(); ++i) names.push_back(type.value(i)->name());
  return names;
}

std::string join(const std::vector<std::string>& words, std::string_view separator) {
  std::string out;
  for (const std::string& word : words) out.append(out.empty() ? "" : separator).append(word);
  return out;
}

[[noreturn]] void throw_unknown_path(std::string_view path, const Descriptor& root) {
  const std::string guess = nearest(path, value_paths(root));
  throw Error(ErrorCode::kInvalidArgument, str("a config has no field '", path, "'"),
              guess.empty() ? "weft config explain lists the fields" : "did you mean '" + guess + "'?");
}

// The compiled descriptors have no comments, so the schema's text is parsed once more, for explain() alone.
class CommentedSchema {
 public:
  CommentedSchema() {
    const char* text = schema_text();
    google::protobuf::io::ArrayInputStream stream(text, static_cast<int>(std::strlen(text)));
    google::protobuf::io::Tokenizer tokenizer(&stream, nullptr);
    google::protobuf::FileDescriptorProto file;
    file.set_name("configs/weft.proto");
    const google::protobuf::FileDescriptor* built =
        google::protobuf::compiler::Parser().Parse(&tokenizer, &file) ? pool_.BuildFile(file) : nullptr;
    if (built == nullptr) throw Error(ErrorCode::kInternal, "the built-in schema does not parse");
    root_ = built->FindMessageTypeByName("RunConfig");
  }
  const Descriptor& root() const { return *root_; }

 private:
  DescriptorPool pool_;
  const Descriptor* root_ = nullptr;
};

template <class T>
std::string comment_of(const T& element) {
  google::protobuf::SourceLocation location;
  if (!element.GetSourceLocation(&location)) return {};
  std::string text;
  for (char c : location.leading_comments)  // "// A line" arrives as " A line\n"
    if (c != ' ' || (!text.empty() && text.back() != '\n')) text.push_back(c);
  while (!text.empty() && text.back() == '\n') text.pop_back();
  std::replace(text.begin(), text.end(), '\n', ' ');
  return text;
}

// The gates are known by their registry: a line for each, or for each option of each.
std::string comment_of_gates(bool options) {
  std::string text;
  for (const parallel::GateEntry& gate : parallel::gate_registry()) {
    if (!options) text += str("\n", gate.name, ": ", gate.summary);
    for (const parallel::GateOption& o : options ? gate.options : std::vector<parallel::GateOption>{})
      text += str("\n", gate.name, ": ", o.name, "=", o.default_value, ": ", o.summary);
  }
  return text;
}

std::string comment_with_values(const FieldDescriptor& field) {
  std::string text = comment_of(field);
  if (field.full_name() == "weft.config.MoeConfig.gate") text += comment_of_gates(false);
  if (field.full_name() == "weft.config.MoeConfig.gate_options") text += comment_of_gates(true);
  if (field.enum_type() == nullptr) return text;
  for (int i = 0; i < field.enum_type()->value_count(); ++i) {
    const auto& value = *field.enum_type()->value(i);
    text += "\n" + value.name() + ": " + comment_of(value);
  }
  return text;
}

std::string type_name(const FieldDescriptor& field) {
  const std::string name =
      field.enum_type() != nullptr ? join(enum_names(*field.enum_type()), " | ") : std::string(field.cpp_type_name());
  return field.is_repeated() ? "list of " + name : name;
}

// The field at `path` of `message` and the message that holds it, or {} when there is none.
struct Place {
  Message* owner = nullptr;
  const FieldDescriptor* field = nullptr;
};

Place locate(Message& root, std::string_view path) {
  Message* owner = &root;
  for (;;) {
    const std::size_t dot = path.find('.');
    const FieldDescriptor* field = owner->GetDescriptor()->FindFieldByName(std::string(path.substr(0, dot)));
    if (field == nullptr || dot == std::string_view::npos) return {owner, field};
    if (field->message_type() == nullptr) return {};
    owner = owner->GetReflection()->MutableMessage(owner, field);
    path.remove_prefix(dot + 1);
  }
}

std::string printed_value(Message& root, const std::string& path) {
  const auto [owner, field] = locate(root, path);
  const auto print = [&, owner = owner, field = field](int index) {
    std::string text;
    google::protobuf::TextFormat::PrintFieldValueToString(*owner, field, index, &text);
    if (field->cpp_type() == FieldDescriptor::CPPTYPE_STRING) text = text.substr(1, text.size() - 2);
    return text;
  };
  if (!field->is_repeated()) return print(-1);
  std::vector<std::string> values;
  for (int i = 0; i < owner->GetReflection()->FieldSize(*owner, field); ++i) values.push_back(print(i));
  return join(values, ",");
}

// One --set option, for its error messages.
struct Assignment {
  std::string_view path, value;

  [[noreturn]] void refuse(const std::string& expected) const {
    throw Error(ErrorCode::kInvalidArgument, str("--set ", path, ": '", value, "' is not ", expected),
                str("weft config explain ", path));
  }
};

template <class T>
T parse_number(const Assignment& set, const char* expected) {
  T out{};
  const char* end = set.value.data() + set.value.size();
  const auto [stop, error] = std::from_chars(set.value.data(), end, out);
  if (error != std::errc{} || stop != end) set.refuse(expected);
  return out;
}

bool parse_bool(const Assignment& set) {
  std::string word(set.value);
  std::transform(word.begin(), word.end(), word.begin(), [](unsigned char c) { return std::tolower(c); });
  if (word == "true" || word == "1" || word == "on" || word == "yes") return true;
  if (word == "false" || word == "0" || word == "off" || word == "no") return false;
  set.refuse("true or false");
}

void set_scalar(const Place& place, const Assignment& set) {
  const auto& reflection = *place.owner->GetReflection();
  switch (place.field->cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT32:
      return reflection.SetInt32(place.owner, place.field,
                                 parse_number<std::int32_t>(set, "a whole number of at most 32 bits"));
    case FieldDescriptor::CPPTYPE_UINT64:
      return reflection.SetUInt64(place.owner, place.field,
                                  parse_number<std::uint64_t>(set, "a whole number of at least 0"));
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return reflection.SetDouble(place.owner, place.field, parse_number<double>(set, "a number"));
    case FieldDescriptor::CPPTYPE_BOOL:
      return reflection.SetBool(place.owner, place.field, parse_bool(set));
    case FieldDescriptor::CPPTYPE_STRING:
      return reflection.SetString(place.owner, place.field, std::string(set.value));
    case FieldDescriptor::CPPTYPE_ENUM: {
      std::string name(set.value);
      std::transform(name.begin(), name.end(), name.begin(), [](unsigned char c) { return std::toupper(c); });
      const auto* value = place.field->enum_type()->FindValueByName(name);
      if (value == nullptr) set.refuse("one of " + join(enum_names(*place.field->enum_type()), ", "));
      return reflection.SetEnum(place.owner, place.field, value);
    }
    default:
      throw Error(ErrorCode::kInternal, str("--set cannot set ", place.field->full_name()));
  }
}

void append_list(const Place& place, const Assignment& set) {
  if (place.field->cpp_type() != FieldDescriptor::CPPTYPE_STRING)
    throw Error(ErrorCode::kInternal, str("--set cannot set the list ", place.field->full_name()));
  for (std::string_view rest = set.value; !rest.empty();) {
    const std::size_t comma = std::min(rest.find(','), rest.size());
    if (comma > 0)
      place.owner->GetReflection()->AddString(place.owner, place.field, std::string(rest.substr(0, comma)));
    rest.remove_prefix(std::min(comma + 1, rest.size()));
  }
}

}  // namespace

std::string nearest(std::string_view word, std::span<const std::string> candidates) {
  std::string best;
  std::size_t best_edits = word.size() / 2 + 1;
  for (const std::string& candidate : candidates) {  // Levenshtein distance, row by row
    std::vector<std::size_t> row(candidate.size() + 1);
    std::iota(row.begin(), row.end(), std::size_t{0});
    for (std::size_t i = 1; i <= word.size(); ++i) {
      std::size_t diagonal = std::exchange(row[0], i);
      for (std::size_t j = 1; j <= candidate.size(); ++j) {
        const std::size_t substitute = diagonal + (word[i - 1] == candidate[j - 1] ? 0 : 1);
        diagonal = row[j];
        row[j] = std::min({substitute, row[j] + 1, row[j - 1] + 1});
      }
    }
    // "experts" for "model.moe.experts" is nearer than its letters say
    const bool tail = candidate.size() > word.size() && candidate.ends_with(str(".", word));
    const std::size_t edits = tail ? 1 : row.back();
    if (edits < best_edits) best_edits = edits, best = candidate;
  }
  return best;
}

std::vector<FieldHelp> explain(std::string_view path) {
  const CommentedSchema schema;
  config::RunConfig defaults = to_proto({});
  std::vector<FieldHelp> help;
  walk(schema.root(), "", [&](const std::string& name, const FieldDescriptor& field) {
    const bool below =
        name.size() > path.size() && name.starts_with(path) && (path.empty() || name[path.size()] == '.');
    if (name == path || below)
      help.push_back({name, type_name(field), printed_value(defaults, name), comment_with_values(field)});
  });
  if (help.empty()) throw_unknown_path(path, schema.root());
  return help;
}

void apply_sets(Message& message, std::span<const std::string> sets) {
  std::set<std::string, std::less<>> replaced_lists;
  for (const std::string& option : sets) {
    const std::size_t equals = option.find('=');
    if (equals == std::string::npos || equals == 0)
      throw Error(ErrorCode::kInvalidArgument, str("--set ", option, ": not of the form path.to.field=value"),
                  "for example --set train.steps=100");
    const Assignment set{std::string_view(option).substr(0, equals), std::string_view(option).substr(equals + 1)};
    const Place place = locate(message, set.path);
    if (place.field == nullptr) throw_unknown_path(set.path, *message.GetDescriptor());
    if (place.field->message_type() != nullptr)
      throw Error(
          ErrorCode::kInvalidArgument, str("--set ", set.path, ": this is a group of fields"),
          str("set one of them, e.g. --set ", set.path, ".", place.field->message_type()->field(0)->name(), "=..."));
    if (!place.field->is_repeated()) {
      set_scalar(place, set);
    } else {
      if (replaced_lists.insert(std::string(set.path)).second)
        place.owner->GetReflection()->ClearField(place.owner, place.field);
      append_list(place, set);
    }
  }
}

}  // namespace weft::tools
