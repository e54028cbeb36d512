// WebP, lossy and lossless, through libwebp; animations give their first frame.
#include <webp/decode.h>
#include <webp/demux.h>

#include <memory>
#include <vector>

#include "autograd/base/error.h"
#include "data/image_codecs.h"

namespace lapidary {
namespace {

const uint8_t* Data(std::string_view bytes) {
  return reinterpret_cast<const uint8_t*>(bytes.data());
}

WebPBitstreamFeatures Features(std::string_view bytes, const std::string& name) {
  WebPBitstreamFeatures features = {};
  LAPIDARY_CHECK(WebPGetFeatures(Data(bytes), bytes.size(), &features) == VP8_STATUS_OK, name,
                 ": must be a whole WebP; got a broken header");
  CheckImageSize(features.height, features.width, name);
  return features;
}

// RGBA of the first frame on the canvas.
std::vector<uint8_t> FirstFrame(std::string_view bytes, size_t pixels, const std::string& name) {
  WebPAnimDecoderOptions options;
  LAPIDARY_CHECK(WebPAnimDecoderOptionsInit(&options) != 0, name,
                 ": libwebp must fit its headers; got another version");
  options.color_mode = MODE_RGBA;
  const WebPData data = {Data(bytes), bytes.size()};
  const std::unique_ptr<WebPAnimDecoder, void (*)(WebPAnimDecoder*)> decoder(
      WebPAnimDecoderNew(&data, &options), WebPAnimDecoderDelete);
  WebPAnimInfo info = {};
  uint8_t* frame = nullptr;
  int timestamp_ms = 0;
  LAPIDARY_CHECK(decoder && WebPAnimDecoderGetInfo(decoder.get(), &info) &&
                     size_t{info.canvas_width} * info.canvas_height == pixels &&
                     WebPAnimDecoderGetNext(decoder.get(), &frame, &timestamp_ms),
                 name, ": must be a whole WebP animation; got broken data");
  return std::vector<uint8_t>(frame, frame + pixels * 4);
}

}  // namespace

ImageSize ProbeWebp(std::string_view bytes, const std::string& name) {
  const WebPBitstreamFeatures features = Features(bytes, name);
  return {.height = features.height, .width = features.width};
}

Image DecodeWebp(std::string_view bytes, const std::string& name, ImageRules rules) {
  const WebPBitstreamFeatures features = Features(bytes, name);
  const size_t pixels = static_cast<size_t>(features.height) * features.width;
  Image image = {.height = features.height, .width = features.width, .pixels = {}};
  image.pixels.resize(pixels * 3);
  const bool blend = rules == ImageRules::kPil && features.has_alpha;
  if (!features.has_animation && !blend) {
    LAPIDARY_CHECK(WebPDecodeRGBInto(Data(bytes), bytes.size(), image.pixels.data(),
                                     image.pixels.size(), features.width * 3) != nullptr,
                   name, ": must be a whole WebP; got broken data");
    return image;
  }
  std::vector<uint8_t> rgba;
  if (features.has_animation) {
    rgba = FirstFrame(bytes, pixels, name);
  } else {
    rgba.resize(pixels * 4);
    LAPIDARY_CHECK(WebPDecodeRGBAInto(Data(bytes), bytes.size(), rgba.data(), rgba.size(),
                                      features.width * 4) != nullptr,
                   name, ": must be a whole WebP; got broken data");
  }
  for (size_t i = 0; i < pixels; ++i) {
    for (int c = 0; c < 3; ++c) {
      const uint8_t v = rgba[i * 4 + c];
      image.pixels[i * 3 + c] = blend ? OverWhite(v, rgba[i * 4 + 3]) : v;
    }
  }
  return image;
}

}  // namespace lapidary
