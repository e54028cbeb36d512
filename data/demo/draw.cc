#include "data/demo/draw.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "autograd/base/error.h"

namespace lapidary {
namespace {

struct Point {
  double x, y;
};

double SegmentDistance(Point p, Point a, Point b) {
  const double dx = b.x - a.x, dy = b.y - a.y;
  const double t =
      std::clamp(((p.x - a.x) * dx + (p.y - a.y) * dy) / (dx * dx + dy * dy), 0.0, 1.0);
  return std::hypot(p.x - a.x - t * dx, p.y - a.y - t * dy);
}

double StrokeDistance(Point p, const std::vector<Point>& line, double width) {
  double nearest = 1e9;
  for (size_t i = 0; i + 1 < line.size(); ++i) {
    nearest = std::min(nearest, SegmentDistance(p, line[i], line[i + 1]));
  }
  return nearest - width / 2;
}

// Signed distance to the outline in radii, negative inside; y grows downwards.
double SignedDistance(Thing thing, Point p, double stroke) {
  switch (thing) {
    case Thing::kCircle:
      return std::hypot(p.x, p.y) - 0.95;
    case Thing::kSquare:
      return std::max(std::abs(p.x), std::abs(p.y)) - 0.85;
    case Thing::kTriangle: {
      // Edges of an isosceles triangle: tip at (0, -1), base at y = 0.85.
      const double side = (std::abs(p.x) * 1.85 - (p.y + 1)) / std::hypot(1.85, 1.0);
      return std::max(side, p.y - 0.85);
    }
    case Thing::kCross:
      return std::min(StrokeDistance(p, {{-0.8, -0.8}, {0.8, 0.8}}, stroke),
                      StrokeDistance(p, {{-0.8, 0.8}, {0.8, -0.8}}, stroke));
    case Thing::kZero:
      return std::abs(std::hypot(p.x / 0.62, p.y) - 0.86) * 0.75 - stroke / 2;
    case Thing::kOne:
      return StrokeDistance(p, {{-0.35, -0.5}, {0.05, -0.9}, {0.05, 0.9}}, stroke);
    case Thing::kFour:
      return std::min(StrokeDistance(p, {{0.15, -0.9}, {-0.6, 0.3}, {0.65, 0.3}}, stroke),
                      StrokeDistance(p, {{0.3, -0.25}, {0.3, 0.9}}, stroke));
    case Thing::kSeven:
      return StrokeDistance(p, {{-0.6, -0.85}, {0.6, -0.85}, {-0.15, 0.9}}, stroke);
  }
  throw Error("Draw: must be a known thing; got another");
}

}  // namespace

Image Blank(int64_t height, int64_t width, Color color) {
  LAPIDARY_CHECK(height >= 1 && width >= 1 && height <= kMaxImagePixels / width,
                 "Blank: a picture must have pixels; got ", width, " x ", height);
  Image image = {.height = height, .width = width, .pixels = {}};
  image.pixels.reserve(height * width * 3);
  for (int64_t i = 0; i < height * width; ++i) {
    image.pixels.insert(image.pixels.end(), color.begin(), color.end());
  }
  return image;
}

void Draw(Thing thing, const Pose& pose, Color color, Image& image) {
  LAPIDARY_CHECK(pose.radius > 0, "Draw: the radius must be > 0; got ", pose.radius);
  const double reach = pose.radius * 1.6 + 1;
  const int64_t top = std::max<int64_t>(0, std::floor(pose.y - reach));
  const int64_t bottom = std::min<int64_t>(image.height, std::ceil(pose.y + reach));
  const int64_t left = std::max<int64_t>(0, std::floor(pose.x - reach));
  const int64_t right = std::min<int64_t>(image.width, std::ceil(pose.x + reach));
  const double c = std::cos(pose.angle), s = std::sin(pose.angle);
  for (int64_t y = top; y < bottom; ++y) {
    for (int64_t x = left; x < right; ++x) {
      const double dx = (x + 0.5 - pose.x) / pose.radius, dy = (y + 0.5 - pose.y) / pose.radius;
      const Point turned = {dx * c + dy * s, dy * c - dx * s};
      const double distance = SignedDistance(thing, turned, pose.stroke) * pose.radius;
      const double cover = std::clamp(0.5 - distance, 0.0, 1.0);
      uint8_t* pixel = &image.pixels[(y * image.width + x) * 3];
      for (int k = 0; k < 3; ++k) {
        pixel[k] = static_cast<uint8_t>(std::lround(pixel[k] + cover * (color[k] - pixel[k])));
      }
    }
  }
}

Image Enlarge(const Image& image, int64_t factor) {
  LAPIDARY_CHECK(factor >= 1, "Enlarge: the factor must be >= 1; got ", factor);
  Image out = Blank(image.height * factor, image.width * factor, {0, 0, 0});
  for (int64_t y = 0; y < out.height; ++y) {
    for (int64_t x = 0; x < out.width; ++x) {
      for (int64_t k = 0; k < 3; ++k) {
        out.pixels[(y * out.width + x) * 3 + k] =
            image.pixels[(y / factor * image.width + x / factor) * 3 + k];
      }
    }
  }
  return out;
}

void Paste(const Image& part, int64_t x, int64_t y, Image& image) {
  LAPIDARY_CHECK(
      x >= 0 && y >= 0 && x + part.width <= image.width && y + part.height <= image.height,
      "Paste: the part must lie inside ", image.width, " x ", image.height, "; got ", part.width,
      " x ", part.height, " at ", x, ", ", y);
  for (int64_t row = 0; row < part.height; ++row) {
    std::copy_n(&part.pixels[row * part.width * 3], part.width * 3,
                &image.pixels[((y + row) * image.width + x) * 3]);
  }
}

}  // namespace lapidary
