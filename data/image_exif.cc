// Where EXIF hides in each kind of file, and the one tag of it that matters here. Reads within the
// bytes given, whatever they say.
#include "data/image_codecs.h"

namespace lapidary {
namespace {

// Unsigned integer of `size` bytes at `at`; 0 beyond the end.
uint64_t Read(std::string_view bytes, uint64_t at, int size, bool big_endian) {
  if (at > bytes.size() || bytes.size() - at < static_cast<uint64_t>(size)) return 0;
  uint64_t value = 0;
  for (int i = 0; i < size; ++i) {
    const int from = big_endian ? i : size - 1 - i;
    value = value << 8 | static_cast<uint8_t>(bytes[at + from]);
  }
  return value;
}

// Tag 0x112 (SHORT) of the first directory of a TIFF block; 1 if absent or out of range.
int OrientationOfTiff(std::string_view tiff) {
  if (tiff.starts_with(std::string_view("Exif\0\0", 6))) tiff.remove_prefix(6);
  const bool big = tiff.starts_with("MM");
  if ((!big && !tiff.starts_with("II")) || Read(tiff, 2, 2, big) != 42) return 1;
  const uint64_t directory = Read(tiff, 4, 4, big);
  const uint64_t entries = Read(tiff, directory, 2, big);
  for (uint64_t i = 0; i < entries; ++i) {
    const uint64_t entry = directory + 2 + i * 12;
    if (entry + 12 > tiff.size()) break;
    if (Read(tiff, entry, 2, big) != 0x112) continue;
    const uint64_t value = Read(tiff, entry + 8, 2, big);
    return value >= 1 && value <= 8 ? static_cast<int>(value) : 1;
  }
  return 1;
}

int OrientationOfJpeg(std::string_view bytes) {
  for (uint64_t at = 2; at + 4 <= bytes.size();) {
    if (static_cast<uint8_t>(bytes[at]) != 0xff) return 1;
    const uint8_t marker = static_cast<uint8_t>(bytes[at + 1]);
    if (marker == 0xff) {  // fill byte
      ++at;
      continue;
    }
    if (marker == 0xda || marker == 0xd9) return 1;  // start of scan, end of image
    const uint64_t length = Read(bytes, at + 2, 2, true);
    if (length < 2) return 1;
    if (marker == 0xe1 && bytes.substr(at + 4).starts_with(std::string_view("Exif\0\0", 6))) {
      return OrientationOfTiff(bytes.substr(at + 4, length - 2));
    }
    at += 2 + length;
  }
  return 1;
}

int OrientationOfPng(std::string_view bytes) {
  for (uint64_t at = 8; at + 12 <= bytes.size();) {
    const uint64_t length = Read(bytes, at, 4, true);
    const std::string_view type = bytes.substr(at + 4, 4);
    if (type == "eXIf") return OrientationOfTiff(bytes.substr(at + 8, length));
    if (type == "IEND") return 1;
    at += 12 + length;
  }
  return 1;
}

int OrientationOfWebp(std::string_view bytes) {
  for (uint64_t at = 12; at + 8 <= bytes.size();) {
    const uint64_t length = Read(bytes, at + 4, 4, false);
    if (bytes.substr(at, 4) == "EXIF") return OrientationOfTiff(bytes.substr(at + 8, length));
    at += 8 + length + (length & 1);
  }
  return 1;
}

}  // namespace

int ExifOrientation(std::string_view bytes) {
  if (bytes.starts_with("\x89PNG")) return OrientationOfPng(bytes);
  if (bytes.starts_with("\xff\xd8")) return OrientationOfJpeg(bytes);
  if (bytes.starts_with("RIFF")) return OrientationOfWebp(bytes);
  return 1;
}

}  // namespace lapidary
