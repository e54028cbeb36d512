// PNG, GIF and BMP through stb_image, and PNG writing through stb_image_write.
#include <algorithm>
#include <climits>
#include <cstdlib>
#include <cstring>
#include <memory>

#include "autograd/base/error.h"
#include "data/image_codecs.h"

namespace lapidary {
namespace {

// stb sizes its buffers by what the file says, and inflates without an end. Every allocation is
// held below this limit, which the decoder sets from the size of the picture.
thread_local size_t allocation_limit = 0;

void* LimitedRealloc(void* old, size_t bytes) {
  return bytes <= allocation_limit ? std::realloc(old, bytes) : nullptr;
}

// stb copies nothing to nowhere (an empty IDAT chunk), which memcpy forbids.
void* CopySome(void* to, const void* from, size_t bytes) {
  return bytes > 0 ? std::memcpy(to, from, bytes) : to;
}

}  // namespace
}  // namespace lapidary

#define STB_IMAGE_IMPLEMENTATION
#define STB_IMAGE_STATIC
#define STBI_NO_STDIO
#define STBI_ONLY_PNG
#define STBI_ONLY_GIF
#define STBI_ONLY_BMP
#define STBI_MALLOC(size) lapidary::LimitedRealloc(nullptr, size)
#define STBI_REALLOC(p, size) lapidary::LimitedRealloc(p, size)
#define STBI_FREE(p) std::free(p)
#define STBI_ASSERT(x)
#define STB_IMAGE_WRITE_IMPLEMENTATION
#define STB_IMAGE_WRITE_STATIC
#define STBI_WRITE_NO_STDIO
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-function"
#pragma GCC diagnostic ignored "-Wunused-but-set-variable"
#pragma GCC diagnostic ignored "-Wmissing-field-initializers"
#pragma GCC diagnostic ignored "-Wsign-compare"
#define memcpy lapidary::CopySome
#include <stb/stb_image.h>
#undef memcpy
#include <stb/stb_image_write.h>
#pragma GCC diagnostic pop

