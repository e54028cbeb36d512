#include "train/media_survey.h"

#include <algorithm>

#include "train/bundle.h"
#include "train/pair_source.h"
#include "train/progress.h"
#include "train/session.h"

namespace lapidary {
namespace {

// The documents of a record that may come into a micro-batch.
void AddDocuments(MediaCount count, const SampleOptions& options, std::vector<MediaCount>* out) {
  const int64_t most = options.max_length;
  if (most == 0 || count.rows() <= most) {
    out->push_back(count);
    return;
  }
  // Refused or dropped.
  if (options.on_too_long == OnTooLong::kError || options.on_too_long == OnTooLong::kDrop) return;
  const int64_t parts =
      options.on_too_long == OnTooLong::kSplit ? (count.rows() + most - 1) / most : 1;
  for (int64_t i = 0; i < parts; ++i) {
    MediaCount part = count;
    part.vision = std::min(count.vision, most);
    part.audio = std::min(count.audio, most - part.vision);
    count.vision -= part.vision;
    count.audio -= part.audio;
    out->push_back(part);
  }
}

// Reads headers of at most kSurveyedRecords records, spread evenly.
std::vector<MediaCount> CountRecords(const Dataset& dataset, const SampleOptions& options,
                                     MediaSurvey* survey) {
  std::vector<MediaCount> counts;
  const int64_t looked_at = std::min(dataset.size(), kSurveyedRecords);
  survey->records += dataset.size();
  survey->looked_at += looked_at;
  for (int64_t i = 0; i < looked_at; ++i) {
    try {
      const Record record = dataset.Read(i * dataset.size() / looked_at);
      AddDocuments(CountMedia(record, options), options, &counts);
    } catch (const Error&) {
      // The run reports it, or stops there, when it comes to this record.
    }
  }
  return counts;
}

LoaderMedia WidthsOf(const MediaConfig& media) {
  LoaderMedia loader;
  constexpr int64_t kFloat = sizeof(float);
  loader.patch_bytes = media.image.features() * kFloat;
  loader.frame_bytes = media.audio.audio_samples_per_token * kFloat;
  return loader;
}

// What a loader holds at most. `room` is that of a micro-batch; `window` counts documents that wait
// to be packed or grouped.
void FillLoader(const std::vector<MediaCount>& counts, int64_t documents, int64_t steps,
                int64_t room, int64_t window, int64_t workers, LoaderMedia* loader) {
  loader->batch = Heaviest(counts, documents, room, true, *loader);
  loader->step = Heaviest(counts, documents * steps, room * steps, true, *loader);
  const LoaderOptions defaults;
  constexpr int64_t kAny = int64_t{1} << 40;
  const auto stock = [&](int64_t n) {
    return loader->bytes(Heaviest(counts, n, kAny, true, *loader));
  };
  // A worker begins another document while those that are done are below kPrefetchBytes.
  int64_t ready = 0;
  while (ready < defaults.prefetch && stock(ready) < kPrefetchBytes) ++ready;
  ready = std::min(defaults.prefetch, ready + workers - 1);
  loader->ahead = stock(ready) + (window > 0 ? stock(window) : 0);
  for (const MediaCount& count : counts) {
    loader->decoding = std::max(loader->decoding, workers * count.decoding);
  }
}

// Tokens of the longest micro-batch in evaluation. Only where it may have more records than one in
// training are they measured: without that it is shorter than what training is planned for.
int64_t EvalTokens(const TrainConfig& config, const Dataset& dataset,
                   const SampleOptions& options) {
  const int64_t documents = std::min(config.per_device_eval_batch_size, dataset.size());
  const int64_t bound = config.max_length * documents;
  if (config.loss) return 2 * bound;
  if (documents <= config.per_device_train_batch_size || dataset.size() > kSurveyedRecords) {
    return bound;
  }
  const std::unique_ptr<Tokenizer> tokenizer = OpenTokenizer(config.model_name_or_path);
  const SampleBuilder builder(*tokenizer, options);
  std::vector<int64_t> lengths;
  for (int64_t i = 0; i < dataset.size(); ++i) {
    try {
      for (const int64_t n : builder.MeasureAll(dataset.Read(i))) lengths.push_back(n);
    } catch (const Error&) {
    }
  }
  std::sort(lengths.begin(), lengths.end(), std::greater<>());
  int64_t tokens = 0;
  for (size_t i = 0; i < lengths.size() && static_cast<int64_t>(i) < documents; ++i) {
    tokens += lengths[i];
  }
  return tokens;
}

void SurveyData(const TrainConfig& config, const MediaConfig& media, MediaSurvey* survey) {
  SampleOptions options = MakeSampleOptions(config, media);
  const auto [train, eval] = OpenDatasets(config);
  std::vector<MediaCount> counts;
  if (train != nullptr) {
    counts = CountRecords(*train, options, survey);
  } else {
    counts = CountPreparedMedia(config.train_files[0].path, media);
    survey->records = survey->looked_at = static_cast<int64_t>(counts.size());
  }
  const int64_t batch = TrainDocuments(config);
  const bool waits = config.packing || config.group_by_length;
  FillLoader(counts, config.packing ? config.pack_window : batch,
             config.gradient_accumulation_steps, config.max_length * batch,
             waits ? config.pack_window : 0, config.dataloader_num_workers, &survey->train);
  if (eval == nullptr) return;
  survey->evaluates = true;
  options.augment = {};
  const int64_t eval_batch = config.per_device_eval_batch_size * DocumentsPerRecord(config);
  FillLoader(CountRecords(*eval, options, survey), eval_batch, 1, config.max_length * eval_batch, 0,
             1, &survey->eval);
  survey->eval_tokens = EvalTokens(config, *eval, options);
}

std::string LookedAt(const MediaSurvey& survey) {
  return survey.looked_at < survey.records
             ? StrCat("by ", CountText(survey.looked_at), " of ", CountText(survey.records),
                      " records, evenly spread: others may have more")
             : StrCat("by the headers of ", CountText(survey.records), " records");
}

}  // namespace

MediaCount Heaviest(const std::vector<MediaCount>& counts, int64_t documents, int64_t rows,
                    bool again, const LoaderMedia& loader) {
  MediaCount sum;
  std::vector<MediaCount> sorted = counts;
  std::stable_sort(sorted.begin(), sorted.end(), [&](const MediaCount& a, const MediaCount& b) {
    return loader.bytes(a) > loader.bytes(b);
  });
  const auto size = static_cast<int64_t>(sorted.size());
  if (!again) documents = std::min(documents, size);
  for (int64_t i = 0; i < documents && size > 0; ++i) {
    const MediaCount& count = sorted[static_cast<size_t>(i % size)];
    if (sum.rows() + count.rows() > rows) continue;
    sum.vision += count.vision;
    sum.audio += count.audio;
    sum.decoding = std::max(sum.decoding, count.decoding);
  }
  return sum;
}

MediaSurvey SurveyMedia(const TrainConfig& config, const MediaConfig& media) {
  MediaSurvey survey;
  survey.train = survey.eval = WidthsOf(media);
  const MediaSurvey unknown = survey;
  try {
    SurveyData(config, media, &survey);
  } catch (const Error& error) {
    survey = unknown;
    survey.note = StrCat("not counted, nor evaluation: ", error.what());
    return survey;
  }
  survey.counted = true;
  survey.note = LookedAt(survey);
  const MediaCount& batch = survey.train.batch;
  if (batch.rows() > 0) {
    survey.note = StrCat("up to ", CountText(batch.vision), " patches and ", CountText(batch.audio),
                         " frames of sound in a micro-batch, ", survey.note);
  } else {
    survey.note = "none, " + survey.note;
  }
  return survey;
}

}  // namespace lapidary
