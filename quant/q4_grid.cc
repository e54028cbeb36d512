#include "quant/q4_grid.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <mutex>
#include <vector>

#include "autograd/base/error.h"
#include "autograd/base/float16.h"
#include "autograd/base/parallel.h"
#include "quant/format.h"

namespace lapidary {
namespace {

constexpr int kBlock = 32;

double AbsF32(uint16_t bf16) { return std::fabs(static_cast<double>(F32FromBf16(bf16 & 0x7fffu))); }

// Whether bf16(d q_i) is w_i for all values.
bool Explains(float d, const int* q, const float* w) {
  for (int i = 0; i < kBlock; ++i) {
    if (RoundToBf16(d * static_cast<float>(q[i])) != w[i]) return false;
  }
  return true;
}

// A scale in [low, high] that explains the block, bf16 before f16 before float32.
bool FindScale(double low, double high, float sign, const int* q, const float* w,
               Q4Solution* solution) {
  const double middle = (low + high) / 2;
  const uint16_t near = Bf16FromF32(static_cast<float>(middle));
  for (const int step : {0, -1, 1}) {
    const float d = sign * F32FromBf16(static_cast<uint16_t>(near + step));
    if (d == 0 || !std::isfinite(d) || !Explains(d, q, w)) continue;
    solution->d = d;
    solution->scale = Q4Solution::Scale::kBf16;
    return true;
  }
  // f16 values of the interval, the ones nearest its middle first.
  const uint16_t half = F16FromF32(static_cast<float>(middle));
  for (int away = 0; away <= 16; ++away) {
    bool inside = false;
    for (const int step : {away, -away}) {
      const int bits = half + step;
      if (bits <= 0 || bits >= 0x7c00) continue;
      const float d = F32FromF16(static_cast<uint16_t>(bits));
      if (d < low || d > high) continue;
      inside = true;
      if (!Explains(sign * d, q, w)) continue;
      solution->d = sign * d;
      solution->scale = Q4Solution::Scale::kF16;
      return true;
    }
    if (away > 0 && !inside) break;
  }
  const float d = sign * static_cast<float>(middle);
  if (d == 0 || !Explains(d, q, w)) return false;
  solution->d = d;
  solution->scale = Q4Solution::Scale::kF32;
  return true;
}

}  // namespace

Q4Solution SolveQ4Block(const float* w) {
  Q4Solution solution;
  float m = 0;
  for (int i = 0; i < kBlock; ++i) {
    if (!(RoundToBf16(w[i]) == w[i])) return solution;
    if (std::fabs(w[i]) > std::fabs(m)) m = w[i];
  }
  if (m == 0) {
    solution.on_grid = solution.zero = true;
    solution.scale = Q4Solution::Scale::kBf16;
    return solution;
  }
  if (!std::isfinite(m)) return solution;
  for (const int k : {-8, 7, -7, 6, -6, 5, -5, 4, -4}) {
    const float d0 = m / static_cast<float>(k);
    if (d0 == 0) continue;
    int q[kBlock];
    bool fits = true, lowest = false;
    double low = 0, high = INFINITY;
    for (int i = 0; i < kBlock && fits; ++i) {
      const double code = std::nearbyint(static_cast<double>(w[i]) / static_cast<double>(d0));
      fits = code >= -8 && code <= 7 && (code != 0 || w[i] == 0) &&
             (w[i] == 0 || (w[i] < 0) == (static_cast<double>(d0) * code < 0));
      if (!fits) break;
      q[i] = static_cast<int>(code);
      lowest = lowest || q[i] == -8;
      if (q[i] == 0) continue;
      const uint16_t bits = Bf16FromF32(std::fabs(w[i]));
      const double at = AbsF32(bits), below = AbsF32(static_cast<uint16_t>(bits - 1)),
                   above = AbsF32(static_cast<uint16_t>(bits + 1));
      const double magnitude = std::abs(q[i]);
      low = std::max(low, (below + at) / 2 / magnitude);
      high = std::min(high, (at + above) / 2 / magnitude);
      fits = low <= high;
    }
    if (!fits || !FindScale(low, high, d0 < 0 ? -1.0f : 1.0f, q, w, &solution)) continue;
    solution.on_grid = true;
    solution.extremum = k;
    // The mirrored grid is as exact where no code is -8; runtimes like positive scales.
    if (!lowest && solution.d < 0) {
      solution.d = -solution.d;
      solution.extremum = -k;
    }
    solution.subnormal = F32FromF16(F16FromF32(solution.d)) != solution.d;
    return solution;
  }
  return solution;
}

void KeepSolvedScales(const float* values, int64_t n, uint8_t* scales) {
  for (int64_t block = 0; block < n / kBlock; ++block) {
    const Q4Solution solution = SolveQ4Block(values + block * kBlock);
    if (!solution.on_grid || solution.zero) continue;
    const uint16_t half = F16FromF32(solution.d);
    if ((half & 0x7fff) == 0 || (half & 0x7c00) == 0x7c00) continue;
    std::memcpy(scales + 2 * block, &half, 2);
  }
}

void Q4Survey::Add(const Q4Survey& o) {
  for (int64_t Q4Survey::*field :
       {&Q4Survey::blocks, &Q4Survey::zero, &Q4Survey::on_grid, &Q4Survey::minus8,
        &Q4Survey::minus8_negative, &Q4Survey::seven, &Q4Survey::other, &Q4Survey::bf16_scale,
        &Q4Survey::f16_scale, &Q4Survey::f32_scale, &Q4Survey::subnormal, &Q4Survey::stock})
    this->*field += o.*field;
}

double Q4Survey::share() const {
  return blocks > zero ? static_cast<double>(on_grid) / static_cast<double>(blocks - zero) : 1.0;
}
double Q4Survey::stock_share() const {
  return blocks > zero ? static_cast<double>(stock) / static_cast<double>(blocks - zero) : 1.0;
}

std::string Q4Survey::Rule() const {
  if (on_grid == 0 || share() < 0.9) return "none";
  const auto nearly = [&](int64_t count) {
    return static_cast<double>(count) >= 0.98 * static_cast<double>(on_grid);
  };
  if (nearly(minus8 + minus8_negative)) return "extremum / -8 (ggml)";
  if (nearly(seven)) return "max / 7";
  if (nearly(seven + minus8)) return "max / 7.5, or max / 8 clipped";
  return "mixed";
}

Q4Survey SurveyQ4(const StoredTensor& tensor) {
  const int64_t rows = tensor.rows(), cols = tensor.cols();
  LAPIDARY_CHECK(cols % kBlock == 0, tensor.name, ": columns must be a multiple of 32; got ", cols);
  const Format& q4 = GetFormat("Q4_0");
  Q4Survey all;
  std::mutex mutex;
  const int64_t chunk = std::max<int64_t>(1, (int64_t{4} << 20) / cols);
  for (int64_t first = 0; first < rows; first += chunk) {
    const int64_t count = std::min(chunk, rows - first);
    ParallelFor(count, [&](Range r) {
      Q4Survey own;
      std::vector<float> values(static_cast<size_t>(cols)), back(values.size());
      std::vector<uint8_t> bytes(static_cast<size_t>(FormatBytes(q4, cols)));
      for (int64_t row = r.begin; row < r.end; ++row) {
        tensor.ReadRows(first + row, 1, values.data());
        q4.rules[0].quantize(values.data(), cols, bytes.data());
        q4.dequantize(bytes.data(), cols, back.data());
        for (int64_t b = 0; b < cols; b += kBlock) {
          const Q4Solution s = SolveQ4Block(values.data() + b);
          ++own.blocks;
          own.zero += s.zero;
          if (!s.on_grid || s.zero) continue;
          ++own.on_grid;
          own.minus8 += s.extremum == -8 && s.d > 0;
          own.minus8_negative += s.extremum == -8 && s.d < 0;
          own.seven += s.extremum == 7 || s.extremum == -7;
          own.other += s.extremum > -7 && s.extremum < 7;
          own.bf16_scale += s.scale == Q4Solution::Scale::kBf16;
          own.f16_scale += s.scale == Q4Solution::Scale::kF16;
          own.f32_scale += s.scale == Q4Solution::Scale::kF32;
          own.subnormal += s.subnormal;
          bool same = true;
          for (int i = 0; i < kBlock; ++i)
            same = same && RoundToBf16(back[static_cast<size_t>(b + i)]) ==
                               values[static_cast<size_t>(b + i)];
          own.stock += same;
        }
      }
      const std::lock_guard lock(mutex);
      all.Add(own);
    });
    tensor.DropRows(first, count);
  }
  return all;
}

}  // namespace lapidary
