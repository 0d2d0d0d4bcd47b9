#include "tools/exit_status.h"

#include <fcntl.h>
#include <unistd.h>

#include <cctype>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <thread>

#include "core/rng.h"
#include "tools/launcher.h"

namespace weft::tools {
namespace {

// Ranks of one node agree on who speaks through a file that only one of them can create. It lies in the folder that
// Open MPI makes for the job and removes after it. Elsewhere, every rank speaks for itself.
bool first_to_say(std::string_view text) {
  const char* folder = std::getenv("OMPI_MCA_orte_jobfam_session_dir");
  const char* job = std::getenv("OMPI_MCA_ess_base_jobid");
  if (folder == nullptr) return true;
  const std::string path = str(folder, "/weft-said-", job == nullptr ? "" : job, "-", hash_name(text));
  const int descriptor = open(path.c_str(), O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0600);
  if (descriptor < 0) return errno != EEXIST;
  close(descriptor);
  return true;
}

std::string one_line(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == '\n')
      out += out.ends_with(' ') ? "" : " ";
    else if (std::iscntrl(static_cast<unsigned char>(c)) != 0)
      out += '?';
    else
      out += c;
  }
  return out;
}

}  // namespace

ExitStatus exit_status(ErrorCode code) noexcept {
  switch (code) {
    case ErrorCode::kInvalidArgument:
      return kExitUsage;
    case ErrorCode::kIo:
      return kExitIo;
    case ErrorCode::kTimeout:
      return kExitHang;
    case ErrorCode::kNonFinite:
      return kExitNonFinite;
    case ErrorCode::kUnavailable:
    case ErrorCode::kOutOfMemory:
    case ErrorCode::kDevice:
    case ErrorCode::kComm:
    case ErrorCode::kInternal:
      break;
  }
  return kExitOther;
}

std::string error_lines(std::string_view message, std::string_view hint) {
  std::string out = "error: " + one_line(message) + "\n";
  if (!hint.empty()) out += "hint: " + one_line(hint) + "\n";
  return out;
}

void report_error(std::string_view message, std::string_view hint) {
  const auto [rank, num_ranks] = find_launch().value_or(Launch{});
  const bool several = num_ranks > 1;
  if (several && rank != 0) std::this_thread::sleep_for(std::chrono::milliseconds(300));  // rank 0 goes first
  if (several && !first_to_say(message)) return;
  const std::string who = several && rank != 0 ? str("rank ", rank, ": ") : "";
  const std::string text = error_lines(who + std::string(message), hint);
  std::cerr.write(text.data(),
                  static_cast<std::streamsize>(text.size()));  // whole lines, also when ranks speak at once
  std::cerr.flush();
}

}  // namespace weft::tools