namespace lapidary {
namespace {

// Bytes as stb reads them; `overrun` is set when it asks for more than there is (it would go on
// with zeros).
struct Stream {
  std::string_view bytes;
  size_t at = 0;
  bool overrun = false;
};

int ReadStream(void* user, char* data, int size) {
  Stream& stream = *static_cast<Stream*>(user);
  const size_t count = std::min<size_t>(size, stream.bytes.size() - stream.at);
  if (count == 0 && size > 0) stream.overrun = true;
  std::memcpy(data, stream.bytes.data() + stream.at, count);
  stream.at += count;
  return static_cast<int>(count);
}

void SkipStream(void* user, int count) {
  Stream& stream = *static_cast<Stream*>(user);
  if (count < 0) {
    stream.at -= std::min<size_t>(stream.at, -static_cast<int64_t>(count));
  } else if (static_cast<size_t>(count) > stream.bytes.size() - stream.at) {
    stream.at = stream.bytes.size();
    stream.overrun = true;
  } else {
    stream.at += count;
  }
}

int EofStream(void* user) {
  const Stream& stream = *static_cast<Stream*>(user);
  return stream.at >= stream.bytes.size();
}

constexpr stbi_io_callbacks kCallbacks = {ReadStream, SkipStream, EofStream};

struct StbFree {
  void operator()(void* p) const { std::free(p); }
};

struct Header {
  int width = 0, height = 0, channels = 0;
  bool wide = false;  // 16 bits a sample
};

int64_t BigEndian(std::string_view bytes) {
  uint32_t value = 0;
  for (int i = 0; i < 4; ++i) value = value << 8 | static_cast<uint8_t>(bytes[i]);
  return value;
}

Header ReadHeader(std::string_view bytes, const std::string& name) {
  LAPIDARY_CHECK(bytes.size() <= INT_MAX, name, ": a picture file must be below 2 GiB; got ",
                 bytes.size(), " bytes");
  // stb has limits of its own with less to say about them.
  if (bytes.starts_with("\x89PNG") && bytes.size() >= 24) {
    CheckImageSize(BigEndian(bytes.substr(20)), BigEndian(bytes.substr(16)), name);
  }
  allocation_limit = size_t{1} << 20;
  Header h;
  Stream stream = {.bytes = bytes};
  LAPIDARY_CHECK(
      stbi_info_from_callbacks(&kCallbacks, &stream, &h.width, &h.height, &h.channels) == 1, name,
      ": must be a whole PNG, GIF or BMP; got a broken header (", stbi_failure_reason(), ")");
  stream = {.bytes = bytes};
  h.wide = bytes.starts_with("\x89PNG") && stbi_is_16_bit_from_callbacks(&kCallbacks, &stream) == 1;
  CheckImageSize(h.height, h.width, name);
  return h;
}

// 16-bit samples to RGB; `channels` is what the file holds, alpha made from a color key included.
void FromWide(const uint16_t* in, int channels, ImageRules rules, Image& out) {
  const bool gray = channels <= 2, alpha = channels == 2 || channels == 4;
  const int64_t count = out.height * out.width;
  for (int64_t i = 0; i < count; ++i, in += channels) {
    for (int c = 0; c < 3; ++c) {
      const uint32_t v = in[gray ? 0 : c];
      uint32_t byte = (v + 128) / 257;  // round(v / 257)
      if (rules == ImageRules::kPil) {
        byte = channels == 1 ? std::min(v, 255u) : v >> 8;
        if (alpha) byte = OverWhite(byte, in[channels - 1] >> 8);
      }
      out.pixels[i * 3 + c] = static_cast<uint8_t>(byte);
    }
  }
}

}  // namespace

ImageSize ProbeStb(std::string_view bytes, const std::string& name) {
  const Header h = ReadHeader(bytes, name);
  return {.height = h.height, .width = h.width};
}

Image DecodeStb(std::string_view bytes, const std::string& name, ImageRules rules) {
  const Header h = ReadHeader(bytes, name);
  // Raw rows, the picture in 4 channels of 16 bits, the compressed bytes; the inflater doubles its
  // buffer.
  const size_t pixels = static_cast<size_t>(h.width) * static_cast<size_t>(h.height);
  allocation_limit = pixels * 16 + bytes.size() * 2 + (size_t{16} << 20);
  Stream stream = {.bytes = bytes};
  int width = 0, height = 0, channels = 0;
  const int want = rules == ImageRules::kPil && !h.wide ? 4 : h.wide ? 0 : 3;
  std::unique_ptr<void, StbFree> data;
  if (h.wide) {
    data.reset(stbi_load_16_from_callbacks(&kCallbacks, &stream, &width, &height, &channels, want));
  } else {
    data.reset(stbi_load_from_callbacks(&kCallbacks, &stream, &width, &height, &channels, want));
  }
  LAPIDARY_CHECK(data != nullptr, name, ": must be a whole PNG, GIF or BMP; got broken data (",
                 stbi_failure_reason(), ")");
  LAPIDARY_CHECK(!stream.overrun, name, ": must be a whole picture; got a truncated file of ",
                 bytes.size(), " bytes");
  LAPIDARY_CHECK(width == h.width && height == h.height, name,
                 ": a picture must have one size; got two headers");
  Image image = {.height = height, .width = width, .pixels = {}};
  image.pixels.resize(pixels * 3);
  if (h.wide) {
    FromWide(static_cast<const uint16_t*>(data.get()), channels, rules, image);
  } else if (want == 4) {
    const uint8_t* in = static_cast<const uint8_t*>(data.get());
    for (size_t i = 0; i < pixels; ++i, in += 4) {
      for (int c = 0; c < 3; ++c) image.pixels[i * 3 + c] = OverWhite(in[c], in[3]);
    }
  } else {
    std::memcpy(image.pixels.data(), data.get(), image.pixels.size());
  }
  return image;
}

std::string EncodePng(const Image& image) {
  CheckImageSize(image.height, image.width, "EncodePng");
  LAPIDARY_CHECK(static_cast<int64_t>(image.pixels.size()) == image.height * image.width * 3,
                 "EncodePng: a picture must have height * width * 3 bytes; got ",
                 image.pixels.size());
  std::string out;
  const auto append = [](void* user, void* data, int size) {
    static_cast<std::string*>(user)->append(static_cast<const char*>(data), size);
  };
  const int written = stbi_write_png_to_func(append, &out, static_cast<int>(image.width),
                                             static_cast<int>(image.height), 3, image.pixels.data(),
                                             static_cast<int>(image.width * 3));
  LAPIDARY_CHECK(written == 1, "EncodePng: must have memory; got none");
  return out;
}

}  // namespace lapidary
