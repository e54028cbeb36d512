#include "data/inspect.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

#include "autograd/base/error.h"
#include "data/readers.h"

namespace lapidary {
namespace {

using Json = nlohmann::ordered_json;

int64_t Quantile(const std::vector<int64_t>& sorted, double q) {
  if (sorted.empty()) return 0;
  const auto i = static_cast<size_t>(q * static_cast<double>(sorted.size() - 1) + 0.5);
  return sorted[std::min(i, sorted.size() - 1)];
}

// Control characters would steer the reader's terminal: all but line feeds and tabs are spelled
// out.
std::string Visible(const std::string& text) {
  std::string out;
  for (const char c : text) {
    const auto byte = static_cast<uint8_t>(c);
    if ((byte < 0x20 && c != '\n' && c != '\t') || byte == 0x7f) {
      char name[8];
      std::snprintf(name, sizeof name, "<0x%02X>", byte);
      out += name;
    } else {
      out += c;
    }
  }
  return out;
}

}  // namespace

std::string ShowSample(const Sample& sample, const Tokenizer& tokenizer, SampleStyle style) {
  std::string out;
  const auto n = static_cast<size_t>(sample.size());
  for (size_t i = 0; i < n;) {
    const bool trained = sample.weights[i] > 0;
    const bool soft = sample.types[i] != kTextToken;
    size_t end = i + 1;
    while (end < n && (sample.weights[end] > 0) == trained &&
           (sample.types[end] != kTextToken) == soft) {
      ++end;
    }
    if (soft) {
      out += StrCat(tokenizer.Token(sample.ids[i]), " x ", end - i);
    } else {
      const std::string text =
          Visible(tokenizer.Decode(std::span<const int32_t>(sample.ids.data() + i, end - i)));
      if (!trained) {
        out += text;
      } else if (style == SampleStyle::kAnsi) {
        out += "\x1b[1;32m" + text + "\x1b[0m";
      } else {
        out += "[" + text + "]";
      }
    }
    i = end;
  }
  return out;
}

DataReport InspectDataset(const Dataset& dataset, const SampleBuilder& builder, int64_t limit,
                          int64_t max_problems, const RecordObserver& observe) {
  DataReport report;
  report.format = dataset.format();
  report.records = limit > 0 ? std::min(limit, dataset.size()) : dataset.size();
  std::vector<int64_t> lengths;
  const auto problem = [&](int64_t record, std::string message) {
    if (static_cast<int64_t>(report.problems.size()) < max_problems) {
      report.problems.push_back({dataset.Where(record), std::move(message)});
    } else {
      ++report.more_problems;
    }
  };
  for (int64_t i = 0; i < report.records; ++i) {
    std::optional<Record> record;
    BuiltSample built;
    std::string error;
    try {
      record = dataset.Read(i);
      if (record->label) ++(*record->label ? report.desirable : report.undesirable);
      built = builder.Build(WithoutLabel(*record));  // both kinds are trained on
    } catch (const Error& e) {
      error = e.what();
      problem(i, error);
    }
    if (observe) observe(i, record ? &*record : nullptr, built, error);
    if (!error.empty()) continue;
    if (!built.note.empty()) problem(i, built.note);
    if (!built.sample) {
      ++report.dropped;
      continue;
    }
    report.cut += !built.note.empty();
    ++report.usable;
    const auto count = [&](const Sample& sample) {
      lengths.push_back(sample.size());
      report.tokens += sample.size();
      report.trained += sample.trained();
      report.soft += sample.vision.count() + sample.audio.count();
      report.images += sample.images;
      report.sounds += sample.sounds;
      report.videos += sample.videos;
      report.with_image += sample.images > 0;
      report.with_audio += sample.sounds > 0;
      report.with_video += sample.videos > 0;
      report.text_only += sample.images + sample.sounds + sample.videos == 0;
      report.dropped_thoughts += sample.dropped_thoughts;
    };
    count(*built.sample);
    for (const Sample& sample : built.more) count(sample);
  }
  std::sort(lengths.begin(), lengths.end());
  report.shortest = Quantile(lengths, 0);
  report.median = Quantile(lengths, 0.5);
  report.p95 = Quantile(lengths, 0.95);
  report.longest = Quantile(lengths, 1);
  return report;
}

Json ReportJson(const DataReport& r) {
  Json problems = Json::array();
  for (const Problem& problem : r.problems) {
    problems.push_back({{"where", problem.where}, {"message", problem.message}});
  }
  return {
      {"format", r.format},
      {"records", r.records},
      {"usable", r.usable},
      {"dropped", r.dropped},
      {"cut", r.cut},
      {"tokens", r.tokens},
      {"trained_tokens", r.trained},
      {"soft_tokens", r.soft},
      {"length", {{"min", r.shortest}, {"median", r.median}, {"p95", r.p95}, {"max", r.longest}}},
      {"media", {{"images", r.images}, {"audios", r.sounds}, {"videos", r.videos}}},
      {"records_with",
       {{"text_only", r.text_only},
        {"image", r.with_image},
        {"audio", r.with_audio},
        {"video", r.with_video}}},
      {"dropped_thoughts", r.dropped_thoughts},
      {"labels", {{"true", r.desirable}, {"false", r.undesirable}}},
      {"problems", problems},
      {"more_problems", r.more_problems}};
}

std::string ReportText(const DataReport& r) {
  std::string out =
      StrCat("format    ", r.format, "\nrecords   ", r.records, ": ", r.usable, " usable, ",
             r.dropped, " dropped, ", r.cut, " cut, ", r.records - r.usable - r.dropped,
             " broken\ntokens    ", r.tokens, ": ", r.trained, " trained, ", r.soft,
             " of media\nlength    min ", r.shortest, ", median ", r.median, ", 95 % ", r.p95,
             ", max ", r.longest, "\nmedia     ", r.images, " images, ", r.sounds, " sounds, ",
             r.videos, " videos\nrecords   ", r.text_only, " text only, ", r.with_image,
             " with images, ", r.with_audio, " with sounds, ", r.with_video, " with videos\n");
  if (r.desirable + r.undesirable > 0) {
    out += StrCat("labels    ", r.desirable, " true, ", r.undesirable, " false\n");
  }
  if (r.dropped_thoughts > 0) {
    out += StrCat("note      ", r.dropped_thoughts,
                  " thoughts are left out: the template keeps those after the last user message, "
                  "in the member 'reasoning'\n");
  }
  for (const Problem& problem : r.problems) out += "problem   " + problem.message + "\n";
  if (r.more_problems > 0) out += StrCat("          and ", r.more_problems, " more\n");
  return out;
}

}  // namespace lapidary
