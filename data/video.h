// Clips from bytes to a few RGB frames (gemma4-12b.md 6), through the FFmpeg libraries: MP4, WebM,
// AVI, animated GIF and whatever else the installed libavformat reads. Frames are sampled as
// Hugging Face does it: index i * total / num_frames in integers. Bytes are hostile: broken and
// absurd files throw Error. Functions are pure and thread-safe; decoding runs on the calling
// thread.
#ifndef LAPIDARY_DATA_VIDEO_H_
#define LAPIDARY_DATA_VIDEO_H_

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "data/image.h"

namespace lapidary {

struct VideoInfo {
  int64_t total_frames = 0;
  double fps = 0;  // average frame rate; 24 where the file names none, as Hugging Face assumes
  int64_t height = 0;
  int64_t width = 0;
};

struct Video {
  VideoInfo info;
  std::vector<int64_t> indices;  // of the sampled frames
  std::vector<Image> frames;     // all of one size
};

// Longer clips throw Error.
inline constexpr int64_t kMaxVideoFrames = 1'000'000;

// i * total / num_frames for i in [0, num_frames). Throws Error unless 1 <= num_frames <= total.
std::vector<int64_t> SampleFrameIndices(int64_t total, int64_t num_frames);

// Frame count, rate and size of the encoded clip `bytes`, without decoding more than its headers;
// `name` goes into messages.
VideoInfo ProbeVideo(std::string_view bytes, const std::string& name);

// `num_frames` frames of the clip, in order. Throws Error if it has fewer.
Video DecodeVideo(std::string_view bytes, const std::string& name, int64_t num_frames);

// The same without keeping the frames: take(i, index, frame) for each, in order; the size in the
// result is that of the frames.
VideoInfo DecodeVideoFrames(std::string_view bytes, const std::string& name, int64_t num_frames,
                            const std::function<void(int64_t, int64_t, Image)>& take);

// The same for the frames that `choose` picks from what the headers say: ascending indices in
// [0, total_frames), at least one.
VideoInfo DecodeVideoFramesAt(std::string_view bytes, const std::string& name,
                              const std::function<std::vector<int64_t>(const VideoInfo&)>& choose,
                              const std::function<void(int64_t, int64_t, Image)>& take);

// The frame shown at each of the times 0, 1/rate, 2/rate, ... seconds of the clip. Throws Error
// unless rate is above 0 and at most 1000.
std::vector<int64_t> SampleFramesByRate(const VideoInfo& info, double rate);

// The sound of the clip's first sound stream, mono at `sampling_rate` Hz (channels averaged,
// resampled as by audio.h); empty if it has none. A stream that begins late is preceded by silence.
std::vector<float> DecodeSoundtrack(std::string_view bytes, const std::string& name,
                                    int64_t sampling_rate = 16000);

// "mm:ss" of a frame: floor(index / fps) seconds, two digits each, minutes not wrapped at 60.
std::string VideoTimestamp(int64_t index, double fps);

}  // namespace lapidary

#endif  // LAPIDARY_DATA_VIDEO_H_
