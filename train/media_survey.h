// What the media of a run's data take in memory, from the headers of its records: the micro-batch,
// the step and the stock of samples that hold the most rows. A bound by what the data have, not by
// what max_length would allow.
#ifndef LAPIDARY_TRAIN_MEDIA_SURVEY_H_
#define LAPIDARY_TRAIN_MEDIA_SURVEY_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "data/dataset.h"
#include "data/media_count.h"
#include "train/config.h"

namespace lapidary {

// Of one loader (data/loader.h), train or held-out.
struct LoaderMedia {
  MediaCount batch;         // of the micro-batch with the most
  MediaCount step;          // of the gradient_accumulation_steps micro-batches with the most
  int64_t ahead = 0;        // bytes of rows of documents built ahead, and of those that wait
  int64_t decoding = 0;     // bytes, about, while media are decoded, by all workers
  int64_t patch_bytes = 0;  // of a patch, as float32
  int64_t frame_bytes = 0;  // of a frame of sound
  int64_t bytes(const MediaCount& count) const {
    return count.vision * patch_bytes + count.audio * frame_bytes;
  }
};

struct MediaSurvey {
  bool counted = false;   // false: the data could not be read; nothing below is known
  std::string note;       // for people: what was looked at, or why nothing
  int64_t records = 0;    // of both data sets
  int64_t looked_at = 0;  // fewer where there are many: every so many'th
  LoaderMedia train, eval;
  bool evaluates = false;   // there are held-out data
  int64_t eval_tokens = 0;  // of the longest micro-batch in evaluation
};

// Records whose headers are read, of each data set.
inline constexpr int64_t kSurveyedRecords = 4096;

// Opens the data that `config` names. Data that cannot be opened are not an error (the run itself
// will say so): counted is false and the note says why. A broken record counts as none.
MediaSurvey SurveyMedia(const TrainConfig& config, const MediaConfig& media);

// The heaviest choice of at most `documents` of `counts` with at most `rows` rows in all, heaviest
// first, by the bytes that `loader` gives to rows; the list is gone through again if it is shorter
// than `documents` and `again` is set.
MediaCount Heaviest(const std::vector<MediaCount>& counts, int64_t documents, int64_t rows,
                    bool again, const LoaderMedia& loader);

}  // namespace lapidary

#endif  // LAPIDARY_TRAIN_MEDIA_SURVEY_H_
