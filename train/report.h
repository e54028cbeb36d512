// report.html: what a run did, on one page that needs nothing else. Plots are inline SVG; no
// scripts, no network.
#ifndef LAPIDARY_TRAIN_REPORT_H_
#define LAPIDARY_TRAIN_REPORT_H_

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "train/config.h"
#include "train/trainer.h"

namespace lapidary {

// Plots of loss, learning rate, gradient norm, throughput and memory; held-out figures before and
// after for each kind of record; answers before and after; figures of the data; the run card; the
// configuration. Readable on a phone (tables scroll by themselves), dark where the reader's system
// is.
std::string ReportHtml(const TrainConfig& config, const TrainSummary& summary,
                       const nlohmann::ordered_json& card);

// The page with another run card: the same run, exported. A page without the section (of an earlier
// version) comes back as it is.
std::string WithRunCard(const std::string& html, const nlohmann::ordered_json& card);

// Writes it, and run_card.json beside it, whose "exports" (train/export/record_export.h) stay if
// the result is the same. Throws Error if a file cannot be written.
void WriteReport(const std::string& path, const TrainConfig& config, const TrainSummary& summary);

}  // namespace lapidary

#endif  // LAPIDARY_TRAIN_REPORT_H_
