#include "train/page.h"

#include <cctype>

#include "autograd/base/error.h"
#include "train/svg_plot.h"

namespace lapidary {
namespace {

constexpr char kStyle[] = R"(
:root { color-scheme: light dark; --ink: #1c2430; --soft: #667085; --line: #e4e7ec;
  --back: #ffffff; --card: #f8f9fb; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ef; --soft: #98a2b3; --line: #2d3541; --back: #12161c; --card: #1a2028; } }
* { box-sizing: border-box; }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--back);
  max-width: 1080px; margin: 2rem auto; padding: 0 1rem; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; margin: 0 0 .2rem; } h2 { font-size: 1.15rem; margin: 2rem 0 .6rem; }
p.sub { color: var(--soft); } p.verdict, .card, svg, pre { background: var(--card);
  border: 1px solid var(--line); border-radius: 10px; }
p.verdict { padding: .7rem .9rem; font-weight: 600; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: .7rem; }
.card { padding: .7rem .9rem; } .card b { display: block; font-size: 1.25rem; }
.card span { color: var(--soft); font-size: .85rem; }
.plots { display: grid; gap: .8rem;
  grid-template-columns: repeat(auto-fit, minmax(min(440px, 100%), 1fr)); }
svg { width: 100%; height: auto; } svg .grid { stroke: var(--line); }
svg .title { font-size: 14px; font-weight: 600; fill: var(--ink); }
svg .tick { font-size: 11px; fill: var(--soft); }
table { border-collapse: collapse; width: 100%; }
th { text-align: left; color: var(--soft); font-weight: 600; }
th, td { padding: .35rem .6rem; border-bottom: 1px solid var(--line); vertical-align: top; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; }
.wide { overflow-x: auto; } .wide th, .wide td { min-width: 4.5rem; overflow-wrap: break-word;
  white-space: pre-wrap; } .wide td.n { white-space: nowrap; }
.good { color: #12805c; } .bad { color: #c4320a; }
pre { padding: .8rem; overflow-x: auto; font-size: 13px; } code { font-size: 13px; }
@media (max-width: 600px) { body { margin: 1rem auto; } th, td { padding: .3rem .4rem; } }
)";

// Digits first, and nothing but what numbers are written with and a unit behind.
bool IsNumber(const std::string& text) {
  if (text.empty() || text.size() > 40) return text == "-";
  if (text == "-") return true;
  const bool starts = std::isdigit(static_cast<unsigned char>(text[0])) != 0 ||
                      ((text[0] == '+' || text[0] == '-') && text.size() > 1);
  return starts && text.find_first_not_of("0123456789.,+-e %()tof") == std::string::npos;
}

}  // namespace

std::string PageHead(const std::string& title, const std::string& subtitle,
                     const std::string& head) {
  return StrCat(
      "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">",
      head, "<title>", HtmlText(title), "</title><style>", kStyle, "</style></head><body>\n<h1>",
      HtmlText(title), "</h1>\n<p class=\"sub\">", subtitle, "</p>\n");
}

std::string PageEnd() { return "</body></html>\n"; }

std::string TableHead(const std::vector<std::string>& names) {
  std::string html = "<div class=\"wide\"><table><tr>";
  for (const std::string& name : names) html += StrCat("<th>", HtmlText(name), "</th>");
  return html + "</tr>\n";
}

std::string TableRow(const std::vector<std::string>& cells, const std::string& style) {
  std::string html = style.empty() ? "<tr>" : StrCat("<tr class=\"", style, "\">");
  for (const std::string& cell : cells)
    html += StrCat(IsNumber(cell) ? "<td class=\"n\">" : "<td>", HtmlText(cell), "</td>");
  return html + "</tr>\n";
}

std::string TableEnd() { return "</table></div>\n"; }

}  // namespace lapidary
