// Pictures from bytes to RGB pixels, the way Transformers sees them (gemma4-12b.md 4.1). PNG (every
// type), JPEG (baseline, progressive, gray, CMYK; libjpeg-turbo), WebP (libwebp), the first page
// of TIFF (libtiff), and the first frame of GIF and BMP (stb). The kind is told from the bytes.
// Bytes are hostile: broken, truncated and absurdly large pictures throw Error. Functions are pure
// and thread-safe.
#ifndef LAPIDARY_DATA_IMAGE_H_
#define LAPIDARY_DATA_IMAGE_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace lapidary {

// 8-bit RGB, row-major, channel fastest: pixels[(y * width + x) * 3 + channel].
struct Image {
  int64_t height = 0;
  int64_t width = 0;
  std::vector<uint8_t> pixels;
};

// Which of the two ways of Transformers to follow.
enum class ImageRules {
  kPath,  // a path or URL in a message: alpha and color keys dropped, EXIF orientation applied, 16
          // bit -> round(v / 257)
  kPil,   // an opened PIL image: alpha over white, EXIF ignored, 16-bit RGB v >> 8, 16-bit gray
          // saturates at 255
};

// Larger pictures throw Error before their pixels are allocated.
inline constexpr int64_t kMaxImagePixels = 100'000'000;
inline constexpr int64_t kMaxImageSide = 1'000'000;

struct ImageSize {
  int64_t height = 0;
  int64_t width = 0;
};

// Pixels of the encoded picture `bytes`; `name` goes into messages.
Image DecodeImage(std::string_view bytes, const std::string& name,
                  ImageRules rules = ImageRules::kPath);

// Size of the picture as DecodeImage would return it (orientation applied), from its headers alone.
ImageSize ProbeImage(std::string_view bytes, const std::string& name,
                     ImageRules rules = ImageRules::kPath);

// An 8-bit RGB PNG. Deterministic. Throws Error if image.pixels is not height * width * 3 bytes.
std::string EncodePng(const Image& image);

}  // namespace lapidary

#endif  // LAPIDARY_DATA_IMAGE_H_
