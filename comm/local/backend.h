// comm/local/backend.h - communicators of ranks that are threads of this process.
#pragma once

#include <memory>

#include "comm/communicator.h"
#include "comm/local/group.h"

namespace weft::comm::local {

/// Rank `rank` of `group`, which belongs to `job`.
[[nodiscard]] std::unique_ptr<Communicator> make_communicator(std::shared_ptr<Job> job, std::shared_ptr<Group> group,
                                                              int rank, int size, std::string name);

}  // namespace weft::comm::local
