// How fast media becomes rows, on one core: decode, resize, cut. Median of N after a warm-up.
//   loader [seconds per measurement]
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "data/audio.h"
#include "data/demo/encode.h"
#include "data/image.h"
#include "data/media.h"
#include "data/resize.h"

namespace lapidary {
namespace {

double seconds_each = 1.0;

// Prints the median time of body() and what it means in items and tokens per second.
template <class Body>
void Measure(const char* name, double tokens, const Body& body) {
  using Clock = std::chrono::steady_clock;
  body();
  std::vector<double> times;
  const Clock::time_point start = Clock::now();
  while (times.size() < 5 ||
         std::chrono::duration<double>(Clock::now() - start).count() < seconds_each) {
    const Clock::time_point begin = Clock::now();
    body();
    times.push_back(std::chrono::duration<double>(Clock::now() - begin).count());
  }
  std::sort(times.begin(), times.end());
  const double median = times[times.size() / 2];
  std::printf("%-44s %8.2f ms  (best %.2f, worst %.2f, N %zu)  %8.0f /s  %9.0f tokens/s\n", name,
              median * 1e3, times.front() * 1e3, times.back() * 1e3, times.size(), 1 / median,
              tokens / median);
}

Image Photo(int64_t height, int64_t width) {
  Image image = {.height = height, .width = width, .pixels = {}};
  uint32_t noise = 1;
  for (int64_t y = 0; y < height; ++y) {
    for (int64_t x = 0; x < width; ++x) {
      noise = noise * 1664525u + 1013904223u;
      const double grain = static_cast<double>(noise >> 28);
      for (int c = 0; c < 3; ++c) {
        image.pixels.push_back(static_cast<uint8_t>(
            120 + 100 * std::sin(0.01 * (c + 1) * x) * std::cos(0.013 * y) + grain));
      }
    }
  }
  return image;
}

void Run() {
  const ImageProcessorConfig config;
  const Image photo = Photo(1000, 1000);
  const std::string jpeg = EncodeJpeg(photo, {.quality = 85, .subsample = true});
  const std::string png = EncodePng(photo);
  Measure("decode JPEG, 1 megapixel", 256, [&] { DecodeImage(jpeg, "a.jpg"); });
  Measure("decode PNG, 1 megapixel", 256, [&] { DecodeImage(png, "a.png"); });
  Measure("resize 1000 x 1000 -> 768 x 768", 256, [&] { Resize(photo, 768, 768); });
  const Image fitted = FitImage(photo, config, 280);
  Measure("cut 768 x 768 into 256 rows", 256, [&] { Patches(fitted, config); });
  const MediaSource source = MediaSource::Memory(jpeg, "a.jpg");
  for (const int64_t budget : {70, 280, 1120}) {
    const double tokens = static_cast<double>(CountImageTokens(source, config, budget));
    char name[64];
    std::snprintf(name, sizeof(name), "JPEG to rows, budget %d", static_cast<int>(budget));
    Measure(name, tokens, [&] { LoadImageFeatures(source, config, budget); });
  }
  std::vector<float> wave(44100 * 10);
  for (size_t i = 0; i < wave.size(); ++i) wave[i] = static_cast<float>(0.5 * std::sin(0.05 * i));
  const MediaSource sound = MediaSource::Memory(EncodeWav(wave, 44100), "a.wav");
  Measure("10 s of 44.1 kHz WAV to rows", 250, [&] { LoadAudioFeatures(sound, {}); });
}

}  // namespace
}  // namespace lapidary

int main(int argc, char** argv) {
  if (argc > 1) lapidary::seconds_each = std::atof(argv[1]);
  lapidary::Run();
}
