// tools/config/loader.h - from a config file and --set options to a parallel::RunConfig, strictly.
// Precedence: defaults of the structs < the file < --set, in the order given.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "parallel/train/run_config.h"

namespace google::protobuf {
class Message;
}

namespace weft::tools {

/// Fills `message` from protobuf text format, strictly: an unknown field, a wrong type, a field given twice or nesting
/// beyond 32 throws Error{kInvalidArgument} with `origin`, line and column.
void parse_text_proto(std::string_view text, std::string_view origin, google::protobuf::Message& message);

/// Reads `path`, applies `sets` ("path.to.field=value") and finds the data files (find_data_file). Checks no values:
/// see require_valid. Throws Error{kIo} for a file that cannot be read, Error{kInvalidArgument}, with file, line and
/// column, for an unknown field, a wrong type, a field given twice or too deep nesting, and for a bad --set.
[[nodiscard]] parallel::RunConfig load_config(const std::string& path, std::span<const std::string> sets = {});

/// As load_config, for text at hand; `origin` stands for the file's name in messages.
[[nodiscard]] parallel::RunConfig parse_config(std::string_view text, std::string_view origin,
                                               std::span<const std::string> sets = {});

/// The whole config as text that load_config reads back to an equal struct: what a run stores.
[[nodiscard]] std::string to_text(const parallel::RunConfig& config);

/// Throws Error{kInvalidArgument} that names every problem of running `config` on `world_size` ranks
/// (parallel::validate).
void require_valid(const parallel::RunConfig& config, int world_size);

/// `path` itself when it is absolute or found from the current folder; else the first of the folders of `config_path`,
/// from its own one upwards, that has it; else `path` unchanged (whoever opens it reports that it is missing).
[[nodiscard]] std::string find_data_file(const std::string& path, const std::string& config_path);

}  // namespace weft::tools
