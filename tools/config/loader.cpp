#include "tools/config/loader.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/io/tokenizer.h>
#include <google/protobuf/text_format.h>

#include <algorithm>
#include <filesystem>
#include <optional>

#include "core/atomic_file.h"
#include "core/error.h"
#include "tools/config/proto_convert.h"
#include "tools/config/schema.h"

namespace weft::tools {
namespace {

namespace fs = std::filesystem;

constexpr int kMaxNesting = 32;                    // the schema needs 3; the parser has no limit of its own
constexpr std::int64_t kMaxConfigBytes = 1 << 20;  // a config is a page; more is another file given by mistake

// Keeps the first thing that the parser complains about. Lines and columns arrive counted from 0.
class FirstComplaint : public google::protobuf::io::ErrorCollector {
 public:
  struct Entry {
    int line = 0, column = 0;
    std::string message;
  };
  void AddError(int line, int column, const std::string& message) override {
    if (!first_) first_ = Entry{line + 1, column + 1, message};
  }
  const std::optional<Entry>& first() const { return first_; }

 private:
  std::optional<Entry> first_;
};

struct Complaint {
  std::string message, hint;
  std::string word;  // what it is about, when that stands before the place that the parser names
};

// The index-th part of `text` that stands between double quotes.
std::string quoted(const std::string& text, int index) {
  std::size_t begin = text.find('"');
  for (; index > 0 && begin != std::string::npos; --index) begin = text.find('"', text.find('"', begin + 1) + 1);
  return begin == std::string::npos ? "" : text.substr(begin + 1, text.find('"', begin + 1) - begin - 1);
}

// Where the fields of a message are written down.
std::string where_fields_are(const google::protobuf::Message& message) {
  const std::string& file = message.GetDescriptor()->file()->name();
  return file == "configs/weft.proto" ? "weft config explain lists the fields and their types"
                                      : str("this should be a ", message.GetDescriptor()->name(), " of ", file);
}

// The parser's words for what happens most, put as our users would.
Complaint explain_parse_error(const std::string& text, const google::protobuf::Message& message) {
  if (text.find("has no field named") != std::string::npos) {  // Message type "X" has no field named "Y".
    const auto* type = google::protobuf::DescriptorPool::generated_pool()->FindMessageTypeByName(quoted(text, 0));
    std::vector<std::string> names;
    for (int i = 0; type != nullptr && i < type->field_count(); ++i) names.push_back(type->field(i)->name());
    const std::string guess = nearest(quoted(text, 1), names);
    return {str("unknown field '", quoted(text, 1), "'"),
            guess.empty() ? where_fields_are(message) : str("did you mean '", guess, "'?"), quoted(text, 1)};
  }
  if (text.find("is specified multiple times") != std::string::npos) {  // Non-repeated field "Y" is specified ...
    const std::string full = quoted(text, 0);
    const std::string name = full.substr(full.rfind('.') + 1);
    return {str("field '", name, "' is given twice"), "keep one of the two", name};
  }
  const bool at_end = text.ends_with("got: ");
  return {at_end ? "the file ends inside a group; a '}' or a value is missing" : text, where_fields_are(message), ""};
}

// The parser names the place after a word. This moves `entry` to where `word` begins.
void point_at(const std::string& word, std::string_view text, FirstComplaint::Entry& entry) {
  std::size_t offset = 0;
  for (int line = 1; line < entry.line && offset < text.size(); ++line) offset = text.find('\n', offset) + 1;
  offset += static_cast<std::size_t>(entry.column) - 1;
  if (word.empty() || offset < word.size()) return;
  const std::size_t begin = text.rfind(word, offset - word.size());
  if (begin == std::string_view::npos) return;
  const std::string_view before = text.substr(0, begin);
  entry.line = 1 + static_cast<int>(std::count(before.begin(), before.end(), '\n'));
  entry.column = static_cast<int>(begin - (before.rfind('\n') + 1)) + 1;  // npos + 1 == 0: the first line
}

bool is_data_file(const fs::path& path) {
  std::error_code ignored;
  return fs::exists(path, ignored) || fs::exists(path.string() + ".bin", ignored);
}

}  // namespace

void parse_text_proto(std::string_view text, std::string_view origin, google::protobuf::Message& message) {
  FirstComplaint errors;
  google::protobuf::TextFormat::Parser parser;  // refuses unknown fields and repeated scalars unless told otherwise
  parser.RecordErrorsTo(&errors);
  parser.SetRecursionLimit(kMaxNesting);
  if (parser.ParseFromString(std::string(text), &message) && !errors.first()) return;
  auto entry = errors.first().value_or(FirstComplaint::Entry{1, 1, "not a config in protobuf text format"});
  const Complaint complaint = explain_parse_error(entry.message, message);
  point_at(complaint.word, text, entry);
  throw Error(ErrorCode::kInvalidArgument, str(origin, ":", entry.line, ":", entry.column, ": ", complaint.message),
              complaint.hint);
}

parallel::RunConfig parse_config(std::string_view text, std::string_view origin, std::span<const std::string> sets) {
  config::RunConfig message;
  parse_text_proto(text, origin, message);
  apply_sets(message, sets);
  return from_proto(message);
}

parallel::RunConfig load_config(const std::string& path, std::span<const std::string> sets) {
  parallel::RunConfig config = parse_config(read_file(path, kMaxConfigBytes), path, sets);
  for (auto* files : {&config.data.train, &config.data.val})
    for (std::string& file : *files) file = find_data_file(file, path);
  config.schedule.profile = find_data_file(config.schedule.profile, path);
  config.schedule.plan = find_data_file(config.schedule.plan, path);
  return config;
}

std::string to_text(const parallel::RunConfig& config) {
  std::string text;
  google::protobuf::TextFormat::PrintToString(to_proto(config), &text);
  return "# proto-file: configs/weft.proto\n# proto-message: weft.config.RunConfig\n\n" + text;
}

void require_valid(const parallel::RunConfig& config, int world_size) {
  const std::vector<std::string> problems = parallel::validate(config, world_size);
  if (problems.empty()) return;
  std::string text = problems.front();
  for (std::size_t i = 1; i < problems.size(); ++i) text += "; " + problems[i];
  throw Error(ErrorCode::kInvalidArgument,
              problems.size() == 1 ? text : str(problems.size(), " problems in the config: ", text),
              "change the config, or use --set path.to.field=value; weft config explain says what a field means");
}

std::string find_data_file(const std::string& path, const std::string& config_path) {
  if (path.empty() || fs::path(path).is_absolute() || is_data_file(path)) return path;
  std::error_code error;
  fs::path folder = fs::absolute(config_path, error).lexically_normal().parent_path();
  for (; !error; folder = folder.parent_path()) {
    if (is_data_file(folder / path)) return (folder / path).string();
    if (folder == folder.root_path() || folder.empty()) break;
  }
  return path;
}

}  // namespace weft::tools
