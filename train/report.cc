#include "train/report.h"

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <tuple>

#include "autograd/base/error.h"
#include "autograd/base/file.h"
#include "train/page.h"
#include "train/progress.h"
#include "train/run_card.h"
#include "train/svg_plot.h"

namespace lapidary {
namespace {

using Json = nlohmann::ordered_json;

std::string Percent(double share) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.1f %%", 100 * share);
  return text;
}

std::string CardHtml(const std::string& value, const std::string& what) {
  return StrCat("<div class=\"card\"><b>", HtmlText(value), "</b><span>", HtmlText(what),
                "</span></div>\n");
}

PlotSeries Series(const Json& log, const char* key, const char* name, const char* color,
                  double scale = 1) {
  PlotSeries series = {name, color, {}, false};
  for (const Json& line : log) {
    if (!line.contains(key) || !line[key].is_number()) continue;
    series.points.emplace_back(line.value("step", 0.0), line[key].get<double>() * scale);
  }
  return series;
}

std::string Plots(const Json& log) {
  PlotSeries eval = Series(log, "eval_loss", "held-out", "#d9730d");
  eval.dots = true;
  std::string html = "<h2>Training</h2>\n<div class=\"plots\">\n";
  html +=
      PlotSvg({"Loss (nats a token)", "step", {Series(log, "loss", "training", "#2f6fed"), eval}});
  html += PlotSvg(
      {"Learning rate", "step", {Series(log, "learning_rate", "learning rate", "#7a5af8")}, true});
  html += PlotSvg({"Gradient norm, before clipping",
                   "step",
                   {Series(log, "grad_norm", "norm", "#c4320a")},
                   true});
  html += PlotSvg(
      {"Tokens a second", "step", {Series(log, "tokens_per_s", "tokens/s", "#12805c")}, true});
  html += PlotSvg({"Memory (MB)",
                   "step",
                   {Series(log, "peak_memory_bytes", "process peak", "#475467", 1e-6),
                    Series(log, "arena_high_water_bytes", "step memory", "#2f6fed", 1e-6)},
                   true});
  return html + "</div>\n";
}

const Json* FirstEval(const Json& log) {
  for (const Json& line : log) {
    if (line.contains("eval_loss")) return &line;
  }
  return nullptr;
}
const Json* LastEval(const Json& log) {
  for (auto line = log.rbegin(); line != log.rend(); ++line) {
    if (line->contains("eval_loss")) return &*line;
  }
  return nullptr;
}

std::string HeldOut(const Json& before, const Json& after) {
  std::string html = StrCat(
      "<h2>Held-out data</h2>\n<div class=\"wide\"><table><tr><th>kind</th><th "
      "class=\"n\">records</th>"
      "<th class=\"n\">loss before</th><th class=\"n\">after</th>"
      "<th class=\"n\">perplexity before</th><th class=\"n\">after</th>"
      "<th class=\"n\">token accuracy before</th><th class=\"n\">after</th></tr>\n");
  const auto row = [&](const std::string& name, const Json& b, const Json& a,
                       const std::string& prefix) {
    const auto get = [&](const Json& j, const char* key) { return j.value(prefix + key, 0.0); };
    html += StrCat("<tr><td>", HtmlText(name), "</td>");
    html += StrCat("<td class=\"n\">", CountText(static_cast<int64_t>(get(a, "records"))), "</td>");
    for (const char* key : {"loss", "perplexity"}) {
      html += StrCat("<td class=\"n\">", NumberText(get(b, key)), "</td><td class=\"n\">",
                     NumberText(get(a, key)), "</td>");
    }
    html += StrCat("<td class=\"n\">", Percent(get(b, "token_accuracy")), "</td><td class=\"n\">",
                   Percent(get(a, "token_accuracy")), "</td></tr>\n");
  };
  row("all", before, after, "eval_");
  const Json empty = Json::object();
  const Json kinds = after.value("eval_by_modality", empty);
  const Json earlier = before.value("eval_by_modality", empty);
  for (const auto& [name, counts] : kinds.items()) {
    row(name, earlier.contains(name) ? earlier.at(name) : empty, counts, "");
  }
  return html + "</table></div>\n";
}

std::string Answers(const Json& before, const Json& after) {
  const Json none = Json::object();
  const Json old_answers = before.value("eval_answers", none).value("answers", Json::array());
  const Json new_answers = after.value("eval_answers", none).value("answers", Json::array());
  if (new_answers.empty()) return "";
  std::string html =
      "<h2>Answers</h2>\n<div "
      "class=\"wide\"><table><tr><th>record</th><th>question</th><th>expected</th>"
      "<th>before</th><th>after</th></tr>\n";
  for (size_t i = 0; i < new_answers.size(); ++i) {
    const Json& answer = new_answers[i];
    std::string earlier;
    for (const Json& old : old_answers) {
      if (old.value("where", "") == answer.value("where", "")) earlier = old.value("got", "");
    }
    html += StrCat("<tr><td><code>", HtmlText(answer.value("where", "")), "</code><br>",
                   HtmlText(answer.value("modality", "")), "</td><td>",
                   HtmlText(answer.value("question", "")), "</td><td>",
                   HtmlText(answer.value("expected", "")), "</td><td>", HtmlText(earlier),
                   "</td><td class=\"", answer.value("correct", false) ? "good" : "bad", "\">",
                   HtmlText(answer.value("got", "")), "</td></tr>\n");
  }
  return html + "</table></div>\n";
}

// A path with its hash, a list of them, or JSON.
std::string CardValue(const Json& value) {
  if (value.is_string()) return HtmlText(value.get<std::string>());
  if (value.is_object() && value.contains("sha256")) {
    return StrCat(HtmlText(value.value("path", "")), "<br>SHA-256 ",
                  HtmlText(value.value("sha256", "")),
                  value.value("whole", true) ? "" : " (of the first megabyte of each file)");
  }
  std::string html;
  if (value.is_array()) {
    for (const Json& item : value) html += (html.empty() ? "" : "<br>") + CardValue(item);
    return html;
  }
  return HtmlText(value.dump(-1, ' ', false, Json::error_handler_t::replace));
}

// An object as a table.
std::string Table(const Json& object) {
  std::string html = "<table>";
  for (const auto& [key, value] : object.items()) {
    html += StrCat("<tr><th>", HtmlText(key), "</th><td><code>", CardValue(value),
                   "</code></td></tr>\n");
  }
  return html + "</table>\n";
}

// What passed through training: counts, files and lengths.
std::string Data(const Json& data) {
  if (!data.is_object() || data.value("samples", int64_t{0}) == 0) return "";
  const auto n = [&](const char* key) { return data.value(key, int64_t{0}); };
  std::string html = "<h2>Data</h2>\n<div class=\"cards\">\n";
  html += CardHtml(CountText(n("samples")), "samples trained on (repeats count)");
  html += CardHtml(CountText(n("tokens")), "tokens");
  html += CardHtml(Percent(static_cast<double>(n("trained_tokens")) /
                           static_cast<double>(std::max<int64_t>(1, n("tokens")))),
                   "of them are targets");
  html += CardHtml(CountText(n("longest")), "tokens in the longest sample");
  for (const auto& [media, tokens, name] : {std::tuple{"images", "vision_tokens", "pictures"},
                                            std::tuple{"sounds", "sound_tokens", "sounds"},
                                            std::tuple{"videos", "vision_tokens", "clips"}}) {
    if (n(media) > 0) {
      html += CardHtml(CountText(n(media)),
                       StrCat(name, ", soft tokens of the kind: ", CountText(n(tokens))));
    }
  }
  html += "</div>\n<div class=\"plots\">\n";
  PlotSeries lengths = {"samples", "#2f6fed", {}, true};
  for (const Json& bin : data.value("lengths", Json::array())) {
    lengths.points.emplace_back(bin.at(0).get<double>(), bin.at(1).get<double>());
  }
  html += PlotSvg({"Samples by length", "tokens", {lengths}, true}) + "</div>\n";
  html += "<div class=\"wide\"><table><tr><th>file</th><th class=\"n\">samples</th></tr>\n";
  size_t shown = 0;
  const Json files = data.value("files", Json::object());
  for (const auto& [file, count] : files.items()) {
    if (++shown > 50) break;
    html += StrCat("<tr><td><code>", HtmlText(file), "</code></td><td class=\"n\">",
                   CountText(count.get<int64_t>()), "</td></tr>\n");
  }
  html += "</table></div>\n";
  if (files.size() > 50) html += StrCat("<p>", files.size() - 50, " more files</p>\n");
  return html;
}

// Text is escaped everywhere: these stand once.
constexpr char kCardBegin[] = "<!-- run card -->\n";
constexpr char kCardEnd[] = "<!-- end of run card -->\n";

double LastValue(const Json& log, const char* key) {
  for (auto line = log.rbegin(); line != log.rend(); ++line) {
    if (line->contains(key) && (*line)[key].is_number()) return (*line)[key].get<double>();
  }
  return 0;
}

}  // namespace

