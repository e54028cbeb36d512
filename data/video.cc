#include "data/video.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <memory>

extern "C" {
#include <libavcodec/avcodec.h>
#include <libavformat/avformat.h>
#include <libavutil/display.h>
#include <libavutil/imgutils.h>
#include <libavutil/log.h>
#include <libswscale/swscale.h>
}

#include "autograd/base/error.h"
#include "data/audio.h"
#include "data/image_codecs.h"

namespace lapidary {
namespace {

// Containers that hold their own data. Playlists and image lists could make libavformat open other
// files or addresses.
constexpr char kContainers[] =
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,gif,apng,mpegts,mpeg,mpegvideo,flv,ogg,asf,m4v,"
    "h264,hevc,ivf,mjpeg,nut,mxf,wtv,rm";

constexpr double kDefaultFps = 24;  // what Hugging Face assumes, with a warning

// libav* frees through pointers to pointers.
struct Free {
  void operator()(AVFormatContext* p) const { avformat_close_input(&p); }
  void operator()(AVCodecContext* p) const { avcodec_free_context(&p); }
  void operator()(AVPacket* p) const { av_packet_free(&p); }
  void operator()(AVFrame* p) const { av_frame_free(&p); }
  void operator()(SwsContext* p) const { sws_freeContext(p); }
  void operator()(AVIOContext* p) const {
    av_freep(&p->buffer);
    avio_context_free(&p);
  }
};
template <class T>
using Owned = std::unique_ptr<T, Free>;

struct Stream {
  std::string_view bytes;
  int64_t at = 0;
};

int ReadStream(void* user, uint8_t* out, int size) {
  Stream& stream = *static_cast<Stream*>(user);
  const int64_t left = static_cast<int64_t>(stream.bytes.size()) - stream.at;
  if (left <= 0) return AVERROR_EOF;
  const int64_t count = std::min<int64_t>(size, left);
  std::copy_n(stream.bytes.data() + stream.at, count, reinterpret_cast<char*>(out));
  stream.at += count;
  return static_cast<int>(count);
}

int64_t SeekStream(void* user, int64_t offset, int whence) {
  Stream& stream = *static_cast<Stream*>(user);
  const int64_t size = static_cast<int64_t>(stream.bytes.size());
  whence &= ~AVSEEK_FORCE;
  if (whence == AVSEEK_SIZE) return size;
  const int64_t base = whence == SEEK_SET ? 0 : whence == SEEK_CUR ? stream.at : size;
  if (offset > size - base || offset < -base) return AVERROR(EINVAL);
  stream.at = base + offset;
  return stream.at;
}

// An opened container and its picture stream (or, if asked for, its sound: found() says whether
// there is any).
class Container {
 public:
  Container(std::string_view bytes, const std::string& name, AVMediaType type = AVMEDIA_TYPE_VIDEO)
      : name_(name), stream_{bytes} {
    LAPIDARY_CHECK(!bytes.empty(), name, ": a clip must have bytes; got an empty file");
    static const bool quiet = (av_log_set_level(AV_LOG_QUIET), true);
    static_cast<void>(quiet);
    constexpr int kBuffer = 1 << 16;
    auto* buffer = static_cast<unsigned char*>(av_malloc(kBuffer));
    LAPIDARY_CHECK(buffer != nullptr, name, ": must have memory; got none");
    io_.reset(avio_alloc_context(buffer, kBuffer, 0, &stream_, ReadStream, nullptr, SeekStream));
    LAPIDARY_CHECK(io_ != nullptr, name, ": must have memory; got none");
    AVFormatContext* format = avformat_alloc_context();
    LAPIDARY_CHECK(format != nullptr, name, ": must have memory; got none");
    format->pb = io_.get();
    format->flags |= AVFMT_FLAG_CUSTOM_IO;
    format->format_whitelist = av_strdup(kContainers);
    format->protocol_whitelist = av_strdup("none");
    // Frees `format` when it fails.
    LAPIDARY_CHECK(
        avformat_open_input(&format, "", nullptr, nullptr) >= 0, name,
        ": a clip must be a container that libavformat reads (MP4, WebM, AVI, GIF ...); got ",
        bytes.size(), " bytes of something else");
    format_.reset(format);
    LAPIDARY_CHECK(avformat_find_stream_info(format, nullptr) >= 0, name,
                   ": a clip must describe its streams; got broken headers");
    index_ = av_find_best_stream(format, type, -1, -1, nullptr, 0);
    if (type != AVMEDIA_TYPE_VIDEO) return;
    LAPIDARY_CHECK(index_ >= 0, name, ": a clip must have pictures; got none; try it as audio");
    CheckImageSize(parameters().height, parameters().width, name);
  }

