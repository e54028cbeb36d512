// Sound from bytes to mono float32 samples (gemma4-12b.md 5): WAV, FLAC, Ogg Vorbis/Opus and MP3
// through libsndfile; mono is the mean of the channels; other rates go through soxr's HQ resampler,
// to ceil(n * rate / source rate) samples. No amplitude change. Bytes are hostile: broken and
// absurd files throw Error. Functions are pure and thread-safe.
#ifndef LAPIDARY_DATA_AUDIO_H_
#define LAPIDARY_DATA_AUDIO_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace lapidary {

// What to do with sounds above the documented limit of 30 s (Hugging Face does nothing).
// kPieces cuts at silence into pieces of at most that length, each a sound item of its own.
enum class AudioLimit { kAllow, kTruncate, kError, kPieces };

// Where to cut `samples` into pieces of at most `longest` samples: ends of the pieces, the last one
// samples.size(). A cut is made in the quietest fifth of a second (by energy; of equals the latest)
// of the last third that a piece may have. Deterministic.
std::vector<int64_t> CutAtSilence(const std::vector<float>& samples, int64_t longest,
                                  int64_t sampling_rate = 16000);

// Longer files throw Error before their samples are allocated (2 hours at 48 kHz).
inline constexpr int64_t kMaxAudioFrames = 345'600'000;

// Mono samples in [-1, 1] at `sampling_rate` Hz of the encoded sound `bytes`; `name` goes into
// messages.
std::vector<float> DecodeAudio(std::string_view bytes, const std::string& name,
                               int64_t sampling_rate = 16000);

// Number of samples that DecodeAudio would return, as the header of the file says.
int64_t ProbeAudio(std::string_view bytes, const std::string& name, int64_t sampling_rate = 16000);

// soxr HQ, mono: ceil(n * to / from) samples. Throws Error unless 1 <= from, to <= 1e6.
std::vector<float> Resample(const std::vector<float>& samples, int64_t from, int64_t to);

// A 16-bit PCM mono WAV file; samples are clamped to [-1, 1] and rounded to v * 32767.
// Deterministic.
std::string EncodeWav(const std::vector<float>& samples, int64_t sampling_rate = 16000);

}  // namespace lapidary

#endif  // LAPIDARY_DATA_AUDIO_H_
