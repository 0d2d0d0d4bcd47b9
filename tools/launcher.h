// tools/launcher.h - what mpirun, srun and the like say about this process, before and without MPI_Init.
#pragma once

#include <optional>

namespace weft::tools {

struct Launch {
  int rank = 0;
  int num_ranks = 1;
};
/// Nothing when no launcher started this process.
[[nodiscard]] std::optional<Launch> find_launch();

}  // namespace weft::tools