std::string ReportHtml(const TrainConfig& config, const TrainSummary& summary, const Json& card) {
  const Json& log = summary.log;
  std::string html = PageHead(config.output_dir,
                              StrCat(config.lora ? StrCat(config.lora->use_dora ? "DoRA" : "LoRA",
                                                          " of rank ", config.lora->r)
                                                 : std::string("Full fine-tuning"),
                                     " of <code>", HtmlText(config.model_name_or_path), "</code>",
                                     summary.interrupted ? ", interrupted" : "")) +
                     "<div class=\"cards\">\n";
  html += CardHtml(StrCat(CountText(summary.steps), " / ", CountText(summary.total_steps)),
                   "optimizer steps");
  html += CardHtml(NumberText(LastValue(log, "loss")), "last training loss");
  if (LastEval(log)) html += CardHtml(NumberText(LastValue(log, "eval_loss")), "held-out loss");
  html += CardHtml(CountText(summary.tokens), "tokens");
  html += CardHtml(NumberText(LastValue(log, "tokens_per_s")), "tokens a second");
  html += CardHtml(ClockText(summary.seconds), "time");
  html += CardHtml(StrCat(CountText(summary.trainable)), "trainable parameters");
  html += CardHtml(Percent(static_cast<double>(summary.trainable) /
                           static_cast<double>(std::max<int64_t>(1, summary.parameters))),
                   "of all parameters");
  html += "</div>\n" + Plots(log);
  const Json* before = FirstEval(log);
  const Json* after = LastEval(log);
  if (before && after) html += HeldOut(*before, *after) + Answers(*before, *after);
  html += Data(summary.data);
  if (!summary.warnings.empty()) {
    html += StrCat("<h2>Warnings</h2>\n<p>", summary.warnings.size(), " in all</p><ul>");
    for (size_t i = 0; i < summary.warnings.size() && i < 20; ++i) {
      html += "<li>" + HtmlText(summary.warnings[i]) + "</li>";
    }
    html += "</ul>\n";
  }
  html +=
      "<h2>Run card</h2>\n<p>What is needed to make this run again; run_card.json holds the "
      "same.</p>\n" +
      StrCat(kCardBegin, Table(card), kCardEnd);
  html += "<h2>Configuration</h2>\n<pre>" + HtmlText(TrainConfigText(config)) + "</pre>\n";
  return html + PageEnd();
}

std::string WithRunCard(const std::string& html, const Json& card) {
  const size_t begin = html.find(kCardBegin), end = html.find(kCardEnd);
  if (begin == std::string::npos || end == std::string::npos || end < begin) return html;
  return html.substr(0, begin) + kCardBegin + Table(card) + html.substr(end);
}

void WriteReport(const std::string& path, const TrainConfig& config, const TrainSummary& summary) {
  Json card = RunCard(config, summary);
  const std::string card_path =
      (std::filesystem::path(path).parent_path() / "run_card.json").string();
  if (std::filesystem::is_regular_file(card_path)) {
    const Json before = Json::parse(ReadFile(card_path), nullptr, false);
    if (before.is_object() && before.contains("exports") && before.contains("result") &&
        before.at("result") == card.at("result")) {
      card["exports"] = before.at("exports");
    }
  }
  WriteFile(path, ReportHtml(config, summary, card));
  WriteFile(card_path, card.dump(2) + "\n");
}

}  // namespace lapidary
