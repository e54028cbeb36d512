// Small media files for tests, made on the spot.
#ifndef LAPIDARY_TESTS_DATA_MEDIA_SAMPLES_H_
#define LAPIDARY_TESTS_DATA_MEDIA_SAMPLES_H_

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "data/image.h"

namespace lapidary::samples {

// A smooth picture with an edge; `phase` moves it.
Image Picture(int64_t height, int64_t width, int phase = 0);

std::string Webp(const Image& image, bool lossless = true);  // with alpha where lossless
std::string Bmp(const Image& image);                         // 24 bits
// Through libtiff: `compression` is one of its COMPRESSION_ numbers.
std::string Tiff(const Image& image, int compression, bool tiled = false, int orientation = 1);
std::string Gif(int64_t height, int64_t width, int frames);  // uncompressed codes
size_t GifFrameEnd(const std::string& gif);                  // just behind the first frame
std::string PngHeader(uint32_t width, uint32_t height);      // signature and IHDR only
// `jpeg` with an EXIF block behind its first marker.
std::string WithExif(const std::string& jpeg, int orientation);
// A tone through libsndfile; channel c is (1 - c / 2) times as loud.
std::string Sound(int format, int rate, int channels, int frames);

// One of each kind that image.h reads, name and bytes.
std::vector<std::pair<std::string, std::string>> Images();
std::vector<std::pair<std::string, std::string>> Sounds();

}  // namespace lapidary::samples

#endif  // LAPIDARY_TESTS_DATA_MEDIA_SAMPLES_H_