  bool found() const { return index_ >= 0; }

  // The next packet of the stream; false at the end.
  bool Next(AVPacket* packet) {
    for (;;) {
      av_packet_unref(packet);
      const int result = av_read_frame(format_.get(), packet);
      if (result == AVERROR_EOF) return false;
      LAPIDARY_CHECK(result >= 0, name_, ": must be a whole clip; got broken data");
      if (packet->stream_index == index_ && !(packet->flags & AV_PKT_FLAG_DISCARD)) return true;
    }
  }

  const AVStream& stream() const { return *format_->streams[index_]; }
  const AVCodecParameters& parameters() const { return *stream().codecpar; }
  double fps() const {
    const double fps = av_q2d(stream().avg_frame_rate);
    return std::isfinite(fps) && fps > 0 ? fps : kDefaultFps;
  }
  // The EXIF orientation that turns the stored frames upright (multiples of 90 degrees, no
  // mirrors).
  int orientation() const {
    const uint8_t* matrix = av_stream_get_side_data(&stream(), AV_PKT_DATA_DISPLAYMATRIX, nullptr);
    if (!matrix) return 1;
    const double angle = av_display_rotation_get(reinterpret_cast<const int32_t*>(matrix));
    if (!std::isfinite(angle)) return 1;
    // `angle` turns counterclockwise.
    const int quarter = static_cast<int>(std::lround(angle / 90)) & 3;
    constexpr int kOrientations[4] = {1, 8, 3, 6};
    return kOrientations[quarter];
  }

 private:
  std::string name_;
  Stream stream_;
  Owned<AVIOContext> io_;
  Owned<AVFormatContext> format_;
  int index_ = -1;
};

struct Packet {
  int64_t pts = AV_NOPTS_VALUE;
  bool key = false;
};

std::vector<Packet> Scan(Container& container, const std::string& name) {
  const Owned<AVPacket> packet(av_packet_alloc());
  LAPIDARY_CHECK(packet != nullptr, name, ": must have memory; got none");
  std::vector<Packet> packets;
  while (container.Next(packet.get())) {
    LAPIDARY_CHECK(static_cast<int64_t>(packets.size()) < kMaxVideoFrames, name,
                   ": a clip may have at most ", kMaxVideoFrames, " frames; got more");
    packets.push_back({packet->pts, (packet->flags & AV_PKT_FLAG_KEY) != 0});
  }
  LAPIDARY_CHECK(!packets.empty(), name, ": a clip must have frames; got none");
  return packets;
}

// RGB of decoded frames; keeps one converter.
class Converter {
 public:
  Image Convert(const AVFrame& frame, const std::string& name) {
    CheckImageSize(frame.height, frame.width, name);
    const AVPixelFormat format = static_cast<AVPixelFormat>(frame.format);
    context_.reset(sws_getCachedContext(context_.release(), frame.width, frame.height, format,
                                        frame.width, frame.height, AV_PIX_FMT_RGB24, SWS_BILINEAR,
                                        nullptr, nullptr, nullptr));
    LAPIDARY_CHECK(context_ != nullptr, name, ": swscale must know the pixel format; got ",
                   frame.format);
    const int full = frame.color_range == AVCOL_RANGE_JPEG ? 1 : 0;
    const int* table = sws_getCoefficients(frame.colorspace);
    int *old_table = nullptr, *old_target = nullptr;
    int old_full = 0, target_full = 0, brightness = 0, contrast = 0, saturation = 0;
    // The old formats yuvj* say by their name that they use the full range.
    if (sws_getColorspaceDetails(context_.get(), &old_table, &old_full, &old_target, &target_full,
                                 &brightness, &contrast, &saturation) >= 0) {
      sws_setColorspaceDetails(context_.get(), table, full | old_full, old_target, target_full,
                               brightness, contrast, saturation);
    }
    Image image = {.height = frame.height, .width = frame.width, .pixels = {}};
    // swscale writes whole vectors: rows are padded, then packed.
    const int stride = (frame.width * 3 + 63) / 64 * 64 + 64;
    padded_.resize(static_cast<size_t>(stride) * frame.height + 64);
    uint8_t* const planes[4] = {padded_.data(), nullptr, nullptr, nullptr};
    const int strides[4] = {stride, 0, 0, 0};
    LAPIDARY_CHECK(sws_scale(context_.get(), frame.data, frame.linesize, 0, frame.height, planes,
                             strides) == frame.height,
                   name, ": swscale must convert every row; got fewer");
    image.pixels.resize(image.height * image.width * 3);
    for (int64_t y = 0; y < image.height; ++y) {
      std::copy_n(padded_.data() + y * stride, image.width * 3,
                  image.pixels.data() + y * image.width * 3);
    }
    return image;
  }

