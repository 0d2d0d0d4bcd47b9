// core/error.h - the one exception of the library, and the check that raises it.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>

namespace weft {

/// What a caller can do about it. Sorted from "fix the call" to "give the run up".
enum class ErrorCode {
  kInvalidArgument,  ///< The call or the config is wrong: shapes, counts, values. Not retried.
  kUnavailable,      ///< This build or this machine lacks the backend or device asked for.
  kOutOfMemory,      ///< Host or device memory. The step can be retried smaller.
  kIo,               ///< A file is missing, damaged or cannot be written.
  kDevice,           ///< A CUDA call failed. The context may be lost.
  kComm,             ///< A peer, a link, MPI or NCCL failed. The communicator is dead: abort() it.
  kTimeout,          ///< A collective passed its deadline; as kComm.
  kNonFinite,        ///< The loss or the gradient norm is NaN or infinite.
  kInternal,         ///< A bug of ours.
};

[[nodiscard]] std::string_view to_string(ErrorCode code) noexcept;

/// Streams its arguments into one string. Plain <sstream>, so that .cu files can use it (fmt does not compile there).
template <class... Args>
[[nodiscard]] std::string str(const Args&... args) {
  std::ostringstream out;
  (out << ... << args);
  return out.str();
}

/// message() is for users: what is wrong and where. hint(), when not empty, says what to do about it.
/// what() reads "kComm: MPI_Alltoallv: rank 3 is gone [comm/mpi/mpi_communicator.cpp:88]".
class Error : public std::runtime_error {
 public:
  Error(ErrorCode code, std::string_view message, std::string_view hint = {}, const char* file = __builtin_FILE(),
        int line = __builtin_LINE());
  [[nodiscard]] ErrorCode code() const noexcept { return code_; }
  [[nodiscard]] const std::string& message() const noexcept { return message_; }
  [[nodiscard]] const std::string& hint() const noexcept { return hint_; }

 private:
  ErrorCode code_;
  std::string message_;
  std::string hint_;
};

}  // namespace weft

/// Precondition, checked in every build. The values that broke it go into the message:
/// WEFT_CHECK(counts.size() == size, "send_counts: ", counts.size(), " entries for ", size, " ranks");
#define WEFT_CHECK(condition, ...)                                                                            \
  do {                                                                                                        \
    if (!(condition)) throw ::weft::Error(::weft::ErrorCode::kInvalidArgument, ::weft::str(__VA_ARGS__), {}); \
  } while (false)
