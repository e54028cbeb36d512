#include "data/sample_media.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "autograd/base/error.h"
#include "data/resize.h"
#include "data/video.h"

namespace lapidary {
namespace {

using Part = LoadedMedium::Part;

std::string Repeat(std::string_view text, int64_t count) {
  std::string out;
  out.reserve(text.size() * count);
  for (int64_t i = 0; i < count; ++i) out += text;
  return out;
}

// A picture's pixels, and those of a resized or turned copy beside it.
int64_t DecodedBytes(const ImageSize& size) { return 2 * 3 * size.height * size.width; }

LoadedMedium LoadImage(const MediaSource& source, const SampleOptions& options,
                       const AugmentKey& key, bool headers_only) {
  const ImageProcessorConfig& config = options.media.image;
  LoadedMedium out;
  if (headers_only) {
    out.parts.push_back(
        {MediaKind::kImage, CountImageTokens(source, config, options.image_budget), ""});
    const MediaBytes bytes(source);
    const ImageSize size = ProbeImage(bytes.bytes(), bytes.name());
    out.decoding = DecodedBytes(size);
    return out;
  }
  ImageFeatures image;
  if (options.augment.images()) {
    const MediaBytes bytes(source);
    Image pixels = DecodeImage(bytes.bytes(), bytes.name());
    const ImageSize size = TargetSize({pixels.height, pixels.width}, config,
                                      ImageBudget(config, options.image_budget));
    AugmentImage(options.augment, key, pixels);
    image = Patches(ResizeTo(pixels, size, config), config);
  } else {
    image = LoadImageFeatures(source, config, options.image_budget);
  }
  out.parts.push_back({MediaKind::kImage, image.tokens, ""});
  out.vision.features = image.features;
  out.vision.rows = std::move(image.rows);
  out.vision.positions = std::move(image.positions);
  return out;
}

// Appends samples [begin, end) as one part of sound.
void AddSound(const std::vector<float>& samples, int64_t begin, int64_t end,
              const AudioProcessorConfig& config, bool headers_only, LoadedMedium& out) {
  if (end <= begin) return;
  const int64_t width = config.audio_samples_per_token;
  const int64_t tokens = (end - begin + width - 1) / width;
  out.parts.push_back({MediaKind::kAudio, tokens, ""});
  out.sound.features = width;
  if (headers_only) return;
  const size_t first = out.sound.rows.size();
  out.sound.rows.insert(out.sound.rows.end(), samples.begin() + begin, samples.begin() + end);
  out.sound.rows.resize(first + static_cast<size_t>(tokens * width), 0.0f);
}

int64_t LongestSound(const AudioProcessorConfig& config) {
  return config.audio_seq_length * config.audio_samples_per_token;
}

// Under the limit: whole, cut short, in pieces, or refused.
void AddLimited(std::vector<float> samples, const std::string& name, const SampleOptions& options,
                bool headers_only, LoadedMedium& out) {
  const AudioProcessorConfig& config = options.media.audio;
  const int64_t longest = LongestSound(config);
  auto size = static_cast<int64_t>(samples.size());
  const bool over = size > longest;
  if (over && options.audio_limit == AudioLimit::kPieces) {
    int64_t begin = 0;
    for (const int64_t end : CutAtSilence(samples, longest, config.sampling_rate)) {
      AddSound(samples, begin, end, config, headers_only, out);
      begin = end;
    }
    return;
  }
  if (over && options.audio_limit == AudioLimit::kTruncate) size = longest;
  LAPIDARY_CHECK(!over || options.audio_limit != AudioLimit::kError, name,
                 ": a sound may have at most ", longest, " samples; got ", size,
                 "; try audio_limit \"pieces\", \"truncate\" or \"allow\"");
  AddSound(samples, 0, size, config, headers_only, out);
}

LoadedMedium LoadAudio(const MediaSource& source, const SampleOptions& options,
                       const AugmentKey& key, bool headers_only) {
  const AudioProcessorConfig& config = options.media.audio;
  LoadedMedium out;
  if (headers_only) {
    const int64_t tokens = CountAudioTokens(source, config, AudioLimit::kAllow);
    // Samples as decoded and as resampled.
    out.decoding =
        2 * tokens * config.audio_samples_per_token * static_cast<int64_t>(sizeof(float));
    if (tokens <= config.audio_seq_length || options.audio_limit == AudioLimit::kAllow) {
      out.parts.push_back({MediaKind::kAudio, tokens, ""});
      return out;
    }
  }
  const MediaBytes bytes(source);
  std::vector<float> samples = DecodeAudio(bytes.bytes(), bytes.name(), config.sampling_rate);
  if (!headers_only && options.augment.sounds()) {
    AugmentSound(options.augment, key, config.sampling_rate, samples);
  }
  AddLimited(std::move(samples), bytes.name(), options, headers_only, out);
  return out;
}

// Pictures that a video decoder holds, in pairs: references, and those on their way.
constexpr int64_t kCodecFrames = 8;

// Which frames of a clip are taken.
std::vector<int64_t> ChooseFrames(const VideoInfo& info, const SampleOptions& options,
                                  const std::string& name) {
  const VideoOptions& video = options.video;
  if (video.fps == 0) {
    const int64_t frames =
        options.num_frames != 0 ? options.num_frames : options.media.video.num_frames;
    LAPIDARY_CHECK(frames <= info.total_frames, name,
                   ": num_frames must be 1 to the number of frames of the clip, ",
                   info.total_frames, "; got ", frames,
                   "; try a smaller num_frames, or frames by rate (video_fps)");
    return SampleFrameIndices(info.total_frames, frames);
  }
  std::vector<int64_t> indices = SampleFramesByRate(info, video.fps);
  const auto count = static_cast<int64_t>(indices.size());
  if (count <= video.max_frames || video.on_long == OnLongVideo::kSegments) return indices;
  LAPIDARY_CHECK(video.on_long == OnLongVideo::kThin, name, ": a clip may have at most ",
                 video.max_frames, " frames at ", video.fps, " a second; got ", count,
                 "; try on_long_video thin or segments");
  std::vector<int64_t> thin;
  for (const int64_t i : SampleFrameIndices(count, video.max_frames)) thin.push_back(indices[i]);
  return thin;
}

LoadedMedium LoadVideo(const MediaSource& source, const SampleOptions& options, bool headers_only) {
  const VideoProcessorConfig& config = options.media.video;
  const MediaBytes bytes(source);
  const std::string& name = bytes.name();
  const int64_t budget =
      options.video_budget != 0 ? options.video_budget : config.frame.max_soft_tokens;
  LoadedMedium frames;
  std::vector<int64_t> indices;
  VideoInfo info;
  if (headers_only) {
    info = ProbeVideo(bytes.bytes(), name);
    indices = ChooseFrames(info, options, name);
    const int64_t tokens = ImageTokens({info.height, info.width}, config.frame, budget);
    frames.decoding = kCodecFrames * DecodedBytes({info.height, info.width});
    for (size_t i = 0; i < indices.size(); ++i) {
      frames.parts.push_back({MediaKind::kVideo, tokens, ""});
    }
  } else {
    info = DecodeVideoFramesAt(
        bytes.bytes(), name,
        [&](const VideoInfo& headers) { return indices = ChooseFrames(headers, options, name); },
        [&](int64_t, int64_t, Image image) {
          const ImageFeatures cut = Patches(FitImage(image, config.frame, budget), config.frame);
          frames.parts.push_back({MediaKind::kVideo, cut.tokens, ""});
          frames.vision.features = cut.features;
          frames.vision.rows.insert(frames.vision.rows.end(), cut.rows.begin(), cut.rows.end());
          frames.vision.positions.insert(frames.vision.positions.end(), cut.positions.begin(),
                                         cut.positions.end());
        });
  }
  for (size_t i = 0; i < indices.size(); ++i) {
    frames.parts[i].timestamp = VideoTimestamp(indices[i], info.fps);
  }
  const bool segments = options.video.fps > 0 && options.video.on_long == OnLongVideo::kSegments &&
                        static_cast<int64_t>(indices.size()) > options.video.max_frames;
  if (!options.video.sound && !segments) return frames;
  std::vector<float> sound =
      DecodeSoundtrack(bytes.bytes(), name, options.media.audio.sampling_rate);
  if (!segments) {
    AddLimited(std::move(sound), name, options, headers_only, frames);
    return frames;
  }
  // Frames of a stretch of time, then its sound: both as long as a sound may be.
  const int64_t longest = LongestSound(options.media.audio);
  const double seconds =
      static_cast<double>(longest) / static_cast<double>(options.media.audio.sampling_rate);
  LoadedMedium out;
  out.vision = std::move(frames.vision);
  out.decoding = frames.decoding;
  const auto samples = static_cast<int64_t>(sound.size());
  for (int64_t segment = 0, next = 0; next < static_cast<int64_t>(indices.size()); ++segment) {
    const double end = seconds * static_cast<double>(segment + 1);
    while (next < static_cast<int64_t>(indices.size()) &&
           static_cast<double>(indices[next]) / info.fps < end) {
      out.parts.push_back(std::move(frames.parts[next++]));
    }
    AddSound(sound, segment * longest, std::min(samples, (segment + 1) * longest),
             options.media.audio, headers_only, out);
  }
  return out;
}

}  // namespace

int64_t LoadedMedium::Tokens(MediaKind kind) const {
  int64_t sum = 0;
  for (const Part& part : parts) sum += part.kind == kind ? part.tokens : 0;
  return sum;
}

std::string LoadedMedium::Text() const {
  std::string out;
  for (const Part& part : parts) {
    if (part.kind == MediaKind::kImage) {
      out += "<|image>" + Repeat("<|image|>", part.tokens) + "<image|>";
    } else if (part.kind == MediaKind::kAudio) {
      out += "<|audio>" + Repeat("<|audio|>", part.tokens) + "<audio|>";
    } else {
      out += (out.empty() ? "" : " ") + part.timestamp + " <|image>" +
             Repeat("<|video|>", part.tokens) + "<image|>";
    }
  }
  return out;
}

LoadedMedium LoadMedium(const MediaRef& ref, const SampleOptions& options, const AugmentKey& key,
                        bool headers_only) {
  if (ref.kind == MediaKind::kImage) return LoadImage(ref.source, options, key, headers_only);
  if (ref.kind == MediaKind::kAudio) return LoadAudio(ref.source, options, key, headers_only);
  return LoadVideo(ref.source, options, headers_only);
}

}  // namespace lapidary
