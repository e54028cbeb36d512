// Random changes to pictures and sounds in training, off by default. What is drawn is a function of
// (seed, epoch, record, medium), so that runs, threads and resuming give the same bits. Pure.
#ifndef LAPIDARY_DATA_AUGMENT_H_
#define LAPIDARY_DATA_AUGMENT_H_

#include <cstdint>
#include <vector>

#include "data/image.h"

namespace lapidary {

// All zero: nothing is changed.
struct AugmentOptions {
  uint64_t seed = 0;
  double flip = 0;  // probability that a picture is mirrored left to right, [0, 1]
  double crop = 0;  // share of each side that may be cut away, [0, 0.9]; the aspect ratio stays
  double color =
      0;  // brightness, contrast and saturation change by factors up to 1 +- this, [0, 1]
  double speed = 0;  // sounds run faster or slower by up to this share, [0, 0.5]
  double gain = 0;   // sounds get louder or softer by up to so many dB, [0, 40]
  double noise = 0;  // white noise up to this share of the sound's own level (RMS), [0, 1]

  bool images() const { return flip > 0 || crop > 0 || color > 0; }
  bool sounds() const { return speed > 0 || gain > 0 || noise > 0; }
};

// Throws Error for options out of range.
void CheckAugment(const AugmentOptions& options);

// Which medium of which record in which epoch.
struct AugmentKey {
  int64_t epoch = 0;
  int64_t record = 0;
  int64_t medium = 0;
};

// The crop comes back smaller: the caller fits it to the size of the whole picture.
void AugmentImage(const AugmentOptions& options, const AugmentKey& key, Image& image);
// Mono samples at `sampling_rate` Hz; speed changes how many there are.
void AugmentSound(const AugmentOptions& options, const AugmentKey& key, int64_t sampling_rate,
                  std::vector<float>& samples);

}  // namespace lapidary

#endif  // LAPIDARY_DATA_AUGMENT_H_
