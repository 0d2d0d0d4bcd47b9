// tools/report/assets.h - the files of tools/report/assets, which CMake writes into the build.
#pragma once

namespace weft::tools {

[[nodiscard]] const char*
page_frame();  ///< page.html, with {{title}}, {{style}}, {{data}} and {{script}}, in this order.
[[nodiscard]] const char* page_style();   ///< page.css
[[nodiscard]] const char* page_script();  ///< The scripts, one after the other.

}  // namespace weft::tools
