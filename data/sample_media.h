// The media of a record as rows of the model and as the text that stands for them. For .cc files of
// data/.
#ifndef LAPIDARY_DATA_SAMPLE_MEDIA_H_
#define LAPIDARY_DATA_SAMPLE_MEDIA_H_

#include <cstdint>
#include <string>
#include <vector>

#include "data/record.h"
#include "data/sample.h"

namespace lapidary {

// One medium of a record. The rows belong to the soft tokens of the parts, in order.
struct LoadedMedium {
  // A picture, a piece of sound, or a frame of a clip: a run of soft tokens between marks.
  struct Part {
    MediaKind kind = MediaKind::kImage;
    int64_t tokens = 0;
    std::string timestamp;  // of a frame
  };
  std::vector<Part> parts;
  MediaRows vision, sound;  // without places; rows empty where only the headers were read
  // Where only the headers were read: bytes, about, that decoding takes beside the rows.
  int64_t decoding = 0;

  // Soft tokens of one kind.
  int64_t Tokens(MediaKind kind) const;
  // What stands in the text for it (gemma4-12b.md 4.6, 5, 6).
  std::string Text() const;
};

// Reads one medium under the options. With `headers_only` rows are left out, and no more is decoded
// than needed to count. Throws Error naming the medium.
LoadedMedium LoadMedium(const MediaRef& ref, const SampleOptions& options, const AugmentKey& key,
                        bool headers_only);

}  // namespace lapidary

#endif  // LAPIDARY_DATA_SAMPLE_MEDIA_H_
