// Media files to the rows that the embedders of the model take: patches with positions for pictures
// and video frames, raw frames for sound. A row becomes one soft token. Pure and thread-safe; the
// same bytes give the same bits.
#ifndef LAPIDARY_DATA_MEDIA_H_
#define LAPIDARY_DATA_MEDIA_H_

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "autograd/base/file.h"
#include "data/audio.h"
#include "data/image.h"
#include "data/media_config.h"

namespace lapidary {

// Where an encoded picture, sound or clip is: a file, or bytes in memory (base64 in a record, say).
struct MediaSource {
  std::string path;   // read if `in_memory` is false
  std::string bytes;  // used if `in_memory` is true
  bool in_memory = false;
  std::string name;  // for messages; `path` if empty

  static MediaSource File(std::string path);
  static MediaSource Memory(std::string bytes, std::string name);
};

// Larger files throw Error.
inline constexpr uint64_t kMaxMediaBytes = uint64_t{1} << 31;

// The encoded bytes of a source, mapped or in memory. Throws Error naming it if there are none.
class MediaBytes {
 public:
  // `source` must outlive this.
  explicit MediaBytes(const MediaSource& source);
  std::string_view bytes() const { return bytes_; }
  const std::string& name() const { return name_; }

 private:
  std::string name_;
  std::shared_ptr<const MappedFile> file_;
  std::string_view bytes_;
};

// Patches of one picture. Row y * columns + x is the square of model_patch pixels at column x and
// row y of the grid, stored row by row, column by column, channel fastest; values in [0, 1].
struct ImageFeatures {
  int64_t tokens = 0;              // rows
  int64_t features = 0;            // floats in a row: 3 * model_patch^2 (6912 for the 12B)
  std::vector<float> rows;         // [tokens, features]
  std::vector<int32_t> positions;  // [tokens, 2]: x (column), y (row)
};

// Mono samples in frames; the last frame is padded with zeros.
struct AudioFeatures {
  int64_t tokens = 0;    // ceil(samples / features)
  int64_t features = 0;  // samples in a row (640 for the 12B)
  int64_t samples = 0;   // before padding
  bool truncated = false;
  std::vector<float> rows;  // [tokens, features]
};

// Sampled frames of one clip, each cut like a picture, all of one size.
struct VideoFeatures {
  int64_t frames = 0;
  int64_t tokens_per_frame = 0;
  int64_t features = 0;
  std::vector<float> rows;              // [frames * tokens_per_frame, features]
  std::vector<int32_t> positions;       // [frames * tokens_per_frame, 2]: x, y
  std::vector<std::string> timestamps;  // [frames], "mm:ss"
};

// The picture at the size of the budget, as uint8: what Patches cuts. Resizes as resize.h says.
Image FitImage(const Image& image, const ImageProcessorConfig& config, int64_t budget);

// Cuts a picture whose sides are multiples of config.model_patch() (throws Error otherwise) and
// converts to float32.
ImageFeatures Patches(const Image& fitted, const ImageProcessorConfig& config);

// Frames of samples. Throws Error for an empty sound.
AudioFeatures AudioFrames(const std::vector<float>& samples, const AudioProcessorConfig& config);

// The whole way. `budget` 0 means config.max_soft_tokens; `num_frames` 0 means config.num_frames.
// Throws Error naming the source when it cannot be read, decoded or sampled.
ImageFeatures LoadImageFeatures(const MediaSource& source, const ImageProcessorConfig& config,
                                int64_t budget = 0, ImageRules rules = ImageRules::kPath);
AudioFeatures LoadAudioFeatures(const MediaSource& source, const AudioProcessorConfig& config,
                                AudioLimit limit = AudioLimit::kAllow);
VideoFeatures LoadVideoFeatures(const MediaSource& source, const VideoProcessorConfig& config,
                                int64_t budget = 0, int64_t num_frames = 0);

// Soft tokens that Load*Features would give, from the headers of the file (lossy sounds may differ
// by the decoder's padding).
int64_t CountImageTokens(const MediaSource& source, const ImageProcessorConfig& config,
                         int64_t budget = 0);
int64_t CountAudioTokens(const MediaSource& source, const AudioProcessorConfig& config,
                         AudioLimit limit = AudioLimit::kAllow);

}  // namespace lapidary

#endif  // LAPIDARY_DATA_MEDIA_H_
