// Tones, and a small formant synthesizer: a pulse train through three resonators in a row (Klatt
// 1980, "Software for a cascade/parallel formant synthesizer", JASA 67(3), eq. 1-3). Deterministic.
#ifndef LAPIDARY_DATA_DEMO_VOICE_H_
#define LAPIDARY_DATA_DEMO_VOICE_H_

#include <cstdint>
#include <string>
#include <vector>

namespace lapidary {

// `samples` of a sine with a quieter octave above it; both fade in and out over 2 ms. `phase` in
// radians.
std::vector<float> Tone(double hertz, double phase, int64_t samples, int64_t sampling_rate = 16000);

struct Voice {
  double pitch = 250;  // Hz; 250 makes a period 64 samples long at 16 kHz, so that every frame of a
                       // vowel looks the same
  double formant_scale = 1;  // shorter throats: above 1
};

// Vowels spoken one after the other, each `samples_each` long, sliding from one to the next over 20
// ms. `vowels` holds the letters a, e, i, o, u; throws Error for others. Peak 1.
std::vector<float> Speak(const std::string& vowels, int64_t samples_each, const Voice& voice,
                         int64_t sampling_rate = 16000);

}  // namespace lapidary

#endif  // LAPIDARY_DATA_DEMO_VOICE_H_
