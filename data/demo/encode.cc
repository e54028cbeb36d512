#include "data/demo/encode.h"

#include <jpeglib.h>

#include <algorithm>
#include <cmath>
#include <csetjmp>
#include <cstdio>
#include <cstdlib>

#include "autograd/base/error.h"

namespace lapidary {
namespace {

struct Session {
  jpeg_compress_struct info = {};
  jpeg_error_mgr errors = {};
  std::jmp_buf escape;
  unsigned char* data = nullptr;
  unsigned long size = 0;  // NOLINT(google-runtime-int): libjpeg's type
};

[[noreturn]] void OnError(j_common_ptr info) {
  std::longjmp(static_cast<Session*>(info->client_data)->escape, 1);
}

// No object with a destructor may live here: longjmp skips destructors.
bool Compress(Session& session, const uint8_t* pixels, const JpegOptions& options) {
  if (setjmp(session.escape)) return false;
  jpeg_compress_struct& info = session.info;
  jpeg_mem_dest(&info, &session.data, &session.size);
  info.input_components = 3;
  info.in_color_space = JCS_RGB;
  jpeg_set_defaults(&info);
  jpeg_set_quality(&info, options.quality, TRUE);
  if (!options.subsample) {
    info.comp_info[0].h_samp_factor = 1;
    info.comp_info[0].v_samp_factor = 1;
  }
  if (options.progressive) jpeg_simple_progression(&info);
  jpeg_start_compress(&info, TRUE);
  while (info.next_scanline < info.image_height) {
    JSAMPROW row = const_cast<uint8_t*>(pixels) +
                   static_cast<size_t>(info.next_scanline) * info.image_width * 3;
    jpeg_write_scanlines(&info, &row, 1);
  }
  jpeg_finish_compress(&info);
  return true;
}

// RIFF: chunks of tag, 32-bit size, contents, padded to even lengths.
class Riff {
 public:
  void Put(uint32_t value, int size = 4) {
    for (int i = 0; i < size; ++i) out_.push_back(static_cast<char>(value >> (8 * i)));
  }
  void Tag(const char* tag) { out_.append(tag, 4); }
  // Starts a chunk (with a list type, if any); End fills in its size.
  size_t Begin(const char* tag, const char* type = nullptr) {
    Tag(tag);
    Put(0);
    const size_t at = out_.size();
    if (type) Tag(type);
    return at;
  }
  void End(size_t at) {
    const uint32_t size = static_cast<uint32_t>(out_.size() - at);
    for (int i = 0; i < 4; ++i) out_[at - 4 + i] = static_cast<char>(size >> (8 * i));
    if (size & 1) out_.push_back(0);
  }
  void Bytes(const std::string& bytes) { out_ += bytes; }
  size_t size() const { return out_.size(); }
  std::string Take() { return std::move(out_); }

