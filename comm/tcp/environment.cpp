// comm/tcp/environment.cpp - which job this process belongs to, by the variables of torchrun, Slurm and Weft.
#include <charconv>
#include <cstdlib>
#include <cstring>

#include "comm/tcp/backend.h"
#include "core/error.h"

namespace weft::comm::tcp {
namespace {

std::string text_of(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? std::string() : value;
}

/// Nothing when the variable is not set.
std::optional<int> number_of(const char* name, int least, int most) {
  const std::string text = text_of(name);
  if (text.empty()) return std::nullopt;
  int value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < least || value > most)
    throw Error(ErrorCode::kInvalidArgument, str(name, "=", text, " is not a number in [", least, ", ", most, "]"));
  return value;
}

constexpr int kMany = 1 << 24, kLastPort = 65535;

bool set_ranks(Options& options, const char* rank_name, const char* size_name) {
  const auto rank = number_of(rank_name, 0, kMany), size = number_of(size_name, 1, kMany);
  if (!rank || !size) return false;
  if (*rank >= *size)
    throw Error(ErrorCode::kInvalidArgument, str(rank_name, "=", *rank, " is not below ", size_name, "=", *size));
  options.rank = *rank;
  options.num_ranks = *size;
  return true;
}

/// "host:port", "[address]:port".
void set_master(Options& options, std::string_view text) {
  const std::size_t colon = text.rfind(':');
  std::string_view host = text.substr(0, colon);
  if (host.starts_with('[') && host.ends_with(']')) host = host.substr(1, host.size() - 2);
  const std::string_view port = colon == std::string_view::npos ? "" : text.substr(colon + 1);
  const auto [end, error] = std::from_chars(port.data(), port.data() + port.size(), options.master_port);
  if (host.empty() || error != std::errc() || end != port.data() + port.size() || options.master_port < 1 ||
      options.master_port > kLastPort)
    throw Error(ErrorCode::kInvalidArgument, str("WEFT_MASTER_ADDR=", text, " is not host:port"));
  options.master_host = host;
}

bool set_master(Options& options) {
  if (const std::string own = text_of("WEFT_MASTER_ADDR"); !own.empty()) {
    set_master(options, own);
    return true;
  }
  options.master_host = text_of("MASTER_ADDR");
  if (const auto port = number_of("MASTER_PORT", 1, kLastPort); port && !options.master_host.empty()) {
    options.master_port = *port;
    return true;
  }
  std::string nodes = text_of("SLURM_STEP_NODELIST");
  if (nodes.empty()) nodes = text_of("SLURM_JOB_NODELIST");
  const auto job = number_of("SLURM_JOB_ID", 0, 0x7fffffff);
  if (nodes.empty() || !job) return false;
  const int step = number_of("SLURM_STEP_ID", 0, 0x7fffffff).value_or(0);
  constexpr int kFirstPort = 20000, kNumPorts = 10000;  // below the ports that systems give to outgoing connections
  options.master_host = first_host(nodes);
  options.master_port = kFirstPort + static_cast<int>((std::int64_t{*job} * 7 + step) % kNumPorts);
  return true;
}

}  // namespace

std::string first_host(std::string_view node_list) {
  const std::size_t end = node_list.find_first_of("[,");
  std::string host(node_list.substr(0, end));
  if (end == std::string_view::npos || node_list[end] == ',') return host;
  const std::string_view inside = node_list.substr(end + 1);
  return host.append(inside.substr(0, inside.find_first_of("-,]")));
}

std::optional<Options> from_environment() {
  Options options;
  const bool asked_for = !text_of("WEFT_MASTER_ADDR").empty();
  const bool torchrun = !text_of("MASTER_ADDR").empty() && !text_of("MASTER_PORT").empty();
  const bool has_ranks = ((asked_for || torchrun) && set_ranks(options, "RANK", "WORLD_SIZE")) ||
                         set_ranks(options, "SLURM_PROCID", "SLURM_STEP_NUM_TASKS") ||
                         (asked_for && set_ranks(options, "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"));
  if (asked_for && !has_ranks)
    throw Error(ErrorCode::kInvalidArgument, "WEFT_MASTER_ADDR is set, but nothing says which rank this is",
                "set RANK and WORLD_SIZE, or start with srun or mpirun");
  if (!has_ranks || options.num_ranks == 1) return std::nullopt;
  if (!set_master(options))
    throw Error(ErrorCode::kUnavailable,
                str("there are ", options.num_ranks, " ranks, and nothing says where rank 0 is"),
                "set WEFT_MASTER_ADDR=host:port on all ranks");
  if (const auto seconds = number_of("WEFT_CONNECT_TIMEOUT_S", 1, 86400))
    options.connect_timeout = std::chrono::seconds(*seconds);
  return options;
}

}  // namespace weft::comm::tcp
