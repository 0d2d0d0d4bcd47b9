// tools/train/text.h - numbers as people read them.
#pragma once

#include <cstdint>
#include <string>

namespace weft::tools {

[[nodiscard]] std::string human_bytes(double bytes);        ///< "61.2 MiB"
[[nodiscard]] std::string human_count(double count);        ///< "38.2k", "1.20M"
[[nodiscard]] std::string human_seconds(double seconds);    ///< "3m04s", "2h10m"
[[nodiscard]] std::string fixed(double value, int digits);  ///< printf's %.*f, with no minus before zeros alone.
/// "1 rank", "4 ranks"; word: whose plural has an s more.
[[nodiscard]] std::string counted(std::int64_t count, const std::string& word);

}  // namespace weft::tools