 private:
  Owned<SwsContext> context_;
  std::vector<uint8_t> padded_;
};

Owned<AVCodecContext> OpenDecoder(const Container& container, const std::string& name) {
  const AVCodec* codec = avcodec_find_decoder(container.parameters().codec_id);
  LAPIDARY_CHECK(codec != nullptr, name,
                 ": libavcodec must have a decoder for the clip; got none for ",
                 avcodec_get_name(container.parameters().codec_id));
  Owned<AVCodecContext> decoder(avcodec_alloc_context3(codec));
  LAPIDARY_CHECK(decoder != nullptr, name, ": must have memory; got none");
  decoder->thread_count = 1;
  decoder->max_pixels = kMaxImagePixels;
  decoder->pkt_timebase = container.stream().time_base;
  LAPIDARY_CHECK(avcodec_parameters_to_context(decoder.get(), &container.parameters()) >= 0 &&
                     avcodec_open2(decoder.get(), codec, nullptr) >= 0,
                 name, ": the decoder must accept the clip; got a refusal from ", codec->name);
  return decoder;
}

// Which frames to hand out: by time stamp, and only decoding the groups of pictures that are
// needed; or, where a clip has no usable time stamps, by counting all of them.
struct Plan {
  bool by_time = false;
  std::map<int64_t, int64_t> wanted;  // time stamp, or number of the frame -> which of the samples
  std::vector<bool> decode;           // per packet
};

Plan MakePlan(const std::vector<Packet>& packets, const std::vector<int64_t>& indices) {
  const int64_t count = static_cast<int64_t>(packets.size());
  Plan plan;
  plan.decode.assign(count, true);
  std::vector<std::pair<int64_t, int64_t>> shown(count);  // time stamp, packet
  for (int64_t i = 0; i < count; ++i) shown[i] = {packets[i].pts, i};
  std::sort(shown.begin(), shown.end());
  plan.by_time = shown[0].first != AV_NOPTS_VALUE && packets[0].key;
  for (int64_t i = 1; i < count; ++i) {
    if (shown[i].first == shown[i - 1].first) plan.by_time = false;
  }
  if (!plan.by_time) {
    for (size_t i = 0; i < indices.size(); ++i) plan.wanted[indices[i]] = i;
    return plan;
  }
  std::vector<int64_t> group(count);  // the key packet before each packet
  for (int64_t i = 0; i < count; ++i) group[i] = packets[i].key ? i : group[i - 1];
  std::vector<bool> needed(count, false);  // by key packet
  for (size_t i = 0; i < indices.size(); ++i) {
    const auto [pts, at] = shown[indices[i]];
    plan.wanted[pts] = i;
    const int64_t key = group[at];
    needed[key] = true;
    // Pictures shown before their own key picture refer to the group before, too.
    if (pts < packets[key].pts && key > 0) needed[group[key - 1]] = true;
  }
  for (int64_t i = 0; i < count; ++i) plan.decode[i] = needed[group[i]];
  return plan;
}

}  // namespace

std::vector<int64_t> SampleFrameIndices(int64_t total, int64_t num_frames) {
  LAPIDARY_CHECK(num_frames >= 1 && num_frames <= total && total <= int64_t{1} << 31,
                 "SampleFrameIndices: the frames to sample must be 1 to the ", total,
                 " of the clip; got ", num_frames, "; try a smaller num_frames");
  std::vector<int64_t> indices(num_frames);
  for (int64_t i = 0; i < num_frames; ++i) indices[i] = i * total / num_frames;
  return indices;
}

std::vector<int64_t> SampleFramesByRate(const VideoInfo& info, double rate) {
  LAPIDARY_CHECK(rate > 0 && rate <= 1000,
                 "SampleFramesByRate: must have a rate above 0 and up to ",
                 "1000 frames a second; got ", rate);
  std::vector<int64_t> indices;
  for (int64_t k = 0;; ++k) {
    // The frame whose time covers k / rate; a hair of rounding must not name the one before.
    const double at = static_cast<double>(k) / rate * info.fps;
    const auto index = static_cast<int64_t>(std::floor(at + 1e-6));
    if (index >= info.total_frames) return indices;
    if (indices.empty() || index > indices.back()) indices.push_back(index);
  }
}

std::string VideoTimestamp(int64_t index, double fps) {
  LAPIDARY_CHECK(index >= 0 && fps > 0 && std::isfinite(fps),
                 "VideoTimestamp: must have an index >= 0 and a rate > 0; got ", index, " and ",
                 fps);
  const int64_t seconds = static_cast<int64_t>(static_cast<double>(index) / fps);
  std::string minutes = std::to_string(seconds / 60), rest = std::to_string(seconds % 60);
  if (minutes.size() < 2) minutes = "0" + minutes;
  if (rest.size() < 2) rest = "0" + rest;
  return minutes + ":" + rest;
}

VideoInfo ProbeVideo(std::string_view bytes, const std::string& name) {
  Container container(bytes, name);
  VideoInfo info = {.total_frames = 0,
                    .fps = container.fps(),
                    .height = container.parameters().height,
                    .width = container.parameters().width};
  info.total_frames = static_cast<int64_t>(Scan(container, name).size());
  if (container.orientation() >= 5) std::swap(info.height, info.width);
  return info;
}

VideoInfo DecodeVideoFrames(std::string_view bytes, const std::string& name, int64_t num_frames,
                            const std::function<void(int64_t, int64_t, Image)>& take) {
  const auto choose = [&](const VideoInfo& info) {
    LAPIDARY_CHECK(num_frames >= 1 && num_frames <= info.total_frames, name,
                   ": num_frames must be 1 to the number of frames of the clip, ",
                   info.total_frames, "; got ", num_frames, "; try a smaller num_frames");
    return SampleFrameIndices(info.total_frames, num_frames);
  };
  return DecodeVideoFramesAt(bytes, name, choose, take);
}

VideoInfo DecodeVideoFramesAt(std::string_view bytes, const std::string& name,
                              const std::function<std::vector<int64_t>(const VideoInfo&)>& choose,
                              const std::function<void(int64_t, int64_t, Image)>& take) {
  std::vector<Packet> packets;
  {
    Container scanned(bytes, name);
    packets = Scan(scanned, name);
  }
  const int64_t total = static_cast<int64_t>(packets.size());
  Container container(bytes, name);
  VideoInfo info = {.total_frames = total,
                    .fps = container.fps(),
                    .height = container.parameters().height,
                    .width = container.parameters().width};
  const std::vector<int64_t> indices = choose(info);
  const auto num_frames = static_cast<int64_t>(indices.size());
  LAPIDARY_CHECK(num_frames >= 1 && indices.front() >= 0 && indices.back() < total &&
                     std::adjacent_find(indices.begin(), indices.end(), std::greater_equal<>()) ==
                         indices.end(),
                 name, ": the frames to sample must be ascending and of the clip; got others");
  const Plan plan = MakePlan(packets, indices);
  const Owned<AVCodecContext> decoder = OpenDecoder(container, name);
  const Owned<AVPacket> packet(av_packet_alloc());
  const Owned<AVFrame> frame(av_frame_alloc());
  LAPIDARY_CHECK(packet != nullptr && frame != nullptr, name, ": must have memory; got none");
  Converter converter;
  int64_t taken = 0, shown = 0;
  // Hands out what the decoder has ready.
  const auto receive = [&] {
    while (taken < num_frames && avcodec_receive_frame(decoder.get(), frame.get()) >= 0) {
      const int64_t key = plan.by_time ? frame->pts : shown;
      ++shown;
      const auto found = plan.wanted.find(key);
      if (found == plan.wanted.end() || found->second != taken) continue;
      Image image = ApplyOrientation(converter.Convert(*frame, name), container.orientation());
      if (taken == 0) info.height = image.height, info.width = image.width;
      LAPIDARY_CHECK(image.height == info.height && image.width == info.width, name,
                     ": all frames must have one size; got ", info.width, " x ", info.height,
                     " and ", image.width, " x ", image.height);
      take(taken, indices[taken], std::move(image));
      ++taken;
    }
  };
  const auto drain = [&] {
    avcodec_send_packet(decoder.get(), nullptr);
    receive();
  };
  bool skipped = false, fresh = true;
  for (int64_t i = 0; i < total && taken < num_frames && container.Next(packet.get()); ++i) {
    if (!plan.decode[i]) {
      if (!skipped && !fresh) drain();
      skipped = true;
      continue;
    }
    if (skipped && !fresh) avcodec_flush_buffers(decoder.get());
    skipped = fresh = false;
    // A broken packet costs its picture; whether that one was wanted shows at the end.
    avcodec_send_packet(decoder.get(), packet.get());
    receive();
  }
  if (!skipped) drain();
  LAPIDARY_CHECK(taken == num_frames, name, ": must be a whole clip; got ", taken, " of the ",
                 num_frames, " sampled frames before the data broke off");
  return info;
}

namespace {

// Appends the mean of the channels of a decoded frame.
void AppendMono(const AVFrame& frame, const std::string& name, std::vector<float>& mono) {
  const auto format = static_cast<AVSampleFormat>(frame.format);
  const bool planar = av_sample_fmt_is_planar(format) == 1;
  const int64_t channels = frame.ch_layout.nb_channels;
  LAPIDARY_CHECK(channels >= 1 && channels <= 64, name,
                 ": a soundtrack must have 1 to 64 channels; got ", channels);
  const auto value = [&](int64_t i, int64_t c) -> double {
    const uint8_t* plane = frame.extended_data[planar ? c : 0];
    const int64_t at = planar ? i : i * channels + c;
    switch (av_get_packed_sample_fmt(format)) {
      case AV_SAMPLE_FMT_U8:
        return (plane[at] - 128) / 128.0;
      case AV_SAMPLE_FMT_S16:
        return reinterpret_cast<const int16_t*>(plane)[at] / 32768.0;
      case AV_SAMPLE_FMT_S32:
        return reinterpret_cast<const int32_t*>(plane)[at] / 2147483648.0;
      case AV_SAMPLE_FMT_FLT:
        return static_cast<double>(reinterpret_cast<const float*>(plane)[at]);
      case AV_SAMPLE_FMT_DBL:
        return reinterpret_cast<const double*>(plane)[at];
      default:
        throw Error(StrCat(name, ": a soundtrack must decode to common samples; got format ",
                           frame.format));
    }
  };
  LAPIDARY_CHECK(static_cast<int64_t>(mono.size()) + frame.nb_samples <= kMaxAudioFrames, name,
                 ": a soundtrack may have at most ", kMaxAudioFrames, " samples; got more");
  for (int64_t i = 0; i < frame.nb_samples; ++i) {
    double sum = 0;
    for (int64_t c = 0; c < channels; ++c) sum += value(i, c);
    const double mean = sum / static_cast<double>(channels);
    LAPIDARY_CHECK(std::abs(mean) <= 1e6, name,
                   ": samples of a soundtrack must be finite and at most 1e6; got ", mean);
    mono.push_back(static_cast<float>(mean));
  }
}

}  // namespace

std::vector<float> DecodeSoundtrack(std::string_view bytes, const std::string& name,
                                    int64_t sampling_rate) {
  Container container(bytes, name, AVMEDIA_TYPE_AUDIO);
  if (!container.found()) return {};
  const Owned<AVCodecContext> decoder = OpenDecoder(container, name);
  const Owned<AVPacket> packet(av_packet_alloc());
  const Owned<AVFrame> frame(av_frame_alloc());
  LAPIDARY_CHECK(packet != nullptr && frame != nullptr, name, ": must have memory; got none");
  std::vector<float> mono;
  int64_t rate = 0;
  const auto receive = [&] {
    while (avcodec_receive_frame(decoder.get(), frame.get()) >= 0) {
      LAPIDARY_CHECK(frame->sample_rate >= 1 && frame->sample_rate <= 1'000'000 &&
                         (rate == 0 || rate == frame->sample_rate),
                     name, ": a soundtrack must have one rate of 1 to 1,000,000 Hz; got ",
                     frame->sample_rate);
      if (rate == 0 && frame->pts != AV_NOPTS_VALUE && frame->pts > 0) {
        const double late = static_cast<double>(frame->pts) * av_q2d(container.stream().time_base);
        LAPIDARY_CHECK(late * frame->sample_rate < static_cast<double>(kMaxAudioFrames), name,
                       ": a soundtrack must begin with its clip; got ", late, " s later");
        mono.assign(static_cast<size_t>(late * frame->sample_rate), 0.0f);
      }
      rate = frame->sample_rate;
      AppendMono(*frame, name, mono);
    }
  };
  while (container.Next(packet.get())) {
    // A broken packet costs its samples.
    avcodec_send_packet(decoder.get(), packet.get());
    receive();
  }
  avcodec_send_packet(decoder.get(), nullptr);
  receive();
  if (mono.empty()) return {};
  return Resample(mono, rate, sampling_rate);
}

Video DecodeVideo(std::string_view bytes, const std::string& name, int64_t num_frames) {
  Video video;
  video.info = DecodeVideoFrames(bytes, name, num_frames, [&](int64_t, int64_t index, Image image) {
    video.indices.push_back(index);
    video.frames.push_back(std::move(image));
  });
  return video;
}

}  // namespace lapidary
