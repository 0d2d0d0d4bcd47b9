#include "core/error.h"

namespace weft {

std::string_view to_string(ErrorCode code) noexcept {
  switch (code) {
    case ErrorCode::kInvalidArgument:
      return "kInvalidArgument";
    case ErrorCode::kUnavailable:
      return "kUnavailable";
    case ErrorCode::kOutOfMemory:
      return "kOutOfMemory";
    case ErrorCode::kIo:
      return "kIo";
    case ErrorCode::kDevice:
      return "kDevice";
    case ErrorCode::kComm:
      return "kComm";
    case ErrorCode::kTimeout:
      return "kTimeout";
    case ErrorCode::kNonFinite:
      return "kNonFinite";
    case ErrorCode::kInternal:
      return "kInternal";
  }
  return "unknown";
}

Error::Error(ErrorCode code, std::string_view message, std::string_view hint, const char* file, int line)
    : std::runtime_error(str(to_string(code), ": ", message, " [", file, ":", line, "]")),
      code_(code),
      message_(message),
      hint_(hint) {}

}  // namespace weft
