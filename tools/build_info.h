// tools/build_info.h - facts that CMake knows about this build.
#pragma once

namespace weft::tools {

struct BuildInfo {
  const char* version;     ///< "0.1.0"
  const char* build_type;  ///< "Release", "Debug"
  const char* compiler;    ///< "GNU 12.2.0"
  const char* flags;       ///< Of the instruction set and the sanitizers; may be empty.
  bool mpi, cuda, nccl;    ///< Backends in this build.
};

[[nodiscard]] const BuildInfo& build_info();

/// The text of configs/weft.proto, comments included.
[[nodiscard]] const char* schema_text();

/// The text of configs/clusters/nominal_cpu.textproto.
[[nodiscard]] const char* nominal_costs_text();

}  // namespace weft::tools
