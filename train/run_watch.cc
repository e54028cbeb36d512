#include "train/run_watch.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <limits>
#include <nlohmann/json.hpp>

#include "autograd/base/error.h"
#include "autograd/base/file.h"
#include "train/page.h"
#include "train/progress.h"
#include "train/svg_plot.h"

namespace lapidary {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

constexpr size_t kRecent = 20;  // lines that the speed is taken from

double Number(const Json& line, const char* key, double otherwise) {
  return line.contains(key) && line[key].is_number() ? line[key].get<double>() : otherwise;
}

void Put(const Json& line, const char* key, Curve* curve) {
  if (line.contains(key) && line[key].is_number()) {
    curve->emplace_back(Number(line, "step", 0), line[key].get<double>());
  }
}

// What training_config.json and the epochs so far say of the number of steps; 0 if nothing.
int64_t TotalSteps(const std::string& folder, const RunView& view) {
  const std::string path = folder + "/training_config.json";
  std::error_code none;
  if (!fs::exists(path, none)) return 0;
  const Json config = Json::parse(ReadFile(path), nullptr, false);
  if (!config.is_object()) return 0;
  const double steps = Number(config, "max_steps", -1);
  if (steps > 0 && steps < 1e15) return static_cast<int64_t>(steps);
  if (view.step <= 0 || !(view.epoch > 0)) return 0;
  const double total =
      static_cast<double>(view.step) / view.epoch * Number(config, "num_train_epochs", 1);
  return total < 1e15 ? std::llround(std::ceil(total - 1e-6)) : 0;
}

std::string Cut(const std::string& text, int columns) {
  return static_cast<int>(text.size()) <= columns ? text
                                                  : text.substr(0, static_cast<size_t>(columns));
}

// U+2800 + dots, in UTF-8.
std::string Braille(int dots) {
  const int code = 0x2800 + dots;
  return {static_cast<char>(0xe0 | code >> 12), static_cast<char>(0x80 | (code >> 6 & 0x3f)),
          static_cast<char>(0x80 | (code & 0x3f))};
}

}  // namespace

double RunView::SecondsLeft() const {
  if (finished) return 0;
  if (total_steps <= 0 || !(seconds_per_step > 0)) {
    return std::numeric_limits<double>::quiet_NaN();
  }
  return seconds_per_step * static_cast<double>(std::max<int64_t>(0, total_steps - step));
}

RunView ReadRun(const std::string& folder) {
  const std::string path = folder + "/metrics.jsonl";
  LAPIDARY_CHECK(fs::exists(path), path,
                 ": must exist; got nothing; try the output_dir of a run that has begun");
  RunView view;
  view.folder = folder;
  const std::string text = ReadFile(path);
  std::vector<double> seconds, steps;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = text.find('\n', begin);
    if (end == std::string::npos) break;
    const Json line = Json::parse(text.substr(begin, end - begin), nullptr, false);
    begin = end + 1;
    if (!line.is_object()) continue;
    Put(line, "loss", &view.loss);
    Put(line, "eval_loss", &view.eval_loss);
    Put(line, "learning_rate", &view.learning_rate);
    Put(line, "grad_norm", &view.grad_norm);
    Put(line, "tokens_per_s", &view.tokens_per_s);
    const double step = Number(line, "step", 0);
    if (line.contains("loss")) {
      seconds.push_back(Number(line, "seconds", 0));
      steps.push_back(step);
    }
    if (std::abs(step) < 1e15) view.step = std::max(view.step, static_cast<int64_t>(step));
    view.epoch = Number(line, "epoch", view.epoch);
    const double tokens = Number(line, "num_tokens", static_cast<double>(view.tokens));
    if (std::abs(tokens) < 1e18) view.tokens = static_cast<int64_t>(tokens);
    view.peak_memory_bytes = Number(line, "peak_memory_bytes", view.peak_memory_bytes);
  }
  if (!steps.empty()) {
    const size_t first = steps.size() > kRecent ? steps.size() - kRecent : 0;
    double sum = 0;
    for (size_t i = first; i < seconds.size(); ++i) sum += seconds[i];
    const double count = steps.back() - (first > 0 ? steps[first - 1] : 0);
    if (count > 0) view.seconds_per_step = sum / count;
  }
  view.total_steps = TotalSteps(folder, view);
  std::error_code none;
  const auto grown = fs::last_write_time(path, none);
  view.age_s = std::max(
      0.0, std::chrono::duration<double>(fs::file_time_type::clock::now() - grown).count());
  const std::string report = folder + "/report.html";
  view.finished = fs::exists(report, none) && fs::last_write_time(report, none) >= grown &&
                  view.total_steps > 0 && view.step >= view.total_steps;
  return view;
}

