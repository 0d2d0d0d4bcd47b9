#include "tools/launcher.h"

#include <charconv>
#include <cstdlib>
#include <cstring>
#include <initializer_list>

namespace weft::tools {
namespace {

std::optional<int> number_from_environment(std::initializer_list<const char*> names) {
  for (const char* name : names) {
    const char* text = std::getenv(name);
    int value = 0;
    if (text == nullptr) continue;
    if (std::from_chars(text, text + std::strlen(text), value).ec == std::errc{}) return value;
  }
  return std::nullopt;
}

}  // namespace

std::optional<Launch> find_launch() {
  const auto rank = number_from_environment({"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "SLURM_PROCID", "RANK"});
  const auto size = number_from_environment({"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_NTASKS", "WORLD_SIZE"});
  if (!rank && !size) return std::nullopt;
  return Launch{rank.value_or(0), size.value_or(1)};
}

}  // namespace weft::tools
