// TIFF through libtiff: the first page as 8-bit RGB, whatever its kind (palette, gray, CMYK, YCbCr,
// tiles, strips); the orientation that the file names is applied.
#include <tiffio.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "autograd/base/error.h"
#include "data/image_codecs.h"

namespace lapidary {
namespace {

struct Memory {
  std::string_view bytes;
  uint64_t at = 0;
};

tmsize_t Read(thandle_t handle, void* out, tmsize_t size) {
  Memory& m = *static_cast<Memory*>(handle);
  const uint64_t left = m.at < m.bytes.size() ? m.bytes.size() - m.at : 0;
  const uint64_t count =
      std::min<uint64_t>(static_cast<uint64_t>(std::max<tmsize_t>(size, 0)), left);
  if (count > 0) std::memcpy(out, m.bytes.data() + m.at, count);
  m.at += count;
  return static_cast<tmsize_t>(count);
}

tmsize_t Write(thandle_t, void*, tmsize_t) { return 0; }

toff_t Seek(thandle_t handle, toff_t offset, int whence) {
  Memory& m = *static_cast<Memory*>(handle);
  m.at = whence == SEEK_SET ? offset : whence == SEEK_CUR ? m.at + offset : m.bytes.size() + offset;
  return m.at;
}

int Close(thandle_t) { return 0; }
toff_t Size(thandle_t handle) { return static_cast<Memory*>(handle)->bytes.size(); }
// The bytes are in memory already.
int Map(thandle_t handle, void** base, toff_t* size) {
  const Memory& m = *static_cast<Memory*>(handle);
  *base = const_cast<char*>(m.bytes.data());
  *size = m.bytes.size();
  return 1;
}
void Unmap(thandle_t, void*, toff_t) {}

using File = std::unique_ptr<TIFF, void (*)(TIFF*)>;

// The reason of the last failure on this thread; libtiff's handlers are of the process.
thread_local std::string last_error;

void KeepError(const char*, const char* format, va_list arguments) {
  char text[200];
  std::vsnprintf(text, sizeof text, format, arguments);
  last_error = text;
}

File Open(Memory& memory, const std::string& name, uint32_t& width, uint32_t& height) {
  static const bool quiet = (TIFFSetWarningHandler(nullptr), TIFFSetErrorHandler(KeepError), true);
  static_cast<void>(quiet);
  last_error.clear();
  File file(TIFFClientOpen("tiff", "rm", &memory, Read, Write, Seek, Close, Size, Map, Unmap),
            [](TIFF* t) {
              if (t != nullptr) TIFFClose(t);
            });
  LAPIDARY_CHECK(file != nullptr && TIFFGetField(file.get(), TIFFTAG_IMAGEWIDTH, &width) == 1 &&
                     TIFFGetField(file.get(), TIFFTAG_IMAGELENGTH, &height) == 1,
                 name, ": must be a whole TIFF; got a broken header (", last_error, ")");
  CheckImageSize(height, width, name);
  return file;
}

}  // namespace

ImageSize ProbeTiff(std::string_view bytes, const std::string& name) {
  Memory memory = {bytes};
  uint32_t width = 0, height = 0;
  const File file = Open(memory, name, width, height);
  uint16_t orientation = ORIENTATION_TOPLEFT;
  TIFFGetFieldDefaulted(file.get(), TIFFTAG_ORIENTATION, &orientation);
  const bool turned = orientation >= 5 && orientation <= 8;
  return {.height = turned ? width : height, .width = turned ? height : width};
}

Image DecodeTiff(std::string_view bytes, const std::string& name) {
  Memory memory = {bytes};
  uint32_t width = 0, height = 0;
  const File file = Open(memory, name, width, height);
  // A strip or tile is decoded whole: none may be much larger than the picture.
  const uint64_t pixels = static_cast<uint64_t>(width) * height;
  const tmsize_t piece =
      TIFFIsTiled(file.get()) ? TIFFTileSize(file.get()) : TIFFStripSize(file.get());
  LAPIDARY_CHECK(piece > 0 && static_cast<uint64_t>(piece) <= pixels * 64 + (uint64_t{1} << 24),
                 name, ": a strip or tile must not be larger than the picture; got ", piece,
                 " bytes");
  char reason[1024] = "";
  LAPIDARY_CHECK(TIFFRGBAImageOK(file.get(), reason) == 1, name,
                 ": a TIFF must be of a common kind; got ", reason, "; try converting it to PNG");
  std::vector<uint32_t> raster(pixels);
  last_error.clear();
  uint16_t orientation = ORIENTATION_TOPLEFT;
  TIFFGetFieldDefaulted(file.get(), TIFFTAG_ORIENTATION, &orientation);
  // Asked for the file's own orientation, libtiff leaves rows and columns where they are. (For 6
  // and 8 it would mirror the wrong way before turning.)
  const int done =
      TIFFReadRGBAImageOriented(file.get(), width, height, raster.data(), orientation, 1);
  LAPIDARY_CHECK(done == 1, name, ": must be a whole TIFF; got broken data (", last_error, ")");
  Image image = {.height = height, .width = width, .pixels = {}};
  image.pixels.resize(pixels * 3);
  for (uint64_t i = 0; i < pixels; ++i) {
    image.pixels[i * 3] = static_cast<uint8_t>(TIFFGetR(raster[i]));
    image.pixels[i * 3 + 1] = static_cast<uint8_t>(TIFFGetG(raster[i]));
    image.pixels[i * 3 + 2] = static_cast<uint8_t>(TIFFGetB(raster[i]));
  }
  return orientation >= 2 && orientation <= 8 ? ApplyOrientation(std::move(image), orientation)
                                              : image;
}

}  // namespace lapidary
