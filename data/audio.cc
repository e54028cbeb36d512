#include "data/audio.h"

#include <sndfile.h>
#include <soxr.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>

#include "autograd/base/error.h"

namespace lapidary {
namespace {

// libsndfile reads through these.
struct Stream {
  std::string_view bytes;
  int64_t at = 0;
};

sf_count_t StreamSize(void* user) { return static_cast<Stream*>(user)->bytes.size(); }

sf_count_t StreamSeek(sf_count_t offset, int whence, void* user) {
  Stream& stream = *static_cast<Stream*>(user);
  const int64_t size = stream.bytes.size();
  const int64_t base = whence == SEEK_SET ? 0 : whence == SEEK_CUR ? stream.at : size;
  if (offset > size - base || offset < -base) return -1;
  stream.at = base + offset;
  return stream.at;
}

sf_count_t StreamRead(void* out, sf_count_t count, void* user) {
  Stream& stream = *static_cast<Stream*>(user);
  const int64_t left = static_cast<int64_t>(stream.bytes.size()) - stream.at;
  count = std::clamp<sf_count_t>(count, 0, left);
  std::memcpy(out, stream.bytes.data() + stream.at, count);
  stream.at += count;
  return count;
}

sf_count_t StreamWrite(const void*, sf_count_t, void*) { return 0; }

sf_count_t StreamTell(void* user) { return static_cast<Stream*>(user)->at; }

using File = std::unique_ptr<SNDFILE, int (*)(SNDFILE*)>;

uint64_t Little(std::string_view bytes, size_t at) {
  uint64_t value = 0;
  for (int i = 3; i >= 0; --i) value = value << 8 | static_cast<uint8_t>(bytes[at + i]);
  return value;
}

// libsndfile silently shortens a WAV whose data chunk goes beyond the end of the file. Sizes of 0
// and (nearly) 2^31 or 2^32 are what programs write that stream and do not know the length; those
// are fine.
void CheckWavComplete(std::string_view bytes, const std::string& name) {
  if (!bytes.starts_with("RIFF") || bytes.size() < 12 || bytes.substr(8, 4) != "WAVE") return;
  for (uint64_t at = 12; at + 8 <= bytes.size();) {
    const uint64_t length = Little(bytes, at + 4);
    if (bytes.substr(at, 4) == "data") {
      const uint64_t left = bytes.size() - at - 8;
      LAPIDARY_CHECK(length <= left || length >= 0x7fff0000, name, ": must be a whole WAV; got ",
                     left, " of ", length, " bytes of sound");
      return;
    }
    at += 8 + length + (length & 1);
  }
}

File Open(Stream& stream, SF_INFO& info, const std::string& name) {
  LAPIDARY_CHECK(!stream.bytes.empty(), name, ": a sound must have bytes; got an empty file");
  CheckWavComplete(stream.bytes, name);
  static const SF_VIRTUAL_IO kIo = {StreamSize, StreamSeek, StreamRead, StreamWrite, StreamTell};
  File file(sf_open_virtual(const_cast<SF_VIRTUAL_IO*>(&kIo), SFM_READ, &info, &stream), sf_close);
  LAPIDARY_CHECK(file != nullptr, name, ": a sound must be a whole WAV, FLAC, Ogg or MP3; got ",
                 stream.bytes.size(), " bytes that libsndfile refuses (", sf_strerror(nullptr),
                 ")");
  LAPIDARY_CHECK(info.channels >= 1 && info.samplerate >= 1 && info.samplerate <= 1'000'000, name,
                 ": a sound must have channels and a rate of 1 to 1,000,000 Hz; got ",
                 info.channels, " and ", info.samplerate);
  return file;
}

int64_t ResampledLength(int64_t n, int64_t from, int64_t to) { return (n * to + from - 1) / from; }

// A stream's length is known from its header where cutting it short must not go unnoticed.
bool LengthIsKnown(const SF_INFO& info) {
  const int format = info.format & SF_FORMAT_TYPEMASK;
  return format == SF_FORMAT_WAV || format == SF_FORMAT_FLAC || format == SF_FORMAT_AIFF;
}

}  // namespace

std::vector<float> Resample(const std::vector<float>& samples, int64_t from, int64_t to) {
  LAPIDARY_CHECK(from >= 1 && to >= 1 && from <= 1'000'000 && to <= 1'000'000,
                 "Resample: rates must be 1 to 1,000,000 Hz; got ", from, " and ", to);
  if (from == to || samples.empty()) return samples;
  LAPIDARY_CHECK(static_cast<int64_t>(samples.size()) <= kMaxAudioFrames, "Resample: at most ",
                 kMaxAudioFrames, " samples; got ", samples.size());
  const int64_t length = ResampledLength(samples.size(), from, to);
  LAPIDARY_CHECK(length <= kMaxAudioFrames, "Resample: at most ", kMaxAudioFrames,
                 " samples may come out; got ", length);
  std::vector<float> out(length, 0.0f);
  const soxr_io_spec_t io = soxr_io_spec(SOXR_FLOAT32_I, SOXR_FLOAT32_I);
  const soxr_quality_spec_t quality = soxr_quality_spec(SOXR_HQ, 0);
  const soxr_runtime_spec_t runtime = soxr_runtime_spec(1);
  size_t done = 0;
  const soxr_error_t error =
      soxr_oneshot(static_cast<double>(from), static_cast<double>(to), 1, samples.data(),
                   samples.size(), nullptr, out.data(), out.size(), &done, &io, &quality, &runtime);
  LAPIDARY_CHECK(error == nullptr, "Resample: soxr must accept ", from, " -> ", to, " Hz; got ",
                 soxr_strerror(error));
  return out;
}

std::vector<float> DecodeAudio(std::string_view bytes, const std::string& name,
                               int64_t sampling_rate) {
  Stream stream = {.bytes = bytes};
  SF_INFO info = {};
  const File file = Open(stream, info, name);
  const int64_t channels = info.channels;
  // In pieces: how many frames there are is known when they have been read, not by what the header
  // says.
  const int64_t piece = std::max<int64_t>(1, 65536 / channels);
  std::vector<float> buffer(piece * channels), mono;
  for (;;) {
    const int64_t got = sf_readf_float(file.get(), buffer.data(), piece);
    if (got <= 0) break;
    LAPIDARY_CHECK(static_cast<int64_t>(mono.size()) + got <= kMaxAudioFrames, name,
                   ": a sound may have at most ", kMaxAudioFrames, " samples; got more");
    for (int64_t i = 0; i < got; ++i) {
      const float* frame = &buffer[i * channels];
      float value = frame[0];
      if (channels > 1) {
        double sum = 0;
        for (int64_t c = 0; c < channels; ++c) sum += frame[c];
        value = static_cast<float>(sum / static_cast<double>(channels));
      }
      // Full scale is 1; what is far beyond it would overflow in the resampler.
      LAPIDARY_CHECK(std::abs(value) <= 1e6f, name,
                     ": samples must be finite and at most 1e6; got ", value, " at sample ",
                     mono.size());
      mono.push_back(value);
    }
  }
  LAPIDARY_CHECK(sf_error(file.get()) == SF_ERR_NO_ERROR, name,
                 ": must be a whole sound; got broken data after ", mono.size(), " samples (",
                 sf_strerror(file.get()), ")");
  LAPIDARY_CHECK(!LengthIsKnown(info) || static_cast<int64_t>(mono.size()) >= info.frames, name,
                 ": must be a whole sound; got ", mono.size(), " of ", info.frames, " samples");
  LAPIDARY_CHECK(!mono.empty(), name, ": a sound must have samples; got none");
  return Resample(mono, info.samplerate, sampling_rate);
}

int64_t ProbeAudio(std::string_view bytes, const std::string& name, int64_t sampling_rate) {
  Stream stream = {.bytes = bytes};
  SF_INFO info = {};
  const File file = Open(stream, info, name);
  LAPIDARY_CHECK(info.frames >= 1 && info.frames <= kMaxAudioFrames, name,
                 ": a sound must have 1 to ", kMaxAudioFrames, " samples; got ", info.frames);
  return ResampledLength(info.frames, info.samplerate, sampling_rate);
}

std::vector<int64_t> CutAtSilence(const std::vector<float>& samples, int64_t longest,
                                  int64_t sampling_rate) {
  LAPIDARY_CHECK(longest >= 3 && sampling_rate >= 1,
                 "CutAtSilence: pieces must have at least 3 samples; got ", longest);
  const auto size = static_cast<int64_t>(samples.size());
  const int64_t window = std::clamp<int64_t>(sampling_rate / 5, 1, longest / 3);
  std::vector<int64_t> ends;
  for (int64_t begin = 0; size - begin > longest;) {
    // Windows that end in the last third; energy in integers of 2^-20, so that sums slide exactly.
    const auto energy = [&](int64_t i) {
      const double v = std::clamp(static_cast<double>(samples[i]), -1e3, 1e3);
      return static_cast<int64_t>(v * v * 1048576.0);
    };
    const int64_t first = begin + longest - longest / 3, last = begin + longest;
    int64_t sum = 0;
    for (int64_t i = first - window; i < first; ++i) sum += energy(i);
    int64_t best = first, least = sum;
    for (int64_t end = first + 1; end <= last; ++end) {
      sum += energy(end - 1) - energy(end - 1 - window);
      if (sum > least) continue;
      least = sum;
      best = end;
    }
    begin = best - window / 2;
    ends.push_back(begin);
  }
  ends.push_back(size);
  return ends;
}

std::string EncodeWav(const std::vector<float>& samples, int64_t sampling_rate) {
  LAPIDARY_CHECK(static_cast<int64_t>(samples.size()) <= kMaxAudioFrames && sampling_rate >= 1 &&
                     sampling_rate <= 1'000'000,
                 "EncodeWav: at most ", kMaxAudioFrames, " samples of 1 to 1,000,000 Hz; got ",
                 samples.size(), " of ", sampling_rate);
  const uint32_t bytes = static_cast<uint32_t>(samples.size() * 2);
  const uint32_t rate = static_cast<uint32_t>(sampling_rate);
  std::string out;
  const auto put = [&](uint32_t value, int size) {
    for (int i = 0; i < size; ++i) out.push_back(static_cast<char>(value >> (8 * i)));
  };
  out += "RIFF";
  put(36 + bytes, 4);
  out += "WAVEfmt ";
  put(16, 4);  // size of this chunk
  put(1, 2);   // PCM
  put(1, 2);   // channel
  put(rate, 4);
  put(rate * 2, 4);  // bytes per second
  put(2, 2);         // bytes per frame
  put(16, 2);        // bits per sample
  out += "data";
  put(bytes, 4);
  for (const float sample : samples) {
    const float clamped = std::clamp(sample, -1.0f, 1.0f);
    put(static_cast<uint32_t>(static_cast<int32_t>(std::lround(clamped * 32767.0f))), 2);
  }
  return out;
}

}  // namespace lapidary
