#include "data/media.h"

#include <algorithm>
#include <filesystem>
#include <utility>

#include "autograd/base/error.h"
#include "data/resize.h"
#include "data/video.h"

namespace lapidary {
namespace {

// Rethrows errors that do not know the file with its name in front.
template <class Body>
auto Named(const std::string& name, const Body& body) {
  try {
    return body();
  } catch (const Error& e) {
    const std::string text = e.what();
    if (text.starts_with(name)) throw;
    throw Error(StrCat(name, ": ", text));
  }
}

// Appends the patches of `image` to rows and positions; the number of patches.
int64_t AppendPatches(const Image& image, const ImageProcessorConfig& config,
                      std::vector<float>& rows, std::vector<int32_t>& positions) {
  const int64_t m = config.model_patch(), row = config.features();
  LAPIDARY_CHECK(m >= 1 && image.height >= m && image.width >= m && image.height % m == 0 &&
                     image.width % m == 0,
                 "Patches: sides must be multiples of ", m, "; got ", image.width, " x ",
                 image.height, "; try FitImage");
  float values[256];
  for (int i = 0; i < 256; ++i) {
    values[i] = config.divide ? static_cast<float>(i) / 255.0f
                              : static_cast<float>(i) * static_cast<float>(config.rescale_factor);
  }
  const int64_t down = image.height / m, across = image.width / m, tokens = down * across;
  const size_t first = rows.size();
  rows.resize(first + tokens * row);
  positions.reserve(positions.size() + tokens * 2);
  float* out = rows.data() + first;
  for (int64_t ty = 0; ty < down; ++ty) {
    for (int64_t tx = 0; tx < across; ++tx) {
      positions.push_back(static_cast<int32_t>(tx));
      positions.push_back(static_cast<int32_t>(ty));
      for (int64_t r = 0; r < m; ++r) {
        const uint8_t* in = &image.pixels[((ty * m + r) * image.width + tx * m) * 3];
        for (int64_t i = 0; i < m * 3; ++i) *out++ = values[in[i]];
      }
    }
  }
  return tokens;
}

// Samples allowed by the limit.
int64_t Limited(int64_t samples, const AudioProcessorConfig& config, AudioLimit limit,
                const std::string& name) {
  const int64_t most = config.audio_seq_length * config.audio_samples_per_token;
  if (limit == AudioLimit::kAllow || samples <= most) return samples;
  LAPIDARY_CHECK(limit == AudioLimit::kTruncate, name, ": a sound may have at most ",
                 config.audio_seq_length, " tokens of ", config.audio_samples_per_token,
                 " samples; got ", samples, " samples; try audio_limit \"truncate\" or \"allow\"");
  return most;
}

}  // namespace

MediaBytes::MediaBytes(const MediaSource& source)
    : name_(source.name.empty() ? source.path : source.name) {
  if (source.in_memory) {
    bytes_ = source.bytes;
  } else {
    LAPIDARY_CHECK(std::filesystem::is_regular_file(source.path), name_,
                   ": a media file must exist; got none; try a path relative to the data file");
    file_ = MappedFile::Open(source.path);
    bytes_ = std::string_view(reinterpret_cast<const char*>(file_->data()), file_->size());
  }
  LAPIDARY_CHECK(bytes_.size() <= kMaxMediaBytes, name_, ": a media file may have at most ",
                 kMaxMediaBytes, " bytes; got ", bytes_.size());
}

MediaSource MediaSource::File(std::string path) {
  MediaSource source;
  source.path = std::move(path);
  return source;
}

MediaSource MediaSource::Memory(std::string bytes, std::string name) {
  MediaSource source;
  source.bytes = std::move(bytes);
  source.name = std::move(name);
  source.in_memory = true;
  return source;
}

Image FitImage(const Image& image, const ImageProcessorConfig& config, int64_t budget) {
  const ImageSize size = TargetSize({.height = image.height, .width = image.width}, config, budget);
  return ResizeTo(image, size, config);
}

ImageFeatures Patches(const Image& fitted, const ImageProcessorConfig& config) {
  ImageFeatures out;
  out.features = config.features();
  out.tokens = AppendPatches(fitted, config, out.rows, out.positions);
  return out;
}

AudioFeatures AudioFrames(const std::vector<float>& samples, const AudioProcessorConfig& config) {
  LAPIDARY_CHECK(!samples.empty() && config.audio_samples_per_token >= 1,
                 "AudioFrames: a sound must have samples; got none");
  AudioFeatures out;
  out.features = config.audio_samples_per_token;
  out.samples = static_cast<int64_t>(samples.size());
  out.tokens = (out.samples + out.features - 1) / out.features;
  out.rows = samples;
  out.rows.resize(out.tokens * out.features, 0.0f);
  return out;
}

ImageFeatures LoadImageFeatures(const MediaSource& source, const ImageProcessorConfig& config,
                                int64_t budget, ImageRules rules) {
  const MediaBytes content(source);
  return Named(content.name(), [&] {
    const int64_t tokens = ImageBudget(config, budget);
    const Image image = DecodeImage(content.bytes(), content.name(), rules);
    return Patches(FitImage(image, config, tokens), config);
  });
}

AudioFeatures LoadAudioFeatures(const MediaSource& source, const AudioProcessorConfig& config,
                                AudioLimit limit) {
  const MediaBytes content(source);
  return Named(content.name(), [&] {
    std::vector<float> samples = DecodeAudio(content.bytes(), content.name(), config.sampling_rate);
    const int64_t all = static_cast<int64_t>(samples.size());
    const int64_t kept = Limited(all, config, limit, content.name());
    samples.resize(kept);
    AudioFeatures out = AudioFrames(samples, config);
    out.truncated = kept < all;
    return out;
  });
}

VideoFeatures LoadVideoFeatures(const MediaSource& source, const VideoProcessorConfig& config,
                                int64_t budget, int64_t num_frames) {
  const MediaBytes content(source);
  return Named(content.name(), [&] {
    const int64_t tokens = ImageBudget(config.frame, budget);
    if (num_frames == 0) num_frames = config.num_frames;
    VideoFeatures out;
    out.features = config.frame.features();
    std::vector<int64_t> indices;
    const VideoInfo info = DecodeVideoFrames(
        content.bytes(), content.name(), num_frames, [&](int64_t, int64_t index, Image image) {
          indices.push_back(index);
          out.tokens_per_frame = AppendPatches(FitImage(image, config.frame, tokens), config.frame,
                                               out.rows, out.positions);
        });
    out.frames = static_cast<int64_t>(indices.size());
    for (const int64_t index : indices) out.timestamps.push_back(VideoTimestamp(index, info.fps));
    return out;
  });
}

int64_t CountImageTokens(const MediaSource& source, const ImageProcessorConfig& config,
                         int64_t budget) {
  const MediaBytes content(source);
  return Named(content.name(), [&] {
    return ImageTokens(ProbeImage(content.bytes(), content.name()), config,
                       ImageBudget(config, budget));
  });
}

int64_t CountAudioTokens(const MediaSource& source, const AudioProcessorConfig& config,
                         AudioLimit limit) {
  const MediaBytes content(source);
  return Named(content.name(), [&] {
    const int64_t samples = ProbeAudio(content.bytes(), content.name(), config.sampling_rate);
    const int64_t kept = Limited(samples, config, limit, content.name());
    return (kept + config.audio_samples_per_token - 1) / config.audio_samples_per_token;
  });
}

}  // namespace lapidary