std::string DrawCurve(const Curve& curve, int columns, int rows) {
  double low = INFINITY, high = -INFINITY, left = INFINITY, right = -INFINITY;
  for (const auto& [x, y] : curve) {
    if (!std::isfinite(x) || !std::isfinite(y)) continue;
    low = std::min(low, y), high = std::max(high, y);
    left = std::min(left, x), right = std::max(right, x);
  }
  if (!(low <= high) || columns < 12 || rows < 1) return "  no values yet\n";
  constexpr int kLabel = 10;
  const int width = 2 * (columns - kLabel), height = 4 * rows;
  std::vector<int> cells(static_cast<size_t>(width / 2 * rows), 0);
  // Dots of a cell: two columns of four, numbered 1 2 3 7 and 4 5 6 8.
  static constexpr int kDots[2][4] = {{0x01, 0x02, 0x04, 0x40}, {0x08, 0x10, 0x20, 0x80}};
  const auto dot = [&](int x, int y) {
    cells[static_cast<size_t>(y / 4 * (width / 2) + x / 2)] |= kDots[x % 2][y % 4];
  };
  const auto row_of = [&](double y) {
    const double share = high > low ? (high - y) / (high - low) : 0.5;
    return std::clamp(static_cast<int>(std::lround(share * (height - 1))), 0, height - 1);
  };
  int last_x = -1, last_y = 0;
  for (const auto& [px, py] : curve) {
    if (!std::isfinite(px) || !std::isfinite(py)) continue;
    const double share = right > left ? (px - left) / (right - left) : 0;
    const int x = std::clamp(static_cast<int>(std::lround(share * (width - 1))), 0, width - 1);
    const int y = row_of(py);
    if (last_x < 0) last_x = x, last_y = y;
    const int span = std::max({1, std::abs(x - last_x), std::abs(y - last_y)});
    for (int i = 0; i <= span; ++i)
      dot(last_x + (x - last_x) * i / span, last_y + (y - last_y) * i / span);
    last_x = x, last_y = y;
  }
  std::string text;
  for (int row = 0; row < rows; ++row) {
    for (int column = 0; column < width / 2; ++column) {
      text += Braille(cells[static_cast<size_t>(row * (width / 2) + column)]);
    }
    if (row == 0) text += " " + NumberText(high);
    if (row == rows - 1 && rows > 1) text += " " + NumberText(low);
    text += "\n";
  }
  return text;
}

std::string WatchHtml(const RunView& view, int refresh_s) {
  const std::string total = view.total_steps > 0 ? CountText(view.total_steps) : "?";
  const std::string left = view.finished ? std::string("finished")
                                         : ClockText(view.SecondsLeft()) + " left, last line " +
                                               ClockText(view.age_s) + " ago";
  std::string html = PageHead(view.folder,
                              StrCat("step ", CountText(view.step), " of ", total, ", ", left, ", ",
                                     BytesText(view.peak_memory_bytes)),
                              view.finished ? std::string()
                                            : StrCat("<meta http-equiv=\"refresh\" content=\"",
                                                     refresh_s, "\">")) +
                     "<div class=\"plots\">\n";
  html += PlotSvg(
      {"Loss (nats a token)",
       "step",
       {{"training", "#2f6fed", view.loss, false}, {"held-out", "#d9730d", view.eval_loss, true}}});
  html += PlotSvg({"Gradient norm", "step", {{"norm", "#c4320a", view.grad_norm, false}}, true});
  html +=
      PlotSvg({"Learning rate", "step", {{"rate", "#7a5af8", view.learning_rate, false}}, true});
  html += PlotSvg(
      {"Tokens a second", "step", {{"tokens/s", "#12805c", view.tokens_per_s, false}}, true});
  return html + "</div>" + PageEnd();
}

std::string WatchText(const RunView& view, int columns, int rows) {
  columns = std::clamp(columns, 20, 500);
  const auto last = [](const Curve& curve) {
    return curve.empty() ? std::string("-") : NumberText(curve.back().second);
  };
  const std::string total = view.total_steps > 0 ? CountText(view.total_steps) : "?";
  std::string text = Cut(view.folder, columns) + "\n";
  text +=
      Cut(StrCat("step ", CountText(view.step), " of ", total, " | ",
                 view.finished ? std::string("finished")
                               : StrCat(ClockText(view.SecondsLeft()), " left"),
                 " | ", last(view.tokens_per_s), " tokens/s | ", BytesText(view.peak_memory_bytes)),
          columns) +
      "\n";
  if (!view.finished) {
    text += Cut(StrCat("last line ", ClockText(view.age_s), " ago"), columns) + "\n";
  }
  struct Panel {
    const char* name;
    const Curve* curve;
  };
  const Panel panels[] = {{"loss", &view.loss},
                          {"held-out loss", &view.eval_loss},
                          {"gradient norm", &view.grad_norm},
                          {"learning rate", &view.learning_rate}};
  int shown = 0;
  for (const Panel& panel : panels) shown += !panel.curve->empty();
  const int each = std::clamp((rows - 4) / std::max(1, shown) - 1, 2, 10);
  for (const Panel& panel : panels) {
    if (panel.curve->empty()) continue;
    text +=
        StrCat(panel.name, ": ", last(*panel.curve), "\n") + DrawCurve(*panel.curve, columns, each);
  }
  return text;
}

}  // namespace lapidary
