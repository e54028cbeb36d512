#include "data/resize.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "autograd/base/error.h"

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
// One binary, the widest vectors of the CPU; integers, hence the same bits on all.
#define LAPIDARY_WIDE_VECTORS __attribute__((target_clones("avx2", "default")))
#else
#define LAPIDARY_WIDE_VECTORS
#endif

namespace lapidary {
namespace {

// Keys' cubic convolution kernel with a = -0.5, in the order of operations of ATen.
double Cubic(double x) {
  constexpr double a = -0.5;
  const double t = std::abs(x);
  if (t < 1) return ((a + 2) * t - (a + 3)) * t * t + 1;
  if (t < 2) return ((a * t - 5 * a) * t + 8 * a) * t - 4 * a;
  return 0;
}

// out[i] = clamp((2^(shift-1) + sum_k rows[k][i] * weights[k]) >> shift). The accumulators fit: the
// absolute values of a row's weights add up to less than 1.6 * 2^shift with shift <= 22, times 255.
LAPIDARY_WIDE_VECTORS
void WeightRows(const uint8_t* rows, int64_t stride, const int32_t* weights, int64_t count,
                int shift, int64_t n, uint8_t* out) {
  constexpr int64_t kBlock = 64;  // accumulators kept in registers
  const int32_t half = 1 << (shift - 1);
  int64_t begin = 0;
  for (; begin + kBlock <= n; begin += kBlock) {
    int32_t sums[kBlock];
    for (int64_t i = 0; i < kBlock; ++i) sums[i] = half;
    for (int64_t k = 0; k < count; ++k) {
      const uint8_t* row = rows + k * stride + begin;
      const int32_t w = weights[k];
      for (int64_t i = 0; i < kBlock; ++i) sums[i] += row[i] * w;
    }
    for (int64_t i = 0; i < kBlock; ++i) {
      out[begin + i] = static_cast<uint8_t>(std::clamp(sums[i] >> shift, 0, 255));
    }
  }
  for (; begin < n; ++begin) {
    int32_t sum = half;
    for (int64_t k = 0; k < count; ++k) sum += rows[k * stride + begin] * weights[k];
    out[begin] = static_cast<uint8_t>(std::clamp(sum >> shift, 0, 255));
  }
}

// Along the height: rows of width * 3 bytes are added up.
Image ResizeHeight(const Image& image, int64_t height, int shift) {
  const ResizeWeights w = MakeResizeWeights(image.height, height, shift);
  const int64_t stride = image.width * 3;
  Image out = {.height = height, .width = image.width, .pixels = {}};
  out.pixels.resize(height * stride);
  for (int64_t y = 0; y < height; ++y) {
    WeightRows(&image.pixels[w.start[y] * stride], stride, &w.weights[y * w.taps], w.count[y],
               w.shift, stride, &out.pixels[y * stride]);
  }
  return out;
}

// Along the width: up to 64 picture rows at a time are transposed to [x][channel][row], so that
// the same loop adds up columns.
Image ResizeWidth(const Image& image, int64_t width, int shift) {
  const int64_t block = std::min<int64_t>(64, image.height), column = 3 * block;
  const ResizeWeights w = MakeResizeWeights(image.width, width, shift);
  Image out = {.height = image.height, .width = width, .pixels = {}};
  out.pixels.resize(image.height * width * 3);
  std::vector<uint8_t> columns(image.width * column), result(column);
  for (int64_t top = 0; top < image.height; top += block) {
    const int64_t rows = std::min(block, image.height - top);
    for (int64_t r = 0; r < rows; ++r) {
      const uint8_t* in = &image.pixels[(top + r) * image.width * 3];
      for (int64_t x = 0; x < image.width; ++x) {
        for (int64_t c = 0; c < 3; ++c) columns[x * column + c * block + r] = in[x * 3 + c];
      }
    }
    for (int64_t x = 0; x < width; ++x) {
      WeightRows(&columns[w.start[x] * column], column, &w.weights[x * w.taps], w.count[x], w.shift,
                 column, result.data());
      for (int64_t r = 0; r < rows; ++r) {
        uint8_t* to = &out.pixels[((top + r) * width + x) * 3];
        for (int64_t c = 0; c < 3; ++c) to[c] = result[c * block + r];
      }
    }
  }
  return out;
}

// calc_size_preserved_ratio of llama.cpp, in its single precision. `most` and `least`: pixels.
ImageSize LlamaTargetSize(ImageSize size, int64_t m, int64_t least, int64_t most) {
  const float patch = static_cast<float>(m);
  const auto times = [m](float patches) { return static_cast<int64_t>(patches) * m; };
  const float h = static_cast<float>(size.height), w = static_cast<float>(size.width);
  ImageSize out = {.height = std::max(m, times(std::round(h / patch))),
                   .width = std::max(m, times(std::round(w / patch)))};
  if (out.height * out.width > most) {
    const float beta = std::sqrt(h * w / static_cast<float>(most));
    out = {.height = std::max(m, times(std::floor(h / beta / patch))),
           .width = std::max(m, times(std::floor(w / beta / patch)))};
  } else if (out.height * out.width < least) {
    const float beta = std::sqrt(static_cast<float>(least) / (h * w));
    out = {.height = times(std::ceil(h * beta / patch)),
           .width = times(std::ceil(w * beta / patch))};
  }
  return out;
}

constexpr int kPillowShift = 22;
constexpr int64_t kLlamaLeast = 70, kLlamaSide = 65536;

}  // namespace

ImageSize TargetSize(ImageSize size, const ImageProcessorConfig& config, int64_t budget) {
  const int64_t h = size.height, w = size.width, m = config.model_patch();
  LAPIDARY_CHECK(h >= 1 && w >= 1 && h <= int64_t{1} << 30 && w <= int64_t{1} << 30,
                 "TargetSize: a picture must have pixels; got ", w, " x ", h);
  LAPIDARY_CHECK(
      m >= 1 && m <= 4096 && budget >= 1 && budget <= 1 << 20,
      "TargetSize: patches must be 1 to 4096 pixels and the budget 1 to 2^20 tokens; got ", m,
      " and ", budget);
  const int64_t target_pixels = budget * m * m;
  if (config.resize == ImageResize::kLlamaCpp) {
    const ImageSize out =
        LlamaTargetSize(size, m, std::min(kLlamaLeast, budget) * m * m, target_pixels);
    LAPIDARY_CHECK(out.height <= kLlamaSide && out.width <= kLlamaSide,
                   "TargetSize: sides must be at most ", kLlamaSide, " as llama.cpp resizes; got ",
                   out.width, " x ", out.height, " for a picture of ", w, " x ", h,
                   "; try a picture that is less lopsided");
    return out;
  }
  // In doubles, as Python does: the floors depend on it.
  const double f = std::sqrt(static_cast<double>(target_pixels) / static_cast<double>(h * w));
  ImageSize out = {.height = static_cast<int64_t>(std::floor(f * static_cast<double>(h) / m)) * m,
                   .width = static_cast<int64_t>(std::floor(f * static_cast<double>(w) / m)) * m};
  LAPIDARY_CHECK(out.height > 0 || out.width > 0, "TargetSize: a picture must fill a patch; got ",
                 w, " x ", h, " with a budget of ", budget);
  // Too lopsided for one row of patches: one row, and the longest that fits.
  if (out.height == 0) {
    out = {.height = m, .width = std::min(w / h * m, budget * m)};
  } else if (out.width == 0) {
    out = {.height = std::min(h / w * m, budget * m), .width = m};
  }
  LAPIDARY_CHECK(out.height > 0 && out.width > 0 && out.height * out.width <= target_pixels,
                 "TargetSize: the size must fit the budget of ", budget, " tokens; got ", out.width,
                 " x ", out.height);
  return out;
}

int64_t ImageTokens(ImageSize size, const ImageProcessorConfig& config, int64_t budget) {
  const ImageSize target = TargetSize(size, config, budget);
  return target.height / config.model_patch() * (target.width / config.model_patch());
}

ResizeWeights MakeResizeWeights(int64_t n, int64_t m, int shift) {
  LAPIDARY_CHECK(n >= 1 && m >= 1 && n < int64_t{1} << 31 && m < int64_t{1} << 31,
                 "MakeResizeWeights: lengths must be 1 to 2^31; got ", n, " and ", m);
  LAPIDARY_CHECK(shift >= 0 && shift <= 22, "MakeResizeWeights: shift must be 0 to 22; got ",
                 shift);
  const double scale = static_cast<double>(n) / static_cast<double>(m);
  const double support = scale >= 1 ? 2.0 * scale : 2.0;
  const double inverse = scale >= 1 ? 1.0 / scale : 1.0;
  ResizeWeights out;
  out.taps = static_cast<int64_t>(std::ceil(support)) * 2 + 1;
  out.start.resize(m);
  out.count.resize(m);
  std::vector<double> real(m * out.taps, 0.0);
  double largest = 0;
  for (int64_t i = 0; i < m; ++i) {
    const double center = scale * (static_cast<double>(i) + 0.5);
    const int64_t low = std::max<int64_t>(static_cast<int64_t>(center - support + 0.5), 0);
    const int64_t high = std::min(static_cast<int64_t>(center + support + 0.5), n);
    const int64_t count = std::clamp<int64_t>(high - low, 0, out.taps);
    double* row = &real[i * out.taps];
    double sum = 0;
    for (int64_t j = 0; j < count; ++j) {
      row[j] = Cubic((static_cast<double>(j + low) - center + 0.5) * inverse);
      sum += row[j];
    }
    for (int64_t j = 0; j < count; ++j) {
      if (sum != 0) row[j] /= sum;
      largest = std::max(largest, row[j]);
    }
    out.start[i] = static_cast<int32_t>(low);
    out.count[i] = static_cast<int32_t>(count);
  }
  // The largest shift with which every weight fits into int16.
  out.shift = shift;
  while (shift == 0 && out.shift < 22 &&
         static_cast<int64_t>(0.5 + largest * (int64_t{1} << (out.shift + 1))) < 32768) {
    ++out.shift;
  }
  out.weights.resize(real.size());
  const double unit = static_cast<double>(int64_t{1} << out.shift);
  for (size_t i = 0; i < real.size(); ++i) {
    out.weights[i] = static_cast<int32_t>(real[i] * unit + (real[i] < 0 ? -0.5 : 0.5));
  }
  return out;
}

Image Resize(const Image& image, int64_t height, int64_t width, int shift) {
  LAPIDARY_CHECK(image.height >= 1 && image.width >= 1 &&
                     static_cast<int64_t>(image.pixels.size()) == image.height * image.width * 3,
                 "Resize: a picture must have height * width * 3 bytes; got ", image.width, " x ",
                 image.height, " and ", image.pixels.size(), " bytes");
  LAPIDARY_CHECK(height >= 1 && width >= 1 && height <= kMaxImagePixels / width,
                 "Resize: the new size must be 1 to ", kMaxImagePixels, " pixels; got ", width,
                 " x ", height);
  if (width == image.width) {
    return height == image.height ? image : ResizeHeight(image, height, shift);
  }
  if (height == image.height) return ResizeWidth(image, width, shift);
  return ResizeHeight(ResizeWidth(image, width, shift), height, shift);
}

Image ResizeTo(const Image& image, ImageSize target, const ImageProcessorConfig& config) {
  if (config.resize == ImageResize::kHuggingFace) {
    return Resize(image, target.height, target.width);
  }
  if (image.height == target.height && image.width == target.width) return image;
  const float h = static_cast<float>(image.height), w = static_cast<float>(image.width);
  const float scale =
      std::min(static_cast<float>(target.width) / w, static_cast<float>(target.height) / h);
  const int64_t height = std::min(static_cast<int64_t>(std::ceil(h * scale)), target.height);
  const int64_t width = std::min(static_cast<int64_t>(std::ceil(w * scale)), target.width);
  const Image inner = Resize(image, height, width, kPillowShift);
  if (height == target.height && width == target.width) return inner;
  Image out = {.height = target.height, .width = target.width, .pixels = {}};
  out.pixels.assign(static_cast<size_t>(target.height * target.width * 3), 0);
  const int64_t top = (target.height - height) / 2, left = (target.width - width) / 2;
  for (int64_t y = 0; y < height; ++y) {
    std::memcpy(&out.pixels[((top + y) * target.width + left) * 3], &inner.pixels[y * width * 3],
                static_cast<size_t>(width * 3));
  }
  return out;
}

}  // namespace lapidary
