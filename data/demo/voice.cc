#include "data/demo/voice.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "autograd/base/error.h"

namespace lapidary {
namespace {

constexpr int kFormants = 3;
using Formants = std::array<double, kFormants>;  // Hz

// Peterson & Barney 1952, means of men, rounded.
Formants FormantsOf(char vowel) {
  switch (vowel) {
    case 'a':
      return {730, 1090, 2440};
    case 'e':
      return {530, 1840, 2480};
    case 'i':
      return {270, 2290, 3010};
    case 'o':
      return {570, 840, 2410};
    case 'u':
      return {300, 870, 2240};
    default:
      throw Error(StrCat("Speak: must be a vowel of a, e, i, o, u; got '", vowel, "'"));
  }
}

constexpr std::array<double, kFormants> kBandwidths = {60, 90, 150};  // Hz

// y[n] = a x[n] + b y[n-1] + c y[n-2], of gain 1 at 0 Hz.
struct Resonator {
  double y1 = 0, y2 = 0;
  double Next(double x, double hertz, double bandwidth, double rate) {
    const double c = -std::exp(-2 * M_PI * bandwidth / rate);
    const double b = 2 * std::exp(-M_PI * bandwidth / rate) * std::cos(2 * M_PI * hertz / rate);
    const double y = (1 - b - c) * x + b * y1 + c * y2;
    y2 = y1;
    y1 = y;
    return y;
  }
};

// Ramps of `ramp` samples at both ends.
double Fade(int64_t i, int64_t samples, int64_t ramp) {
  return std::min({1.0, (i + 1.0) / ramp, static_cast<double>(samples - i) / ramp});
}

}  // namespace

std::vector<float> Tone(double hertz, double phase, int64_t samples, int64_t sampling_rate) {
  LAPIDARY_CHECK(samples >= 1 && sampling_rate >= 1 && hertz > 0,
                 "Tone: must have samples and a pitch; got ", samples, " and ", hertz, " Hz");
  const double rate = static_cast<double>(sampling_rate);
  std::vector<float> out(samples);
  for (int64_t i = 0; i < samples; ++i) {
    const double t = 2 * M_PI * hertz * static_cast<double>(i) / rate + phase;
    const double fade = Fade(i, samples, std::max<int64_t>(1, sampling_rate / 500));
    out[i] = static_cast<float>(fade * (0.8 * std::sin(t) + 0.2 * std::sin(2 * t)));
  }
  return out;
}

std::vector<float> Speak(const std::string& vowels, int64_t samples_each, const Voice& voice,
                         int64_t sampling_rate) {
  LAPIDARY_CHECK(!vowels.empty() && samples_each >= 1 && sampling_rate >= 1 && voice.pitch > 0 &&
                     voice.formant_scale > 0,
                 "Speak: must have vowels, samples, a pitch and a scale; got '", vowels, "', ",
                 samples_each, ", ", voice.pitch, ", ", voice.formant_scale);
  const double rate = static_cast<double>(sampling_rate);
  const int64_t samples = samples_each * static_cast<int64_t>(vowels.size());
  const double slide = std::min(0.02 * rate, static_cast<double>(samples_each) / 2);
  std::vector<double> wave(samples);
  std::array<Resonator, kFormants> resonators;
  double phase = 1, smooth = 0, before = 0, peak = 0;
  for (int64_t i = 0; i < samples; ++i) {
    const int64_t at = i / samples_each, next = std::min<int64_t>(at + 1, vowels.size() - 1);
    const double into = std::clamp(
        (static_cast<double>(i % samples_each) - (static_cast<double>(samples_each) - slide)) /
            slide,
        0.0, 1.0);
    const Formants from = FormantsOf(vowels[at]), to = FormantsOf(vowels[next]);
    // A pulse each period, softened by one pole.
    double x = 0;
    if (phase >= 1) {
      phase -= 1;
      x = 1;
    }
    phase += voice.pitch / rate;
    smooth = 0.7 * smooth + 0.3 * x;
    double y = smooth;
    for (int k = 0; k < kFormants; ++k) {
      const double hertz = (from[k] + into * (to[k] - from[k])) * voice.formant_scale;
      y = resonators[k].Next(y, hertz, kBandwidths[k], rate);
    }
    // Lips radiate the change of the flow, which lifts the high formants.
    const double radiated = y - before;
    before = y;
    wave[i] = radiated * Fade(i, samples, std::max<int64_t>(1, sampling_rate / 250));
    peak = std::max(peak, std::abs(wave[i]));
  }
  std::vector<float> out(samples);
  for (int64_t i = 0; i < samples; ++i) out[i] = static_cast<float>(wave[i] / peak);
  return out;
}

}  // namespace lapidary
