// JPEG through libjpeg-turbo with its defaults (accurate DCT, fancy upsampling), which Pillow and
// torchvision use too.
#include <jerror.h>
#include <jpeglib.h>

#include <csetjmp>
#include <cstdio>
#include <vector>

#include "autograd/base/error.h"
#include "data/image_codecs.h"

namespace lapidary {
namespace {

// A progressive file of few bytes can ask for any number of passes over the whole picture; real
// ones have about ten.
constexpr int kMaxScans = 200;

struct Session {
  jpeg_decompress_struct info = {};
  jpeg_error_mgr errors = {};
  jpeg_progress_mgr progress = {};
  std::jmp_buf escape;
  char message[JMSG_LENGTH_MAX] = {};
};

Session& SessionOf(j_common_ptr info) { return *static_cast<Session*>(info->client_data); }

[[noreturn]] void OnError(j_common_ptr info) {
  Session& session = SessionOf(info);
  info->err->format_message(info, session.message);
  std::longjmp(session.escape, 1);
}

void OnMessage(j_common_ptr) {}

// Level -1 is a warning. Running out of bytes is one to libjpeg, which then paints the rest gray;
// here it is an error.
void OnWarning(j_common_ptr info, int level) {
  if (level < 0 && info->err->msg_code == JWRN_JPEG_EOF) OnError(info);
}

void OnProgress(j_common_ptr info) {
  if (!info->is_decompressor) return;
  if (reinterpret_cast<j_decompress_ptr>(info)->input_scan_number > kMaxScans) {
    Session& session = SessionOf(info);
    std::snprintf(session.message, sizeof(session.message), "more than %d scans", kMaxScans);
    std::longjmp(session.escape, 1);
  }
}

// No object with a destructor may live in the functions below while libjpeg runs: longjmp skips
// destructors.
void Start(Session& session, std::string_view bytes) {
  session.info.err = jpeg_std_error(&session.errors);
  session.errors.error_exit = OnError;
  session.errors.output_message = OnMessage;
  session.errors.emit_message = OnWarning;
  session.info.client_data = &session;
  jpeg_create_decompress(&session.info);
  session.progress.progress_monitor = OnProgress;
  session.info.progress = &session.progress;
  jpeg_mem_src(&session.info, reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size());
  jpeg_read_header(&session.info, TRUE);
}

bool ReadHeader(Session& session, std::string_view bytes) {
  if (setjmp(session.escape)) return false;
  Start(session, bytes);
  return true;
}

// Rows of `channels` bytes a pixel into `out`.
bool ReadRows(Session& session, uint8_t* out, int channels) {
  if (setjmp(session.escape)) return false;
  jpeg_start_decompress(&session.info);
  while (session.info.output_scanline < session.info.output_height) {
    JSAMPROW row = out + static_cast<size_t>(session.info.output_scanline) *
                             session.info.output_width * channels;
    jpeg_read_scanlines(&session.info, &row, 1);
  }
  jpeg_finish_decompress(&session.info);
  return true;
}

// Pillow's CMYK to RGB.
uint8_t Ink(uint32_t ink, uint32_t light) {
  const uint32_t t = ink * light + 128;
  const uint32_t dark = (t + (t >> 8)) >> 8;
  return static_cast<uint8_t>(light - dark);
}

struct Closer {
  Session& session;
  ~Closer() { jpeg_destroy_decompress(&session.info); }
};

[[noreturn]] void Fail(const Session& session, const std::string& name) {
  throw Error(StrCat(name, ": must be a whole JPEG; got broken data (", session.message, ")"));
}

}  // namespace

ImageSize ProbeJpeg(std::string_view bytes, const std::string& name) {
  Session session;
  const Closer closer = {session};
  if (!ReadHeader(session, bytes)) Fail(session, name);
  return {.height = session.info.image_height, .width = session.info.image_width};
}

Image DecodeJpeg(std::string_view bytes, const std::string& name) {
  Session session;
  const Closer closer = {session};
  if (!ReadHeader(session, bytes)) Fail(session, name);
  CheckImageSize(session.info.image_height, session.info.image_width, name);
  const bool cmyk =
      session.info.jpeg_color_space == JCS_CMYK || session.info.jpeg_color_space == JCS_YCCK;
  session.info.out_color_space = cmyk ? JCS_CMYK : JCS_RGB;
  const size_t count = static_cast<size_t>(session.info.image_height) * session.info.image_width;
  Image image = {.height = session.info.image_height,
                 .width = session.info.image_width,
                 .pixels = std::vector<uint8_t>(count * 3)};
  if (!cmyk) {
    if (!ReadRows(session, image.pixels.data(), 3)) Fail(session, name);
    return image;
  }
  std::vector<uint8_t> inks(count * 4);
  if (!ReadRows(session, inks.data(), 4)) Fail(session, name);
  // Adobe writes inks inverted, and says so by its marker.
  const uint8_t flip = session.info.saw_Adobe_marker ? 0xff : 0;
  for (size_t i = 0; i < count; ++i) {
    const uint8_t* ink = &inks[i * 4];
    const uint32_t light = 255 - (ink[3] ^ flip);
    for (int c = 0; c < 3; ++c) image.pixels[i * 3 + c] = Ink(ink[c] ^ flip, light);
  }
  return image;
}

}  // namespace lapidary
