// How many rows the media of records become, from headers alone: what a plan of memory needs to
// know of a data set without building it.
#ifndef LAPIDARY_DATA_MEDIA_COUNT_H_
#define LAPIDARY_DATA_MEDIA_COUNT_H_

#include <cstdint>
#include <string>
#include <vector>

#include "data/record.h"
#include "data/sample.h"

namespace lapidary {

// Of one document, or of several together. A row becomes one soft token.
struct MediaCount {
  int64_t vision = 0;  // patches of pictures and video frames
  int64_t audio = 0;   // frames of sound
  // Bytes, about, that decoding the largest medium takes beside its rows: pixels or samples before
  // they are cut.
  int64_t decoding = 0;

  int64_t rows() const { return vision + audio; }
};

// Rows of all media of a record under the options, max_length not applied. No more is decoded than
// is needed to count (lossy sounds may differ by the decoder's padding). Throws Error naming the
// record for media that cannot be read.
MediaCount CountMedia(const Record& record, const SampleOptions& options);

// Of every document of a prepared file (data/prepared.h), in order. Throws Error if it is none.
std::vector<MediaCount> CountPreparedMedia(const std::string& path, const MediaConfig& media);

}  // namespace lapidary

#endif  // LAPIDARY_DATA_MEDIA_COUNT_H_
