#include "parallel/moe/hooks.h"

namespace weft::parallel {

std::string_view to_string(HookPoint point) noexcept {
  constexpr std::array<std::string_view, kNumHookPoints> kNames{
      "before_moe_start", "before_dispatch", "after_dispatch", "before_combine", "after_combine", "before_moe_end"};
  return kNames[static_cast<std::size_t>(point)];
}

}  // namespace weft::parallel
