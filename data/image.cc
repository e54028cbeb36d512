#include "data/image.h"

#include <utility>

#include "autograd/base/error.h"
#include "data/image_codecs.h"

namespace lapidary {
namespace {

enum class Kind { kPng, kJpeg, kWebp, kGif, kBmp, kTiff };

Kind KindOf(std::string_view bytes, const std::string& name) {
  LAPIDARY_CHECK(!bytes.empty(), name, ": a picture must have bytes; got an empty file");
  if (bytes.starts_with("\x89PNG\r\n\x1a\n")) return Kind::kPng;
  if (bytes.starts_with("\xff\xd8\xff")) return Kind::kJpeg;
  if (bytes.size() >= 12 && bytes.starts_with("RIFF") && bytes.substr(8, 4) == "WEBP") {
    return Kind::kWebp;
  }
  if (bytes.starts_with("GIF87a") || bytes.starts_with("GIF89a")) return Kind::kGif;
  if (bytes.starts_with("BM")) return Kind::kBmp;
  if (bytes.starts_with(std::string_view("II*\0", 4)) ||
      bytes.starts_with(std::string_view("MM\0*", 4))) {
    return Kind::kTiff;
  }
  throw Error(StrCat(name, ": a picture must be PNG, JPEG, WebP, GIF, BMP or TIFF; got ",
                     bytes.size(), " bytes of something else; try converting it to PNG"));
}

}  // namespace

void CheckImageSize(int64_t height, int64_t width, const std::string& name) {
  LAPIDARY_CHECK(height >= 1 && width >= 1, name, ": a picture must have pixels; got ", width,
                 " x ", height);
  LAPIDARY_CHECK(
      height <= kMaxImageSide && width <= kMaxImageSide && height <= kMaxImagePixels / width, name,
      ": a picture may have at most ", kMaxImagePixels / 1'000'000, " megapixels and sides of ",
      kMaxImageSide, "; got ", width, " x ", height, "; try scaling it down");
}

Image ApplyOrientation(Image image, int orientation) {
  if (orientation <= 1 || orientation > 8) return image;
  const bool swapped = orientation >= 5;
  const int64_t h = image.height, w = image.width;
  Image out = {.height = swapped ? w : h, .width = swapped ? h : w, .pixels = {}};
  out.pixels.resize(image.pixels.size());
  for (int64_t y = 0; y < out.height; ++y) {
    for (int64_t x = 0; x < out.width; ++x) {
      int64_t sy = swapped ? x : y, sx = swapped ? y : x;
      // Mirrored along the stored rows: 2, 3, 7, 8; along the stored columns: 3, 4, 6, 7.
      if (orientation == 2 || orientation == 3 || orientation >= 7) sx = w - 1 - sx;
      if (orientation == 3 || orientation == 4 || orientation == 6 || orientation == 7) {
        sy = h - 1 - sy;
      }
      const uint8_t* from = &image.pixels[(sy * w + sx) * 3];
      uint8_t* to = &out.pixels[(y * out.width + x) * 3];
      to[0] = from[0], to[1] = from[1], to[2] = from[2];
    }
  }
  return out;
}

Image DecodeImage(std::string_view bytes, const std::string& name, ImageRules rules) {
  const Kind kind = KindOf(bytes, name);
  Image image;
  if (kind == Kind::kJpeg) {
    image = DecodeJpeg(bytes, name);
  } else if (kind == Kind::kWebp) {
    image = DecodeWebp(bytes, name, rules);
  } else if (kind == Kind::kTiff) {
    return DecodeTiff(bytes, name);
  } else {
    image = DecodeStb(bytes, name, rules);
  }
  if (rules == ImageRules::kPil) return image;
  return ApplyOrientation(std::move(image), ExifOrientation(bytes));
}

ImageSize ProbeImage(std::string_view bytes, const std::string& name, ImageRules rules) {
  const Kind kind = KindOf(bytes, name);
  ImageSize size;
  if (kind == Kind::kJpeg) {
    size = ProbeJpeg(bytes, name);
  } else if (kind == Kind::kWebp) {
    size = ProbeWebp(bytes, name);
  } else if (kind == Kind::kTiff) {
    return ProbeTiff(bytes, name);
  } else {
    size = ProbeStb(bytes, name);
  }
  CheckImageSize(size.height, size.width, name);
  if (rules == ImageRules::kPath && ExifOrientation(bytes) >= 5) {
    std::swap(size.height, size.width);
  }
  return size;
}

}  // namespace lapidary
