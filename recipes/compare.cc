// `lapidary compare`: the results of several `eval --json` runs side by side, as a table and as an
// HTML page; of two runs of a task, record by record.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "autograd/base/error.h"
#include "autograd/base/file.h"
#include "recipes/commands.h"
#include "train/evaluation/results.h"
#include "train/svg_plot.h"

namespace lapidary {
namespace {

using Json = nlohmann::ordered_json;

// One column of the table: a run and which of its figures.
struct Row {
  std::string name;
  std::map<std::string, double> shares;  // modality -> share of right answers; "all"
};

Row ReadRow(const std::string& spec) {
  const size_t equals = spec.find('=');
  LAPIDARY_CHECK(equals != std::string::npos && equals > 0,
                 "compare: a row must be NAME=FILE.json or NAME=FILE.json:swapped; got ", spec);
  std::string path = spec.substr(equals + 1);
  const std::string mark = ":swapped";
  const bool swapped =
      path.size() > mark.size() && path.compare(path.size() - mark.size(), mark.size(), mark) == 0;
  if (swapped) path.resize(path.size() - mark.size());
  const Json json = Json::parse(ReadFile(path, 1 << 28), nullptr, false);
  const char* key = swapped ? "answers_swapped_media" : "answers";
  LAPIDARY_CHECK(json.is_object() && json.contains(key), path,
                 ": must be the output of `lapidary eval --json ",
                 swapped ? "--swap-media" : "--answers", "`; got no '", key, "'");
  Row row{spec.substr(0, equals), {}};
  for (const auto& [modality, share] : json[key]["by_modality"].items())
    row.shares[modality] = share.value("accuracy", 0.0);
  return row;
}

std::vector<std::string> Modalities(const std::vector<Row>& rows) {
  std::vector<std::string> names;
  for (const char* known : {"text", "image", "audio", "video"}) {
    for (const Row& row : rows) {
      if (row.shares.count(known) && std::find(names.begin(), names.end(), known) == names.end())
        names.push_back(known);
    }
  }
  for (const Row& row : rows) {
    for (const auto& [name, share] : row.shares) {
      if (std::find(names.begin(), names.end(), name) == names.end()) names.push_back(name);
    }
  }
  return names;
}

std::string Percent(const Row& row, const std::string& modality) {
  const auto it = row.shares.find(modality);
  if (it == row.shares.end()) return "-";
  char text[32];
  std::snprintf(text, sizeof(text), "%.1f %%", 100 * it->second);
  return text;
}

std::string Html(const std::string& title, const std::vector<Row>& rows,
                 const std::vector<std::string>& modalities) {
  std::string html =
      StrCat("<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><title>", HtmlText(title),
             "</title>\n<style>body{font:16px system-ui,sans-serif;margin:3em "
             "auto;max-width:60em;color:#222}"
             "table{border-collapse:collapse}th,td{padding:.5em "
             "1em;text-align:right;border-bottom:1px solid #ddd}"
             "th:first-child,td:first-child{text-align:left}td{position:relative}"
             "i{position:absolute;left:0;bottom:0;height:4px;background:#3a7}</style>\n<h1>",
             HtmlText(title),
             "</h1>\n<p>Share of right answers to held-out questions.</p>\n<table><tr><th></th>");
  for (const std::string& m : modalities) html += StrCat("<th>", HtmlText(m), "</th>");
  html += "</tr>\n";
  for (const Row& row : rows) {
    html += StrCat("<tr><td>", HtmlText(row.name), "</td>");
    for (const std::string& m : modalities) {
      const auto it = row.shares.find(m);
      const double width = it == row.shares.end() ? 0 : 100 * it->second;
      html += StrCat("<td>", Percent(row, m), "<i style=\"width:", width, "%\"></i></td>");
    }
    html += "</tr>\n";
  }
  return html + "</table></html>\n";
}

struct CompareArgs {
  std::vector<std::string> rows;
  std::string html, title = "Held-out answers";
  bool json = false;
};

// NAME=FILE.json whose file holds a task's results.
std::optional<EvalResults> TaskResults(const std::string& spec) {
  const size_t equals = spec.find('=');
  const std::string path = equals == std::string::npos ? "" : spec.substr(equals + 1);
  if (path.empty() || !std::filesystem::exists(path)) return std::nullopt;
  const std::string text = ReadFile(path, 1 << 28);
  const Json json = Json::parse(text, nullptr, false);
  if (!json.is_object() || !json.contains("task")) return std::nullopt;
  return ReadResults(text, path);
}

void CompareTasks(const CompareArgs& args, const EvalResults& first, const EvalResults& second) {
  LAPIDARY_CHECK(args.html.empty(),
                 "compare: --html must be with results of `eval --answers`; got "
                 "results of a task");
  const std::vector<ResultsPair> pairs = CompareResults(first, second, {});
  const auto name = [](const std::string& spec) { return spec.substr(0, spec.find('=')); };
  if (args.json) {
    std::printf("%s\n", ResultsPairJson(pairs).dump(1).c_str());
  } else {
    std::fputs(ResultsPairText(pairs, name(args.rows[0]), name(args.rows[1])).c_str(), stdout);
  }
}

void RunCompare(const CompareArgs& args) {
  if (args.rows.size() == 2) {
    const std::optional<EvalResults> first = TaskResults(args.rows[0]),
                                     second = TaskResults(args.rows[1]);
    if (first && second) return CompareTasks(args, *first, *second);
  }
  std::vector<Row> rows;
  for (const std::string& spec : args.rows) rows.push_back(ReadRow(spec));
  const std::vector<std::string> modalities = Modalities(rows);
  if (!args.html.empty()) WriteFile(args.html, Html(args.title, rows, modalities));
  if (args.json) {
    Json table = Json::object();
    for (const Row& row : rows) table[row.name] = row.shares;
    std::printf("%s\n", table.dump(1).c_str());
    return;
  }
  size_t width = 8;
  for (const Row& row : rows) width = std::max(width, row.name.size());
  std::printf("%-*s", static_cast<int>(width), "");
  for (const std::string& m : modalities) std::printf("  %9s", m.c_str());
  std::printf("\n");
  for (const Row& row : rows) {
    std::printf("%-*s", static_cast<int>(width), row.name.c_str());
    for (const std::string& m : modalities) std::printf("  %9s", Percent(row, m).c_str());
    std::printf("\n");
  }
}

}  // namespace

void AddCompare(CLI::App& cli) {
  CLI::App* app =
      cli.add_subcommand("compare", "results of several `eval` runs side by side, with tests");
  auto args = std::make_shared<CompareArgs>();
  app->add_option(
         "rows", args->rows,
         "NAME=FILE.json, or NAME=FILE.json:swapped for the answers with swapped media; two "
         "files of `eval --task --out`: paired by record")
      ->required();
  app->add_option("--html", args->html, "write a page too");
  app->add_option("--title", args->title, "of the page")->capture_default_str();
  app->add_flag("--json", args->json, "print JSON");
  app->footer("example: lapidary compare before=base.json after=tuned.json");
  app->callback([args] { RunCompare(*args); });
}

}  // namespace lapidary
