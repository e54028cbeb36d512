#include "tests/data/media_samples.h"

#include <sndfile.h>
#include <tiffio.h>
#include <webp/encode.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>

#include "autograd/base/error.h"
#include "data/audio.h"
#include "data/demo/encode.h"

namespace lapidary::samples {
namespace {

void Put(std::string& out, uint32_t value, int size) {
  for (int i = 0; i < size; ++i) out.push_back(static_cast<char>(value >> (8 * i)));
}

}  // namespace

Image Picture(int64_t height, int64_t width, int phase) {
  Image image = {.height = height, .width = width, .pixels = {}};
  for (int64_t y = 0; y < height; ++y) {
    for (int64_t x = 0; x < width; ++x) {
      image.pixels.push_back(static_cast<uint8_t>(127 + 100 * std::sin(0.21 * x + phase)));
      image.pixels.push_back(static_cast<uint8_t>(127 + 90 * std::cos(0.17 * y - phase)));
      image.pixels.push_back(x + y + phase > (height + width) / 2 ? 220 : 30);
    }
  }
  return image;
}

std::string Webp(const Image& image, bool lossless) {
  const int h = static_cast<int>(image.height), w = static_cast<int>(image.width);
  uint8_t* data = nullptr;
  size_t size = 0;
  if (lossless) {
    size = WebPEncodeLosslessRGB(image.pixels.data(), w, h, w * 3, &data);
  } else {
    size = WebPEncodeRGB(image.pixels.data(), w, h, w * 3, 80, &data);
  }
  std::string out(reinterpret_cast<const char*>(data), size);
  WebPFree(data);
  return out;
}

std::string Tiff(const Image& image, int compression, bool tiled, int orientation) {
  struct Memory {
    std::string bytes;
    size_t at = 0;
  } memory;
  const auto read = [](thandle_t h, void* out, tmsize_t size) -> tmsize_t {
    Memory& m = *static_cast<Memory*>(h);
    const size_t count = std::min<size_t>(size, m.bytes.size() - std::min(m.at, m.bytes.size()));
    std::copy_n(m.bytes.data() + m.at, count, static_cast<char*>(out));
    m.at += count;
    return static_cast<tmsize_t>(count);
  };
  const auto write = [](thandle_t h, void* data, tmsize_t size) -> tmsize_t {
    Memory& m = *static_cast<Memory*>(h);
    if (m.bytes.size() < m.at + size) m.bytes.resize(m.at + size);
    m.bytes.replace(m.at, size, static_cast<const char*>(data), size);
    m.at += size;
    return size;
  };
  const auto seek = [](thandle_t h, toff_t offset, int whence) -> toff_t {
    Memory& m = *static_cast<Memory*>(h);
    return m.at = offset + (whence == SEEK_CUR ? m.at : whence == SEEK_END ? m.bytes.size() : 0);
  };
  TIFF* tiff = TIFFClientOpen(
      "tiff", "w", &memory, read, write, seek, [](thandle_t) { return 0; },
      [](thandle_t h) -> toff_t { return static_cast<Memory*>(h)->bytes.size(); }, nullptr,
      nullptr);
  LAPIDARY_CHECK(tiff != nullptr, "samples::Tiff: libtiff must write; got none");
  const uint32_t width = static_cast<uint32_t>(image.width);
  const uint32_t height = static_cast<uint32_t>(image.height);
  TIFFSetField(tiff, TIFFTAG_IMAGEWIDTH, width);
  TIFFSetField(tiff, TIFFTAG_IMAGELENGTH, height);
  TIFFSetField(tiff, TIFFTAG_BITSPERSAMPLE, 8);
  TIFFSetField(tiff, TIFFTAG_SAMPLESPERPIXEL, 3);
  TIFFSetField(tiff, TIFFTAG_PHOTOMETRIC, PHOTOMETRIC_RGB);
  TIFFSetField(tiff, TIFFTAG_PLANARCONFIG, PLANARCONFIG_CONTIG);
  TIFFSetField(tiff, TIFFTAG_COMPRESSION, compression);
  TIFFSetField(tiff, TIFFTAG_ORIENTATION, orientation);
  if (tiled) {
    constexpr int64_t kSide = 32;
    TIFFSetField(tiff, TIFFTAG_TILEWIDTH, kSide);
    TIFFSetField(tiff, TIFFTAG_TILELENGTH, kSide);
    for (int64_t top = 0; top < image.height; top += kSide) {
      for (int64_t left = 0; left < image.width; left += kSide) {
        std::vector<uint8_t> tile(kSide * kSide * 3);
        for (int64_t i = 0; i < kSide * kSide * 3; ++i) {
          const int64_t y = std::min(top + i / (kSide * 3), image.height - 1);
          const int64_t x = std::min(left + i / 3 % kSide, image.width - 1);
          tile[i] = image.pixels[(y * image.width + x) * 3 + i % 3];
        }
        TIFFWriteTile(tiff, tile.data(), static_cast<uint32_t>(left), static_cast<uint32_t>(top), 0,
                      0);
      }
    }
  } else {
    TIFFSetField(tiff, TIFFTAG_ROWSPERSTRIP, 5);
    std::vector<uint8_t> row;
    for (uint32_t y = 0; y < height; ++y) {
      row.assign(image.pixels.begin() + y * width * 3, image.pixels.begin() + (y + 1) * width * 3);
      TIFFWriteScanline(tiff, row.data(), y, 0);
    }
  }
  TIFFClose(tiff);
  return memory.bytes;
}

std::string Bmp(const Image& image) {
  const uint32_t stride = static_cast<uint32_t>((image.width * 3 + 3) / 4 * 4);
  const uint32_t bytes = stride * static_cast<uint32_t>(image.height);
  std::string out = "BM";
  Put(out, 54 + bytes, 4);
  Put(out, 0, 4);
  Put(out, 54, 4);
  Put(out, 40, 4);
  Put(out, static_cast<uint32_t>(image.width), 4);
  Put(out, static_cast<uint32_t>(image.height), 4);
  Put(out, 1, 2);
  Put(out, 24, 2);
  for (const uint32_t value : {0u, bytes, 2835u, 2835u, 0u, 0u}) Put(out, value, 4);
  for (int64_t y = image.height - 1; y >= 0; --y) {
    for (int64_t x = 0; x < image.width; ++x) {
      const uint8_t* p = &image.pixels[(y * image.width + x) * 3];
      for (const int c : {2, 1, 0}) out.push_back(static_cast<char>(p[c]));
    }
    out.append(stride - image.width * 3, '\0');
  }
  return out;
}

std::string Gif(int64_t height, int64_t width, int frames) {
  std::string out = "GIF89a";
  Put(out, static_cast<uint32_t>(width), 2);
  Put(out, static_cast<uint32_t>(height), 2);
  Put(out, 0xf1, 1);  // a table of 4 colors
  Put(out, 0, 2);
  for (const uint8_t v : {0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 255})
    out.push_back(static_cast<char>(v));
  for (int f = 0; f < frames; ++f) {
    out += std::string("\x21\xf9\x04\x00\x14\x00\x00\x00", 8);  // 0.2 s
    out.push_back(0x2c);
    Put(out, 0, 4);
    Put(out, static_cast<uint32_t>(width), 2);
    Put(out, static_cast<uint32_t>(height), 2);
    out.push_back(0);
    out.push_back(2);  // 3-bit codes: 4 colors, 4 = clear, 5 = end
    std::string packed;
    uint32_t bits = 0;
    int count = 0;
    const auto code = [&](uint32_t value) {
      bits |= value << count;
      for (count += 3; count >= 8; count -= 8, bits >>= 8)
        packed.push_back(static_cast<char>(bits));
    };
    // A clear code before every second pixel keeps the codes at 3 bits.
    for (int64_t i = 0; i < height * width; ++i) {
      if (i % 2 == 0) code(4);
      code(static_cast<uint32_t>((i / 3 + f) % 4));
    }
    code(5);
    if (count > 0) packed.push_back(static_cast<char>(bits));
    for (size_t at = 0; at < packed.size(); at += 255) {
      const std::string block = packed.substr(at, 255);
      out.push_back(static_cast<char>(block.size()));
      out += block;
    }
    out.push_back(0);
  }
  out.push_back(0x3b);
  return out;
}

size_t GifFrameEnd(const std::string& gif) {
  size_t at = gif.find('\x2c', 25) + 11;  // behind the minimum code size
  while (at < gif.size() && gif[at] != 0) at += 1 + static_cast<uint8_t>(gif[at]);
  return at;
}

std::string PngHeader(uint32_t width, uint32_t height) {
  std::string out("\x89PNG\r\n\x1a\n\0\0\0\rIHDR", 16);
  for (const uint32_t value : {width, height}) {
    for (int i = 3; i >= 0; --i) out.push_back(static_cast<char>(value >> (8 * i)));
  }
  out += std::string("\x08\x02\0\0\0\0\0\0\0", 9);
  return out;
}

std::string WithExif(const std::string& jpeg, int orientation) {
  std::string exif("Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0", 25);
  exif.push_back(static_cast<char>(orientation));
  exif += std::string("\0\0\0\0\0\0", 6);
  std::string marker("\xff\xe1\0", 3);
  marker.push_back(static_cast<char>(exif.size() + 2));
  return jpeg.substr(0, 2) + marker + exif + jpeg.substr(2);
}

std::string Sound(int format, int rate, int channels, int frames) {
  std::string out;
  struct Sink {
    std::string* out;
    size_t at;
  } sink = {&out, 0};
  static SF_VIRTUAL_IO io = {
      [](void* user) -> sf_count_t { return static_cast<Sink*>(user)->out->size(); },
      [](sf_count_t offset, int whence, void* user) -> sf_count_t {
        Sink& s = *static_cast<Sink*>(user);
        s.at = offset + (whence == SEEK_SET ? 0 : whence == SEEK_CUR ? s.at : s.out->size());
        return s.at;
      },
      [](void* data, sf_count_t count, void* user) -> sf_count_t {
        Sink& s = *static_cast<Sink*>(user);
        count = std::min<sf_count_t>(count, s.out->size() - std::min(s.at, s.out->size()));
        s.out->copy(static_cast<char*>(data), count, s.at);
        s.at += count;
        return count;
      },
      [](const void* data, sf_count_t count, void* user) -> sf_count_t {
        Sink& s = *static_cast<Sink*>(user);
        if (s.out->size() < s.at + count) s.out->resize(s.at + count);
        s.out->replace(s.at, count, static_cast<const char*>(data), count);
        s.at += count;
        return count;
      },
      [](void* user) -> sf_count_t { return static_cast<Sink*>(user)->at; }};
  SF_INFO info = {};
  info.format = format;
  info.samplerate = rate;
  info.channels = channels;
  SNDFILE* file = sf_open_virtual(&io, SFM_WRITE, &info, &sink);
  LAPIDARY_CHECK(file != nullptr, "samples::Sound: libsndfile must write ", format, "; got ",
                 sf_strerror(nullptr));
  std::vector<float> wave;
  for (int i = 0; i < frames; ++i) {
    for (int c = 0; c < channels; ++c) {
      wave.push_back(static_cast<float>((1 - c / 2.0) * 0.8 * std::sin(0.1 * i + 1e-5 * i * i)));
    }
  }
  sf_writef_float(file, wave.data(), frames);
  sf_close(file);
  return out;
}

std::vector<std::pair<std::string, std::string>> Images() {
  const Image image = Picture(21, 34);
  return {{"a.png", EncodePng(image)},
          {"a.jpg", EncodeJpeg(image, {.quality = 85, .subsample = true})},
          {"progressive.jpg", EncodeJpeg(image, {.quality = 85, .progressive = true})},
          {"exif.jpg", WithExif(EncodeJpeg(image), 6)},
          {"lossless.webp", Webp(image)},
          {"lossy.webp", Webp(image, false)},
          {"a.bmp", Bmp(image)},
          {"a.tif", Tiff(image, COMPRESSION_NONE)},
          {"lzw.tif", Tiff(image, COMPRESSION_LZW)},
          {"tiles.tif", Tiff(image, COMPRESSION_ADOBE_DEFLATE, true)},
          {"turned.tif", Tiff(image, COMPRESSION_PACKBITS, false, 6)},
          {"a.gif", Gif(9, 14, 3)}};
}

std::vector<std::pair<std::string, std::string>> Sounds() {
  return {{"a.wav", EncodeWav(std::vector<float>(700, 0.25f))},
          {"stereo.wav", Sound(SF_FORMAT_WAV | SF_FORMAT_PCM_24, 44100, 2, 900)},
          {"float.wav", Sound(SF_FORMAT_WAV | SF_FORMAT_FLOAT, 8000, 1, 900)},
          {"a.flac", Sound(SF_FORMAT_FLAC | SF_FORMAT_PCM_16, 16000, 1, 2000)},
          {"a.ogg", Sound(SF_FORMAT_OGG | SF_FORMAT_VORBIS, 16000, 1, 4000)},
          {"a.mp3", Sound(SF_FORMAT_MPEG | SF_FORMAT_MPEG_LAYER_III, 16000, 1, 4000)}};
}

}  // namespace lapidary::samples
