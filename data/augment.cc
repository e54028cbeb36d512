#include "data/augment.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "autograd/base/error.h"
#include "autograd/base/random.h"
#include "data/audio.h"

namespace lapidary {
namespace {

// One draw each.
enum Draw : uint64_t {
  kFlip,
  kCropSide,
  kCropX,
  kCropY,
  kBright,
  kContrast,
  kSaturate,
  kSpeed,
  kGain,
  kNoise
};

RandomKey StreamOf(const AugmentOptions& options, const AugmentKey& key) {
  return {options.seed, static_cast<uint64_t>(key.epoch),
          HashName(StrCat("augment", key.record, ".", key.medium))};
}

// Uniform in [-1, 1).
double Signed(const RandomKey& stream, Draw draw) {
  return 2.0 * static_cast<double>(RandomUniform(stream, draw)) - 1.0;
}

void Mirror(Image& image) {
  for (int64_t y = 0; y < image.height; ++y) {
    uint8_t* row = &image.pixels[y * image.width * 3];
    for (int64_t a = 0, b = image.width - 1; a < b; ++a, --b) {
      std::swap_ranges(row + a * 3, row + a * 3 + 3, row + b * 3);
    }
  }
}

void Crop(const AugmentOptions& options, const RandomKey& stream, Image& image) {
  const double kept = 1.0 - options.crop * static_cast<double>(RandomUniform(stream, kCropSide));
  const auto side = [&](int64_t whole) {
    return std::max<int64_t>(1, std::llround(kept * static_cast<double>(whole)));
  };
  const int64_t height = side(image.height), width = side(image.width);
  const auto y0 = static_cast<int64_t>(
      RandomBelow(stream, kCropY, static_cast<uint64_t>(image.height - height) + 1));
  const auto x0 = static_cast<int64_t>(
      RandomBelow(stream, kCropX, static_cast<uint64_t>(image.width - width) + 1));
  Image out = {.height = height, .width = width, .pixels = {}};
  out.pixels.resize(height * width * 3);
  for (int64_t y = 0; y < height; ++y) {
    std::copy_n(&image.pixels[((y + y0) * image.width + x0) * 3], width * 3,
                &out.pixels[y * width * 3]);
  }
  image = std::move(out);
}

uint8_t Byte(double value) {
  return static_cast<uint8_t>(std::clamp(std::lround(value), 0L, 255L));
}

// torchvision's ColorJitter in fixed order: brightness, contrast (against the mean gray),
// saturation (against each pixel's gray), each rounded to bytes.
void Jitter(const AugmentOptions& options, const RandomKey& stream, Image& image) {
  const double bright = 1.0 + options.color * Signed(stream, kBright);
  const double contrast = 1.0 + options.color * Signed(stream, kContrast);
  const double saturate = 1.0 + options.color * Signed(stream, kSaturate);
  const auto gray = [](const uint8_t* p) {
    return static_cast<double>((299 * p[0] + 587 * p[1] + 114 * p[2] + 500) / 1000);
  };
  const int64_t pixels = image.height * image.width;
  uint64_t sum = 0;
  for (uint8_t& v : image.pixels) v = Byte(bright * v);
  for (int64_t i = 0; i < pixels; ++i) sum += static_cast<uint64_t>(gray(&image.pixels[i * 3]));
  const double mean = static_cast<double>(sum) / static_cast<double>(pixels);
  for (uint8_t& v : image.pixels) v = Byte(mean + contrast * (v - mean));
  for (int64_t i = 0; i < pixels; ++i) {
    uint8_t* p = &image.pixels[i * 3];
    const double g = gray(p);
    for (int c = 0; c < 3; ++c) p[c] = Byte(g + saturate * (p[c] - g));
  }
}

}  // namespace

void CheckAugment(const AugmentOptions& o) {
  const auto in = [](const char* name, double value, double most) {
    LAPIDARY_CHECK(value >= 0 && value <= most, "augment.", name, ": must be from 0 to ", most,
                   "; got ", value);
  };
  in("flip", o.flip, 1);
  in("crop", o.crop, 0.9);
  in("color", o.color, 1);
  in("speed", o.speed, 0.5);
  in("gain", o.gain, 40);
  in("noise", o.noise, 1);
}

void AugmentImage(const AugmentOptions& options, const AugmentKey& key, Image& image) {
  const RandomKey stream = StreamOf(options, key);
  if (options.crop > 0) Crop(options, stream, image);
  if (static_cast<double>(RandomUniform(stream, kFlip)) < options.flip) Mirror(image);
  if (options.color > 0) Jitter(options, stream, image);
}

void AugmentSound(const AugmentOptions& options, const AugmentKey& key, int64_t sampling_rate,
                  std::vector<float>& samples) {
  const RandomKey stream = StreamOf(options, key);
  if (options.speed > 0 && !samples.empty()) {
    const double factor = 1.0 + options.speed * Signed(stream, kSpeed);
    samples =
        Resample(samples, std::llround(factor * static_cast<double>(sampling_rate)), sampling_rate);
  }
  double energy = 0;
  for (const float v : samples) energy += static_cast<double>(v) * static_cast<double>(v);
  const double level =
      samples.empty() ? 0 : std::sqrt(energy / static_cast<double>(samples.size()));
  const double gain = std::pow(10.0, options.gain * Signed(stream, kGain) / 20.0);
  const double noise = options.noise * static_cast<double>(RandomUniform(stream, kNoise)) * level;
  RandomKey white = stream;
  white.op ^= HashName(std::string("noise"));
  for (size_t i = 0; i < samples.size(); ++i) {
    double value = samples[i];
    if (noise > 0) value += noise * static_cast<double>(RandomNormal(white, i));
    samples[i] = static_cast<float>(std::clamp(value * gain, -1e6, 1e6));
  }
}

}  // namespace lapidary
