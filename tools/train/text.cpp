#include "tools/train/text.h"

#include <array>
#include <cmath>
#include <cstdio>
#include <cstring>

namespace weft::tools {

std::string fixed(double value, int digits) {
  char text[64];
  std::snprintf(text, sizeof text, "%.*f", digits, value);
  return text[0] == '-' && std::strpbrk(text, "123456789in") == nullptr ? text + 1 : text;
}

std::string counted(std::int64_t count, const std::string& word) {
  return std::to_string(count) + " " + word + (count == 1 ? "" : "s");
}

std::string human_bytes(double bytes) {
  constexpr std::array<const char*, 5> kUnits{"B", "KiB", "MiB", "GiB", "TiB"};
  std::size_t unit = 0;
  while (bytes >= 1024.0 && unit + 1 < kUnits.size()) {
    bytes /= 1024.0;
    ++unit;
  }
  return fixed(bytes, unit == 0 ? 0 : 1) + " " + kUnits[unit];
}

std::string human_count(double count) {
  if (count >= 1e9) return fixed(count / 1e9, 2) + "B";
  if (count >= 1e6) return fixed(count / 1e6, 2) + "M";
  if (count >= 1e3) return fixed(count / 1e3, 1) + "k";
  return fixed(count, 0);
}

std::string human_seconds(double seconds) {
  const auto total = static_cast<long>(std::lround(seconds));
  char text[32];
  if (total < 60)
    std::snprintf(text, sizeof text, "%lds", total);
  else if (total < 3600)
    std::snprintf(text, sizeof text, "%ldm%02lds", total / 60, total % 60);
  else
    std::snprintf(text, sizeof text, "%ldh%02ldm", total / 3600, total / 60 % 60);
  return text;
}

}  // namespace weft::tools