 private:
  std::string out_;
};

void PutPictureStream(Riff& avi, uint32_t count, uint32_t rate, uint32_t largest, uint32_t width,
                      uint32_t height) {
  const size_t stream = avi.Begin("LIST", "strl");
  const size_t head = avi.Begin("strh");
  avi.Tag("vids");
  avi.Tag("MJPG");
  for (int i = 0; i < 3; ++i) avi.Put(0);  // flags, priority and language, initial frames
  avi.Put(1);                              // rate / scale = frames per second
  avi.Put(rate);
  avi.Put(0);
  avi.Put(count);
  avi.Put(largest);
  avi.Put(0xffffffff);  // quality: default
  avi.Put(0);
  avi.Put(0);
  avi.Put(width, 2);
  avi.Put(height, 2);
  avi.End(head);
  const size_t format = avi.Begin("strf");  // BITMAPINFOHEADER
  avi.Put(40);
  avi.Put(width);
  avi.Put(height);
  avi.Put(1, 2);   // planes
  avi.Put(24, 2);  // bits per pixel
  avi.Tag("MJPG");
  avi.Put(width * height * 3);
  for (int i = 0; i < 4; ++i) avi.Put(0);
  avi.End(format);
  avi.End(stream);
}

void PutSoundStream(Riff& avi, size_t samples, uint32_t rate) {
  const size_t stream = avi.Begin("LIST", "strl");
  const size_t head = avi.Begin("strh");
  avi.Tag("auds");
  for (int i = 0; i < 4; ++i) avi.Put(0);  // handler, flags, priority and language, initial frames
  avi.Put(2);                              // rate / scale = samples per second
  avi.Put(2 * rate);
  avi.Put(0);
  avi.Put(static_cast<uint32_t>(samples));
  avi.Put(2 * rate);
  avi.Put(0xffffffff);
  avi.Put(2);  // bytes of a sample
  avi.Put(0);
  avi.Put(0);
  avi.End(head);
  const size_t format = avi.Begin("strf");  // WAVEFORMATEX
  avi.Put(1, 2);                            // PCM
  avi.Put(1, 2);                            // channels
  avi.Put(rate);
  avi.Put(2 * rate);
  avi.Put(2, 2);   // bytes of a sample of all channels
  avi.Put(16, 2);  // bits
  avi.Put(0, 2);
  avi.End(format);
  avi.End(stream);
}

std::string Pcm(const std::vector<float>& samples, size_t begin, size_t end) {
  std::string out;
  for (size_t i = begin; i < end; ++i) {
    const float value = std::clamp(samples[i], -1.0f, 1.0f);
    const auto coded = static_cast<uint16_t>(std::lrint(value * 32767.0f));
    out.push_back(static_cast<char>(coded & 255));
    out.push_back(static_cast<char>(coded >> 8));
  }
  return out;
}

}  // namespace

std::string EncodeJpeg(const Image& image, const JpegOptions& options) {
  LAPIDARY_CHECK(image.height >= 1 && image.width >= 1 && image.height <= JPEG_MAX_DIMENSION &&
                     image.width <= JPEG_MAX_DIMENSION &&
                     static_cast<int64_t>(image.pixels.size()) == image.height * image.width * 3,
                 "EncodeJpeg: a picture must be 1 to 65,500 pixels on a side, 3 bytes each; got ",
                 image.width, " x ", image.height, " and ", image.pixels.size(), " bytes");
  LAPIDARY_CHECK(options.quality >= 1 && options.quality <= 100,
                 "EncodeJpeg: quality must be 1 to 100; got ", options.quality);
  Session session;
  session.info.err = jpeg_std_error(&session.errors);
  session.errors.error_exit = OnError;
  session.info.client_data = &session;
  jpeg_create_compress(&session.info);
  session.info.image_width = static_cast<JDIMENSION>(image.width);
  session.info.image_height = static_cast<JDIMENSION>(image.height);
  const bool done = Compress(session, image.pixels.data(), options);
  std::string out;
  if (done) out.assign(reinterpret_cast<const char*>(session.data), session.size);
  jpeg_destroy_compress(&session.info);
  std::free(session.data);
  LAPIDARY_CHECK(done, "EncodeJpeg: libjpeg must have memory; got none");
  return out;
}

std::string EncodeAvi(const std::vector<Image>& frames, int fps, const std::vector<float>& sound,
                      int sampling_rate) {
  LAPIDARY_CHECK(!frames.empty() && frames.size() <= 65536 && fps >= 1 && fps <= 1000,
                 "EncodeAvi: must have 1 to 65536 frames at 1 to 1000 per second; got ",
                 frames.size(), " at ", fps);
  LAPIDARY_CHECK(sampling_rate >= 1 && sampling_rate <= 1'000'000,
                 "EncodeAvi: sampling_rate must be from 1 to 1e6; got ", sampling_rate);
  const uint32_t count = static_cast<uint32_t>(frames.size()), rate = static_cast<uint32_t>(fps);
  const uint32_t width = static_cast<uint32_t>(frames[0].width);
  const uint32_t height = static_cast<uint32_t>(frames[0].height);
  std::vector<std::string> coded;
  uint32_t largest = 0;
  for (const Image& frame : frames) {
    LAPIDARY_CHECK(frame.height == height && frame.width == width,
                   "EncodeAvi: frames must have one size; got ", width, " x ", height, " and ",
                   frame.width, " x ", frame.height);
    coded.push_back(EncodeJpeg(frame));
    largest = std::max(largest, static_cast<uint32_t>(coded.back().size()));
  }
  Riff avi;
  const size_t file = avi.Begin("RIFF", "AVI ");
  const size_t headers = avi.Begin("LIST", "hdrl");
  const size_t main = avi.Begin("avih");
  avi.Put(1'000'000 / rate);  // microseconds per frame
  avi.Put(largest * rate);    // bytes per second
  avi.Put(0);
  avi.Put(0x10);  // there is an index
  avi.Put(count);
  avi.Put(0);
  avi.Put(sound.empty() ? 1 : 2);  // streams
  avi.Put(largest);
  avi.Put(width);
  avi.Put(height);
  for (int i = 0; i < 4; ++i) avi.Put(0);
  avi.End(main);
  PutPictureStream(avi, count, rate, largest, width, height);
  if (!sound.empty()) PutSoundStream(avi, sound.size(), static_cast<uint32_t>(sampling_rate));
  avi.End(headers);
  const size_t movie = avi.Begin("LIST", "movi");
  struct Entry {
    const char* tag;
    uint32_t offset, size;
  };
  std::vector<Entry> index;
  const auto put = [&](const char* tag, const std::string& bytes) {
    index.push_back(
        {tag, static_cast<uint32_t>(avi.size() - movie), static_cast<uint32_t>(bytes.size())});
    const size_t chunk = avi.Begin(tag);
    avi.Bytes(bytes);
    avi.End(chunk);
  };
  // Each frame is followed by the sound of its time, the last one by all that is left.
  size_t heard = 0;
  for (uint32_t i = 0; i < count; ++i) {
    put("00dc", coded[i]);
    const size_t end =
        i + 1 < count ? std::min(sound.size(), static_cast<size_t>(i + 1) * sampling_rate / rate)
                      : sound.size();
    if (end > heard) put("01wb", Pcm(sound, heard, end));
    heard = std::max(heard, end);
  }
  avi.End(movie);
  const size_t table = avi.Begin("idx1");
  for (const Entry& entry : index) {
    avi.Tag(entry.tag);
    avi.Put(0x10);  // key frame
    avi.Put(entry.offset);
    avi.Put(entry.size);
  }
  avi.End(table);
  avi.End(file);
  return avi.Take();
}

}  // namespace lapidary
