// tests/tools/run_weft.h - the built command, as a user runs it.
#pragma once

#include <sys/wait.h>

#include <array>
#include <cstdio>
#include <stdexcept>
#include <string>
#include <vector>

namespace weft::test {

struct CommandResult {
  int status = -1;     ///< Exit status; -1 when it was killed.
  std::string output;  ///< Standard output.
  std::string errors;  ///< Standard error.
};

inline std::string quote(const std::string& word) {
  std::string out = "'";
  for (const char c : word) out += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return out + "'";
}

inline std::string drain(std::FILE* pipe) {
  std::string out;
  std::array<char, 4096> buffer;
  while (const std::size_t n = std::fread(buffer.data(), 1, buffer.size(), pipe)) out.append(buffer.data(), n);
  return out;
}

/// `weft words...`; errors pass through a file in `scratch`, a folder.
inline CommandResult run_weft(const std::vector<std::string>& words, const std::string& scratch) {
  std::string line = quote(WEFT_BINARY);
  for (const std::string& word : words) line += " " + quote(word);
  const std::string errors = scratch + "/stderr";
  std::FILE* pipe = ::popen((line + " 2>" + quote(errors)).c_str(), "r");
  if (pipe == nullptr) throw std::runtime_error("popen failed");
  CommandResult result;
  result.output = drain(pipe);
  const int status = ::pclose(pipe);
  if (WIFEXITED(status)) result.status = WEXITSTATUS(status);
  if (std::FILE* file = std::fopen(errors.c_str(), "r")) {
    result.errors = drain(file);
    std::fclose(file);
  }
  return result;
}

}  // namespace weft::test
