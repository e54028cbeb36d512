// Writers for the media that Lapidary draws itself. Deterministic for one version of libjpeg-turbo.
#ifndef LAPIDARY_DATA_DEMO_ENCODE_H_
#define LAPIDARY_DATA_DEMO_ENCODE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "data/image.h"

namespace lapidary {

struct JpegOptions {
  int quality = 95;        // 1 to 100
  bool subsample = false;  // 4:2:0 instead of 4:4:4
  bool progressive = false;
};

// A JPEG of `image`. Throws Error if it has no pixels or more than 65,500 on a side.
std::string EncodeJpeg(const Image& image, const JpegOptions& options = {});

// A Motion-JPEG AVI of `frames`, all of one size, at `fps` frames per second. Every frame is a key
// frame. `sound`, if there is any, is mono in [-1, 1] at `sampling_rate` Hz and becomes a stream of
// 16-bit PCM, laid between the frames; it may be shorter or longer than they are.
std::string EncodeAvi(const std::vector<Image>& frames, int fps,
                      const std::vector<float>& sound = {}, int sampling_rate = 16000);

}  // namespace lapidary

#endif  // LAPIDARY_DATA_DEMO_ENCODE_H_
