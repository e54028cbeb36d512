// Anti-aliased shapes and digits on small pictures, from distances to their outlines.
// Deterministic.
#ifndef LAPIDARY_DATA_DEMO_DRAW_H_
#define LAPIDARY_DATA_DEMO_DRAW_H_

#include <array>
#include <cstdint>

#include "data/image.h"

namespace lapidary {

enum class Thing { kCircle, kSquare, kTriangle, kCross, kZero, kOne, kFour, kSeven };
inline constexpr int kThings = 8;

using Color = std::array<uint8_t, 3>;

// A picture of one color.
Image Blank(int64_t height, int64_t width, Color color);

// How a thing lies on the picture.
struct Pose {
  double x = 0, y = 0;   // center, pixels
  double radius = 10;    // half of its height, pixels
  double angle = 0;      // radians, clockwise
  double stroke = 0.28;  // width of the lines of digits and crosses, in radii
};

// Shapes are filled, digits and crosses are strokes. Parts outside the picture are clipped.
void Draw(Thing thing, const Pose& pose, Color color, Image& image);

// `image` enlarged `factor` times, every pixel a square.
Image Enlarge(const Image& image, int64_t factor);

// Copies `part` into `image` with its top left corner at (x, y). Throws Error if it does not fit.
void Paste(const Image& part, int64_t x, int64_t y, Image& image);

}  // namespace lapidary

#endif  // LAPIDARY_DATA_DEMO_DRAW_H_
