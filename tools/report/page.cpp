// The page is a frame, a style sheet and scripts (tools/report/assets), with report.json inside.
#include <algorithm>

#include "core/error.h"
#include "tools/report/assets.h"
#include "tools/report/report.h"
#include "tools/train/text.h"

namespace weft::tools {
namespace {

using nlohmann::ordered_json;

std::string escaped(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (c == '&')
      out += "&amp;";
    else if (c == '<')
      out += "&lt;";
    else
      out += c;
  }
  return out;
}

/// JSON that no HTML parser takes for the end of its script element.
std::string inside_script(const ordered_json& value) {
  std::string out;
  for (const char c : value.dump()) {
    if (c == '<')
      out += "\\u003c";
    else
      out += c;
  }
  return out;
}

void replace(std::string& text, const std::string& mark, const std::string& by) {
  const std::size_t at = text.find(mark);
  if (at == std::string::npos) throw Error(ErrorCode::kInternal, "the page's frame lacks " + mark);
  text.replace(at, mark.size(), by);
}

double last(const ordered_json& values) {
  return values.empty() || values.back().is_null() ? 0.0 : values.back().get<double>();
}

}  // namespace

std::string html_page(const ordered_json& report) {
  std::string page = page_frame();
  replace(page, "{{title}}", escaped(report["run"]["name"].get<std::string>()));
  replace(page, "{{style}}", page_style());
  replace(page, "{{data}}", inside_script(report));
  replace(page, "{{script}}", page_script());
  return page;
}

std::vector<std::string> summary_lines(const ordered_json& report) {
  std::vector<std::string> out;
  const ordered_json& run = report["run"];
  const ordered_json& curves = report["curves"];
  out.push_back(str(run["name"].get<std::string>(), ": ", human_count(run["parameters"].get<double>()), " parameters, ",
                    human_count(run["active_parameters"].get<double>()), " active, ", curves["steps"].dump(), " of ",
                    run["steps"].dump(), " steps"));
  if (curves["steps"] == 0) out.push_back("no steps yet: metrics.jsonl has none");
  if (curves["column"].contains("loss")) {
    const ordered_json& loss = curves["column"]["loss"];
    std::string line = str("loss ", fixed(loss.front().get<double>(), 4), " -> ", fixed(last(loss), 4));
    if (!curves["validation"]["loss"].empty())
      line += str(", validation loss ", fixed(last(curves["validation"]["loss"]), 4));
    out.push_back(std::move(line));
  }
  if (!report["stages"].is_null() && !report["stages"]["step"]["error"].is_null()) {
    const ordered_json& step = report["stages"]["step"];
    out.push_back(str("step ", fixed(step["measured_ms"].get<double>(), 2), " ms measured, ",
                      fixed(step["predicted_ms"].get<double>(), 2), " ms predicted (",
                      fixed(100.0 * step["error"].get<double>(), 1), " %)"));
  }
  for (const ordered_json& step : report["timeline"])
    for (const ordered_json& pair : step["overlap"]["pairs"])
      if (!pair["share"].is_null() && pair["ms"].get<double>() > 0.0)
        out.push_back(str(step["name"].get<std::string>(), ": ", pair["a"].get<std::string>(), " and ",
                          pair["b"].get<std::string>(), " at once for ", fixed(pair["ms"].get<double>(), 2), " ms, ",
                          fixed(100.0 * pair["share"].get<double>(), 0), " % of the less used"));
  if (!report["replans"].empty()) {
    const auto changed = [](const ordered_json& look) {
      return look["action"] == "try" || look["action"] == "give_up";
    };
    out.push_back(str("replanning: ", counted(std::ssize(report["replans"]), "look"), ", ",
                      counted(std::count_if(report["replans"].begin(), report["replans"].end(), changed), "change"),
                      " of plan, the last look at step ", report["replans"].back()["step"].dump()));
  }
  if (!report["plan"].is_null())
    for (const ordered_json& words : report["plan"]["words"]) out.push_back("plan: " + words.get<std::string>());
  for (const ordered_json& missing : report["missing"])
    out.push_back(
        str("not recorded: ", missing["what"].get<std::string>(), " (", missing["how"].get<std::string>(), ")"));
  return out;
}

}  // namespace weft::tools
