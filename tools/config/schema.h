// tools/config/schema.h - the paths of a config ("train.optimizer.lr"): what they mean, how a --set option sets one.
#pragma once

#include <google/protobuf/message.h>

#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace weft::tools {

/// One field that holds a value (not a group of fields).
struct FieldHelp {
  std::string path;           ///< "train.optimizer.lr"
  std::string type;           ///< "int32", "double", "COSINE | LINEAR", "list of string", ...
  std::string default_value;  ///< As --set takes it.
  std::string comment;        ///< From configs/weft.proto; for an enum, with one line for each value.
};

/// The fields at or below `path` ("" for all), in the order of the schema. Throws Error{kInvalidArgument}, naming the
/// nearest path, when there is none.
[[nodiscard]] std::vector<FieldHelp> explain(std::string_view path);

/// Sets one field for each "path=value". A list takes values separated by commas, and further options for the same list
/// append; together they replace what `message` had. Throws Error{kInvalidArgument} for an unknown path (naming the
/// nearest), a path of a group, or a value of the wrong type.
void apply_sets(google::protobuf::Message& message, std::span<const std::string> sets);

/// The candidate with the fewest edits from `word`, or "" when all are far away (more than half of its letters).
[[nodiscard]] std::string nearest(std::string_view word, std::span<const std::string> candidates);

}  // namespace weft::tools
