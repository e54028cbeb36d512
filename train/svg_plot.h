// Line plots as SVG text, for pages without scripts.
#ifndef LAPIDARY_TRAIN_SVG_PLOT_H_
#define LAPIDARY_TRAIN_SVG_PLOT_H_

#include <string>
#include <utility>
#include <vector>

namespace lapidary {

struct PlotSeries {
  std::string name;                               // in the legend
  std::string color;                              // CSS
  std::vector<std::pair<double, double>> points;  // x ascending; values not finite are left out
  bool dots = false;                              // mark every point
};

struct Plot {
  std::string title;
  std::string x_label = "step";
  std::vector<PlotSeries> series;
  bool from_zero = false;  // the vertical axis includes 0
};

// An <svg> element, 640 x 260 units, scaled by its container. Fewer than one point: a note instead.
std::string PlotSvg(const Plot& plot);

// "&lt;" and so on.
std::string HtmlText(const std::string& text);

// A number for people: "0.0002", "1.2e-05", "12,345".
std::string NumberText(double value);

}  // namespace lapidary

#endif  // LAPIDARY_TRAIN_SVG_PLOT_H_
