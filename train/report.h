// report.html: what a run did, on one page that needs nothing else. Plots are inline SVG; no
// scripts, no network.
#ifndef LAPIDARY_TRAIN_REPORT_H_
#define LAPIDARY_TRAIN_REPORT_H_

#include <string>

#include "train/config.h"
#include "train/trainer.h"

namespace lapidary {

// Plots of loss, learning rate, gradient norm, throughput and memory; held-out figures before and
// after for each kind of record; answers before and after; the configuration; the run card.
std::string ReportHtml(const TrainConfig& config, const TrainSummary& summary);

// Writes it. Throws Error if the file cannot be written.
void WriteReport(const std::string& path, const TrainConfig& config, const TrainSummary& summary);

}  // namespace lapidary

#endif  // LAPIDARY_TRAIN_REPORT_H_
