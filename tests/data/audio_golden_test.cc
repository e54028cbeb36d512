// golden/media/audio.json: waveforms and frames of soundfile + soxr, as Transformers loads them.
// Lossless 16 kHz mono is exact; means of channels within 1e-7; resampled and lossy sounds within
// the limits of the golden README.
#include <gtest/gtest.h>

#include <cmath>
#include <complex>
#include <cstdio>

#include "data/audio.h"
#include "data/media.h"
#include "tests/data/media_golden.h"
#include "tests/golden.h"

namespace lapidary {
namespace {

using nlohmann::json;

double RelativeL2(const std::vector<float>& a, const std::vector<float>& b) {
  const size_t n = std::min(a.size(), b.size());
  double difference = 0, norm = 0;
  for (size_t i = 0; i < n; ++i) {
    difference += (double{a[i]} - b[i]) * (double{a[i]} - b[i]);
    norm += double{b[i]} * b[i];
  }
  return norm > 0 ? std::sqrt(difference / norm) : std::sqrt(difference);
}

// In place, of a power of two of values.
void Fft(std::vector<std::complex<double>>& x) {
  const size_t n = x.size();
  for (size_t i = 1, j = 0; i < n; ++i) {
    size_t bit = n >> 1;
    for (; j & bit; bit >>= 1) j ^= bit;
    j ^= bit;
    if (i < j) std::swap(x[i], x[j]);
  }
  for (size_t length = 2; length <= n; length *= 2) {
    const std::complex<double> step = std::polar(1.0, -2 * M_PI / static_cast<double>(length));
    for (size_t i = 0; i < n; i += length) {
      std::complex<double> w = 1;
      for (size_t k = 0; k < length / 2; ++k, w *= step) {
        const auto u = x[i + k], v = x[i + k + length / 2] * w;
        x[i + k] = u + v;
        x[i + k + length / 2] = u - v;
      }
    }
  }
}

// Relative L2 distance of two 16 kHz signals without 50 ms at the ends, below min(7 kHz, 0.42
// rate); negative if too short.
double BandError(const std::vector<float>& a, const std::vector<float>& b, double rate) {
  constexpr size_t kEdge = 800;
  const size_t n = std::min(a.size(), b.size());
  if (n < 4 * kEdge) return -1;
  size_t size = 1;
  while (size < n) size *= 2;
  std::vector<std::complex<double>> fa(size), fb(size);
  const size_t inner = n - 2 * kEdge;
  for (size_t i = 0; i < inner; ++i) {
    const double window = 0.5 - 0.5 * std::cos(2 * M_PI * i / static_cast<double>(inner - 1));
    fa[i] = a[kEdge + i] * window;
    fb[i] = b[kEdge + i] * window;
  }
  Fft(fa);
  Fft(fb);
  const size_t top = static_cast<size_t>(std::min(7000.0, 0.42 * rate) * size / 16000);
  double difference = 0, norm = 0;
  for (size_t i = 0; i < top; ++i) {
    difference += std::norm(fa[i] - fb[i]);
    norm += std::norm(fb[i]);
  }
  return norm > 0 ? std::sqrt(difference / norm) : -1;
}

// One clip against its record.
void CheckClip(const std::string& folder, const golden::Tensors& tensors, const json& record) {
  const std::string file = record.at("file"), path = folder + "/audio/" + file;
  const AudioFeatures features = LoadAudioFeatures(MediaSource::File(path), AudioProcessorConfig{});
  const std::vector<float> wave = DecodeAudio(ReadFile(path), file);
  const int64_t expected_samples = record.at("samples_16k");
  const std::string subtype = record.at("subtype");
  const bool lossy = subtype == "VORBIS" || subtype == "OPUS" || subtype == "MPEG_LAYER_III";
  ASSERT_EQ(features.samples, static_cast<int64_t>(wave.size()));
  EXPECT_EQ(features.features, 640);
  EXPECT_EQ(features.tokens, (features.samples + 639) / 640);
  // The rows are the samples, then zeros.
  std::vector<float> padded = wave;
  padded.resize(features.tokens * 640, 0.0f);
  EXPECT_EQ(features.rows, padded) << file;

  float peak = 0;
  for (const float sample : wave) peak = std::max(peak, std::abs(sample));
  EXPECT_NEAR(peak, record.at("peak").get<double>(), 1e-3) << file;
  const int64_t rate = record.at("rate"), frames = record.at("frames");
  EXPECT_EQ((frames * 16000 + rate - 1) / rate, record.at("samples_16k")) << file;

  const bool mono = record.at("channels") == 1;
  const bool equal = golden::Hash(wave) == record.at("waveform_sha256");
  std::vector<float> expected;
  if (record.contains("waveform")) {
    expected = tensors.Get<float>(record.at("waveform").get<std::string>());
  }
  double largest = equal && expected.empty() ? 0 : INFINITY;
  if (!expected.empty() && wave.size() == expected.size()) {
    largest = 0;
    for (size_t i = 0; i < wave.size(); ++i) {
      largest = std::max(largest, std::abs(double{wave[i]} - expected[i]));
    }
  }
  const double relative = expected.empty() ? (equal ? 0 : INFINITY) : RelativeL2(wave, expected);
  const double band = expected.empty() ? -1 : BandError(wave, expected, record.at("rate"));
  std::printf("audio %-16s %lld samples, %s, max error %.2g, relative %.2g, in band %.2g\n",
              file.c_str(), static_cast<long long>(features.samples), equal ? "equal" : "not equal",
              largest, relative, band);
  if (!lossy) {
    EXPECT_EQ(features.samples, expected_samples) << file;
    EXPECT_EQ(CountAudioTokens(MediaSource::File(path), AudioProcessorConfig{}), features.tokens);
  }
  if (record.at("exact").get<bool>() && mono) {
    EXPECT_TRUE(equal) << file;
    EXPECT_EQ(largest, 0) << file;
    EXPECT_EQ(golden::Hash(features.rows), record.at("features_sha256")) << file;
    EXPECT_EQ(features.tokens, record.at("n_tokens")) << file;
  } else if (record.at("exact").get<bool>()) {
    EXPECT_LE(largest, 1e-7) << file;
  } else if (lossy) {
    EXPECT_LE(std::abs(features.samples - expected_samples), 4096) << file;
    EXPECT_TRUE(relative <= (record.at("rate") == 16000 ? 1e-3 : 2e-2)) << file << " " << relative;
    EXPECT_TRUE(band <= 1e-3) << file << " " << band;
  } else {
    EXPECT_TRUE(relative <= 2e-2) << file << " " << relative;
    EXPECT_TRUE(band <= 1e-3) << file << " " << band;
  }
}

std::string ExpectedRows(const json& root, const std::string& file) {
  for (const json& record : root.at("clips")) {
    if (record.at("file") == file) return record.at("features_sha256");
  }
  return "";
}

TEST(AudioGolden, WaveformsAndFrames) {
  const auto files = golden::Find("media/audio.json");
  ASSERT_FALSE(files.empty()) << "no root has media/audio.json";
  for (const std::string& path : files) {
    const std::string folder = path.substr(0, path.rfind('/'));
    const json root = json::parse(ReadFile(path));
    const golden::Tensors tensors(folder + "/audio.safetensors");
    ASSERT_FALSE(root.at("clips").empty());
    for (const json& record : root.at("clips")) CheckClip(folder, tensors, record);
    // A batch: every clip padded with zero frames up to the longest.
    const json& batch = root.at("batch");
    const int64_t longest = batch.at("shape")[1];
    std::vector<float> all, cut;
    bool all_exact = true;  // resampled clips need not be
    for (size_t i = 0; i < batch.at("files").size(); ++i) {
      const std::string file = batch.at("files")[i];
      const AudioFeatures features =
          LoadAudioFeatures(MediaSource::File(folder + "/audio/" + file), AudioProcessorConfig{});
      EXPECT_EQ(features.tokens, batch.at("mask_sums")[i]) << file;
      EXPECT_EQ(std::min<int64_t>(features.tokens, batch.at("max_length_3").at("shape")[1]),
                batch.at("max_length_3").at("mask_sums")[i])
          << file;
      std::vector<float> rows = features.rows;
      rows.resize(longest * 640, 0.0f);
      all.insert(all.end(), rows.begin(), rows.end());
      rows.resize(batch.at("max_length_3").at("shape")[1].get<int64_t>() * 640, 0.0f);
      cut.insert(cut.end(), rows.begin(), rows.end());
      all_exact = all_exact && golden::Hash(features.rows) == ExpectedRows(root, file);
    }
    if (all_exact) {
      EXPECT_EQ(golden::Hash(all), batch.at("features_sha256")) << folder;
      EXPECT_EQ(golden::Hash(cut), batch.at("max_length_3").at("features_sha256")) << folder;
    }
    std::printf("%s: %zu clips\n", folder.c_str(), root.at("clips").size());
  }
}

}  // namespace
}  // namespace lapidary
