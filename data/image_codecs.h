// The decoders behind image.h, one for each library, and EXIF. Internal to data/. Every decoder
// throws Error (naming `name`) on broken or truncated input and on more than kMaxImagePixels,
// before it allocates pixels.
#ifndef LAPIDARY_DATA_IMAGE_CODECS_H_
#define LAPIDARY_DATA_IMAGE_CODECS_H_

#include <cstdint>
#include <string>
#include <string_view>

#include "data/image.h"

namespace lapidary {

// Throws Error unless 1 <= width * height <= kMaxImagePixels.
void CheckImageSize(int64_t height, int64_t width, const std::string& name);

// Alpha over white, exactly as Pillow's alpha_composite on an opaque background
// (gemma4-12b.md 4.1).
inline uint8_t OverWhite(uint32_t value, uint32_t alpha) {
  const uint32_t t = value * alpha + 255 * (255 - alpha) + 128;
  return static_cast<uint8_t>((t + (t >> 8)) >> 8);
}

// PNG, GIF (first frame), BMP through stb. Orientation not applied.
Image DecodeStb(std::string_view bytes, const std::string& name, ImageRules rules);
ImageSize ProbeStb(std::string_view bytes, const std::string& name);

// Orientation not applied.
Image DecodeJpeg(std::string_view bytes, const std::string& name);
ImageSize ProbeJpeg(std::string_view bytes, const std::string& name);

// First frame of animations. Orientation not applied.
Image DecodeWebp(std::string_view bytes, const std::string& name, ImageRules rules);
ImageSize ProbeWebp(std::string_view bytes, const std::string& name);

// TIFF, first page. Orientation applied.
Image DecodeTiff(std::string_view bytes, const std::string& name);
ImageSize ProbeTiff(std::string_view bytes, const std::string& name);

// EXIF orientation 1..8 of a PNG (eXIf), JPEG (APP1) or WebP (EXIF chunk); 1 where there is none or
// it makes no sense.
int ExifOrientation(std::string_view bytes);

// The upright picture: orientation 3 turns by 180 degrees, 6 by 90 clockwise, 8 by 90
// counterclockwise; 2, 4, 5, 7 mirror.
Image ApplyOrientation(Image image, int orientation);

}  // namespace lapidary

#endif  // LAPIDARY_DATA_IMAGE_CODECS_H_
