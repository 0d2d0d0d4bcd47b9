// tools/config/proto_convert.h - between the schema of config files and the structs that the library takes.
#pragma once

#include "configs/weft.pb.h"
#include "parallel/train/run_config.h"

namespace weft::tools {

/// The defaults of parallel::RunConfig, overridden by the fields that are present in `message`.
[[nodiscard]] parallel::RunConfig from_proto(const config::RunConfig& message);

/// Every field is present in the result, so that a printed config says all there is. from_proto(to_proto(x)) == x.
[[nodiscard]] config::RunConfig to_proto(const parallel::RunConfig& config);

}  // namespace weft::tools
