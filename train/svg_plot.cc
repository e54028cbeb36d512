#include "train/svg_plot.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>

#include "autograd/base/error.h"
#include "train/progress.h"

namespace lapidary {
namespace {

constexpr double kWidth = 640, kHeight = 260;
constexpr double kLeft = 66, kRight = 12, kTop = 34, kBottom = 34;

struct Axis {
  double low = 0, high = 1, tick = 1;

  double Share(double v) const { return (v - low) / (high - low); }
};

// Round ends and a tick of 1, 2 or 5 times a power of ten, about `count` of them.
Axis RoundAxis(double low, double high, int count) {
  if (!(high > low)) {
    const double pad = low == 0 ? 1 : std::abs(low) * 0.1;
    low -= pad;
    high += pad;
  }
  const double raw = (high - low) / count;
  const double power = std::pow(10, std::floor(std::log10(raw)));
  const double part = raw / power;
  const double tick = power * (part < 1.5 ? 1 : part < 3.5 ? 2 : part < 7.5 ? 5 : 10);
  return {std::floor(low / tick + 1e-9) * tick, std::ceil(high / tick - 1e-9) * tick, tick};
}

std::string Number(double value, const char* format) {
  char text[64];
  std::snprintf(text, sizeof(text), format, value);
  return text;
}

std::string Place(double v) { return Number(v, "%.1f"); }

}  // namespace

std::string HtmlText(const std::string& text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&quot;";
        break;
      default:
        out += c;
    }
  }
  return out;
}

std::string NumberText(double value) {
  if (!std::isfinite(value)) return Number(value, "%g");
  const double size = std::abs(value);
  if (size >= 10000) return CountText(std::llround(value));
  return Number(value, size != 0 && size < 1e-3 ? "%.3g" : "%.4g");
}

std::string PlotSvg(const Plot& plot) {
  const double inf = std::numeric_limits<double>::infinity();
  double x_low = inf, x_high = -inf, y_low = inf, y_high = -inf;
  for (const PlotSeries& series : plot.series) {
    for (const auto& [x, y] : series.points) {
      if (!std::isfinite(x) || !std::isfinite(y)) continue;
      x_low = std::min(x_low, x), x_high = std::max(x_high, x);
      y_low = std::min(y_low, y), y_high = std::max(y_high, y);
    }
  }
  std::string svg =
      StrCat("<svg viewBox=\"0 0 ", kWidth, " ", kHeight, "\" role=\"img\" aria-label=\"",
             HtmlText(plot.title), "\">\n", "<text class=\"title\" x=\"", kLeft, "\" y=\"18\">",
             HtmlText(plot.title), "</text>\n");
  if (!(x_low <= x_high)) {
    return svg + StrCat("<text class=\"tick\" x=\"", kLeft, "\" y=\"60\">no values</text></svg>\n");
  }
  if (plot.from_zero) y_low = std::min(y_low, 0.0);
  const Axis y_axis = RoundAxis(y_low, y_high, 4);
  Axis x_axis = RoundAxis(x_low, x_high, 6);
  x_axis.low = x_low, x_axis.high = x_high > x_low ? x_high : x_low + 1;
  const auto px = [&](double x) { return kLeft + x_axis.Share(x) * (kWidth - kLeft - kRight); };
  const auto py = [&](double y) {
    return kHeight - kBottom - y_axis.Share(y) * (kHeight - kTop - kBottom);
  };
  for (double y = y_axis.low; y <= y_axis.high + y_axis.tick / 2; y += y_axis.tick) {
    const double shown = std::abs(y) < y_axis.tick / 1e6 ? 0 : y;
    svg += StrCat("<line class=\"grid\" x1=\"", kLeft, "\" x2=\"", kWidth - kRight, "\" y1=\"",
                  Place(py(y)), "\" y2=\"", Place(py(y)), "\"/><text class=\"tick\" x=\"",
                  kLeft - 6, "\" y=\"", Place(py(y) + 4), "\" text-anchor=\"end\">",
                  NumberText(shown), "</text>\n");
  }
  const double x_tick = std::max(1.0, x_axis.tick);
  for (double x = std::ceil(x_axis.low / x_tick) * x_tick; x <= x_axis.high; x += x_tick) {
    svg += StrCat("<text class=\"tick\" x=\"", Place(px(x)), "\" y=\"", kHeight - 14,
                  "\" text-anchor=\"middle\">", NumberText(x), "</text>\n");
  }
  svg += StrCat("<text class=\"tick\" x=\"", kWidth - kRight, "\" y=\"", kHeight - 2,
                "\" text-anchor=\"end\">", HtmlText(plot.x_label), "</text>\n");
  double legend = kWidth - kRight;
  for (auto series = plot.series.rbegin(); series != plot.series.rend(); ++series) {
    if (plot.series.size() < 2) break;
    svg += StrCat("<text class=\"tick\" x=\"", legend, "\" y=\"18\" text-anchor=\"end\" fill=\"",
                  series->color, "\" style=\"fill:", series->color, "\">", HtmlText(series->name),
                  "</text>\n");
    legend -= 12 + 7.0 * static_cast<double>(series->name.size());
  }
  for (const PlotSeries& series : plot.series) {
    std::string path, dots;
    for (const auto& [x, y] : series.points) {
      if (!std::isfinite(x) || !std::isfinite(y)) continue;
      path += StrCat(path.empty() ? "" : " ", Place(px(x)), ",", Place(py(y)));
      if (series.dots || series.points.size() == 1) {
        dots += StrCat("<circle cx=\"", Place(px(x)), "\" cy=\"", Place(py(y)),
                       "\" r=\"3.5\" fill=\"", series.color, "\"><title>", HtmlText(series.name),
                       " ", NumberText(y), " at ", NumberText(x), "</title></circle>\n");
      }
    }
    svg +=
        StrCat("<polyline fill=\"none\" stroke=\"", series.color,
               "\" stroke-width=\"1.8\" stroke-linejoin=\"round\" points=\"", path, "\"/>\n", dots);
  }
  return svg + "</svg>\n";
}

}  // namespace lapidary
