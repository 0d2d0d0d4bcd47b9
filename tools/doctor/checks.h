// tools/doctor/checks.h - what weft doctor looks at.
#pragma once

#include "comm/communicator.h"
#include "tools/doctor/finding.h"

namespace weft::tools {

/// Processor, memory, limits of this machine.
void check_machine(Findings& findings);
/// GPUs, how they reach one another, and the libraries they need; nothing is wrong with a machine that has none.
void check_gpus(Findings& findings);
/// Collective over `world`: ranks and cores, MPI and the settings of it that cost time, as rank 0 sees them.
void check_ranks(comm::Communicator& world, Findings& findings);
/// Bandwidth of this machine's memory and of its GPUs, against what they should give where that is known.
void probe_memory(Findings& findings);
/// Collective over `world`: bus bandwidth of an all-to-all in each class of links. The same on all ranks.
void probe_links(comm::Communicator& world, Findings& findings);

/// "3.35 TB", "12.5 MB".
[[nodiscard]] std::string bytes_text(double bytes);

}  // namespace weft::tools
