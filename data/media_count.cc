#include "data/media_count.h"

#include <algorithm>

#include "autograd/base/error.h"
#include "data/prepared_file.h"
#include "data/sample_media.h"

namespace lapidary {

MediaCount CountMedia(const Record& record, const SampleOptions& options) {
  MediaCount count;
  for (const MediaRef& ref : record.media) {
    LoadedMedium medium;
    try {
      medium = LoadMedium(ref, options, {}, /*headers_only=*/true);
    } catch (const Error& e) {
      const std::string text = e.what();
      throw Error(text.starts_with(record.where) ? text : StrCat(record.where, ": ", text));
    }
    for (const LoadedMedium::Part& part : medium.parts) {
      (part.kind == MediaKind::kAudio ? count.audio : count.vision) += part.tokens;
    }
    count.decoding = std::max(count.decoding, medium.decoding);
  }
  return count;
}

std::vector<MediaCount> CountPreparedMedia(const std::string& path, const MediaConfig& media) {
  const PreparedReader reader(path, media);
  std::vector<MediaCount> counts(static_cast<size_t>(reader.documents()));
  for (size_t d = 0; d < counts.size(); ++d) {
    const auto document = static_cast<int64_t>(d);
    counts[d].vision = reader.VisionRows(document);
    counts[d].audio = reader.AudioRows(document);
  }
  return counts;
}

}  // namespace lapidary
