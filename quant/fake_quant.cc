#include "quant/fake_quant.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <memory>

#include "autograd/base/error.h"
#include "autograd/weight.h"
#include "quant/formats/blocks.h"
#include "quant/formats/lanes.h"

namespace lapidary {
namespace {

using formats::Nearest;

// ---- block formats

class FormatGrid final : public Grid {
 public:
  FormatGrid(const Format& format, const char* rule) {
    name_ = UserName(format);
    block_ = format.block_size;
    format_ = &format;
    rule_ = &GetScaleRule(format, rule);
    scale_bytes_ = format.head.bytes;
    if (format.id == kFormatQ4_0 || format.id == kFormatQ8_0) {
      low_ = static_cast<float>(format.head.low);
      high_ = static_cast<float>(format.head.high);
    }
    // Power-of-two scales, or bf16 scales with codes of 4 bits.
    exact_in_bf16_ = format.id == 39 || std::string_view(rule) == "qat";
  }

  void Project(float* values, int64_t n) const override {
    if (rule_->project) {
      rule_->project(values, n);
      return;
    }
    uint8_t bytes[kMostBytes];
    for (int64_t i = 0; i < n; i += block_) {
      rule_->quantize(values + i, block_, bytes);
      format_->dequantize(bytes, block_, values + i);
    }
  }

  void Measure(const float* values, int64_t n, uint8_t* scales) const override {
    uint8_t bytes[kMostBytes];
    for (int64_t i = 0; i < n; i += block_, scales += scale_bytes_) {
      rule_->quantize(values + i, block_, bytes);
      std::memcpy(scales, bytes + format_->head.at, static_cast<size_t>(scale_bytes_));
    }
  }

  void ProjectOn(const uint8_t* scales, float* values, int64_t n) const override {
    const ScaleHead& head = format_->head;
    const float low = static_cast<float>(head.low), high = static_cast<float>(head.high);
    const int64_t subs = block_ / head.sub;
    float steps[kMostSubs], offsets[kMostSubs];
    for (int64_t i = 0; i < n; i += block_, scales += scale_bytes_) {
      head.load(scales, steps, offsets);
      for (int64_t s = 0; s < subs; ++s) {
        float* x = values + i + s * head.sub;
        const float step = steps[s], offset = offsets[s];
        if (step == 0) {
          std::fill_n(x, head.sub, -offset);
          continue;
        }
        for (int64_t k = 0; k < head.sub; ++k) {
          const float at = std::min(std::max((x[k] + offset) / step, low), high);
          x[k] = step * ((at + 12582912.0f) - 12582912.0f) - offset;
        }
      }
    }
  }

  void Encode(const uint8_t* scales, const float* values, int64_t n, uint8_t* out) const override {
    LAPIDARY_CHECK(format_->id == 2 || format_->id == 8, "grid ", name_,
                   ": kept scales must be of q4_0 or q8_0 to be written; got ", name_,
                   "; try scales that follow the weights");
    const ScaleHead& head = format_->head;
    for (int64_t i = 0; i < n; i += block_, scales += scale_bytes_, out += format_->block_bytes) {
      float step, offset;
      head.load(scales, &step, &offset);
      std::memcpy(out, scales, 2);
      uint8_t codes[32];
      for (int64_t k = 0; k < 32; ++k)
        codes[k] = static_cast<uint8_t>((step == 0 ? 0 : Nearest(values[i + k] / step)) +
                                        (format_->id == 2 ? 8 : 0));
      if (format_->id == 2) {
        formats::PackNibbles(codes, out + 2);
      } else {
        std::memcpy(out + 2, codes, 32);
      }
    }
  }

  float Step(const uint8_t* scales) const override {
    float steps[kMostSubs], offsets[kMostSubs];
    format_->head.load(scales, steps, offsets);
    return steps[0];
  }

  void StoreStep(float step, uint8_t* scales) const override {
    // Q4_0 keeps the scales of its rule "qat": what bf16 holds, stored as f16.
    formats::StoreHalf(format_->id == kFormatQ4_0 ? RoundToBf16(step) : step, scales);
  }

 private:
  static constexpr int kMostBytes = 512, kMostSubs = 16;
};

// ---- integer codes with a bf16 scale for a group or a row (formats.md 6.1)

// Largest magnitude of n values, as bits: ordered like magnitudes.
LAPIDARY_LANES float Largest(const float* x, int64_t n) {
  uint32_t largest = 0;
  for (int64_t i = 0; i < n; ++i) {
    const uint32_t bits = std::bit_cast<uint32_t>(x[i]) & 0x7fffffffu;
    largest = bits > largest ? bits : largest;
  }
  return std::bit_cast<float>(largest);
}

// w' = clamp(rne(w / d), -2^(bits-1), 2^(bits-1) - 1) d, by the reciprocal of d.
template <int kBits>
LAPIDARY_LANES void Snap(float d, float* x, int64_t n) {
  constexpr float kLow = -static_cast<float>(1 << (kBits - 1)), kHigh = -kLow - 1;
  const float inverse = d != 0 ? 1.0f / d : 0.0f;
  for (int64_t i = 0; i < n; ++i) {
    float q = x[i] * inverse;
    q = q > kLow ? q : kLow;
    q = q < kHigh ? q : kHigh;
    x[i] = ((q + 12582912.0f) - 12582912.0f) * d;
  }
}

// max|w| / 7.5 in the weights' type, bf16.
template <int kBits>
LAPIDARY_LANES float GroupScale(const float* x, int64_t n) {
  return RoundToBf16(Largest(x, n) / (static_cast<float>((1 << kBits) - 1) / 2));
}

template <int kBits, int64_t kGroup>
LAPIDARY_LANES void GroupsBody(float* values, int64_t n) {
  for (float* x = values; x < values + n; x += kGroup)
    Snap<kBits>(GroupScale<kBits>(x, kGroup), x, kGroup);
}
template <int kBits>
LAPIDARY_LANES void RowBody(float* values, int64_t n) {
  Snap<kBits>(GroupScale<kBits>(values, n), values, n);
}
LAPIDARY_LANES void Int4G32Body(float* values, int64_t n) { GroupsBody<4, 32>(values, n); }
LAPIDARY_LANES void Int4G128Body(float* values, int64_t n) { GroupsBody<4, 128>(values, n); }
LAPIDARY_LANES void Int3G32Body(float* values, int64_t n) { GroupsBody<3, 32>(values, n); }
LAPIDARY_LANES void Int8RowBody(float* values, int64_t n) { RowBody<8>(values, n); }
LAPIDARY_PROJECT_IN_LANES(ProjectInt4G32, Int4G32Body)
LAPIDARY_PROJECT_IN_LANES(ProjectInt4G128, Int4G128Body)
LAPIDARY_PROJECT_IN_LANES(ProjectInt3G32, Int3G32Body)
LAPIDARY_PROJECT_IN_LANES(ProjectInt8Row, Int8RowBody)

template <int kBits>
class IntGrid final : public Grid {
 public:
  using ProjectFunction = void (*)(float*, int64_t);
  IntGrid(const char* name, int64_t group, ProjectFunction project) : project_(project) {
    name_ = name;
    block_ = group;
    bits_ = kBits;
    scale_bytes_ = 2;
    low_ = -static_cast<float>(1 << (kBits - 1));
    high_ = -low_ - 1;
    exact_in_bf16_ = false;  // codes and scales survive, but a stock quantizer measures others
  }

  void Project(float* values, int64_t n) const override { project_(values, n); }

  void Measure(const float* values, int64_t n, uint8_t* scales) const override {
    const int64_t group = block_ > 0 ? block_ : n;
    for (int64_t i = 0; i < n; i += group, scales += 2) {
      const uint16_t bits = Bf16FromF32(GroupScale<kBits>(values + i, group));
      std::memcpy(scales, &bits, 2);
    }
  }

  void ProjectOn(const uint8_t* scales, float* values, int64_t n) const override {
    const int64_t group = block_ > 0 ? block_ : n;
    for (int64_t i = 0; i < n; i += group, scales += 2)
      Snap<kBits>(Step(scales), values + i, group);
  }

  void Encode(const uint8_t* scales, const float* values, int64_t n, uint8_t* out) const override {
    const int64_t group = block_ > 0 ? block_ : n;
    for (int64_t i = 0; i < n; ++i) {
      const float d = Step(scales + i / group * 2);
      out[i] = static_cast<uint8_t>(d == 0 ? 0 : Nearest(values[i] / d));
    }
  }

  float Step(const uint8_t* scales) const override {
    uint16_t bits;
    std::memcpy(&bits, scales, 2);
    return F32FromBf16(bits);
  }

  void StoreStep(float step, uint8_t* scales) const override {
    const uint16_t bits = Bf16FromF32(step);
    std::memcpy(scales, &bits, 2);
  }

 private:
  const ProjectFunction project_;
};

// Grid::StepSlope of one step.
LAPIDARY_LANES void SlopeBody(float step, float low, float high, float* x, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    const float v = x[i] / step;
    const float inside = ((v + 12582912.0f) - 12582912.0f) - v;
    x[i] = step * (v < low ? low : v > high ? high : inside);
  }
}
#if defined(__x86_64__)
__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl"))) void SlopeAvx512(float step,
                                                                               float low,
                                                                               float high, float* x,
                                                                               int64_t n) {
  SlopeBody(step, low, high, x, n);
}
__attribute__((target("avx2"))) void SlopeAvx2(float step, float low, float high, float* x,
                                               int64_t n) {
  SlopeBody(step, low, high, x, n);
}
#endif
void Slope(float step, float low, float high, float* x, int64_t n) {
  if (step == 0) {
    std::fill_n(x, n, 0.0f);
    return;
  }
#if defined(__x86_64__)
  const Isa isa = ActiveIsa();
  if (isa == Isa::kAvx2) return SlopeAvx2(step, low, high, x, n);
  if (isa != Isa::kScalar) return SlopeAvx512(step, low, high, x, n);
#endif
  SlopeBody(step, low, high, x, n);
}

std::vector<const Grid*> MakeGrids() {
  std::vector<const Grid*> grids;
  const auto add_format = [&](const char* name, const char* rule = "ggml") {
    grids.push_back(new FormatGrid(GetFormat(name), rule));
  };
  add_format("Q4_0", "qat");
  add_format("Q8_0");
  add_format("MXFP4");
  add_format("NVFP4");
  add_format("Q4_K");
  add_format("Q6_K");
  add_format("Q3_K");
  grids.push_back(new IntGrid<4>("int4_g32", 32, ProjectInt4G32));
  grids.push_back(new IntGrid<4>("int4_g128", 128, ProjectInt4G128));
  grids.push_back(new IntGrid<3>("int3_g32", 32, ProjectInt3G32));
  grids.push_back(new IntGrid<8>("int8_channel", 0, ProjectInt8Row));
  for (const Format* format : AllFormats()) {
    const bool there = std::any_of(grids.begin(), grids.end(),
                                   [&](const Grid* g) { return g->format() == format; });
    if (!there && format->block_size > 1) add_format(format->name);
  }
  return grids;
}

}  // namespace

void Grid::Fit(const float* values, int64_t n, uint8_t* scales) const {
  Measure(values, n, scales);
  const int64_t block = block_ > 0 ? block_ : n;
  std::vector<float> on(static_cast<size_t>(block));
  for (int64_t i = 0; i < n; i += block, scales += scale_bytes_) {
    const float step = Step(scales);
    double least = 0;
    for (int k = 0; k < 13; ++k) {
      uint8_t tried[2];
      StoreStep(step * (0.64f + 0.04f * static_cast<float>(k)), tried);
      std::copy_n(values + i, block, on.data());
      ProjectOn(tried, on.data(), block);
      double error = 0;
      for (int64_t j = 0; j < block; ++j) {
        const double off = static_cast<double>(on[static_cast<size_t>(j)]) - values[i + j];
        error += off * off;
      }
      if (k > 0 && error >= least) continue;
      least = error;
      std::memcpy(scales, tried, 2);
    }
  }
}

void Grid::StepSlope(const uint8_t* scales, float* values, int64_t n) const {
  const int64_t block = block_ > 0 ? block_ : n;
  for (int64_t i = 0; i < n; i += block, scales += scale_bytes_)
    Slope(Step(scales), low_, high_, values + i, block);
}

void Grid::StepGrad(const uint8_t* scales, const float* values, int64_t n, float* dvalues,
                    float* dlog) const {
  const int64_t block = block_ > 0 ? block_ : n;
  std::vector<float> slope(static_cast<size_t>(block));
  for (int64_t i = 0; i < n; i += block, scales += scale_bytes_, ++dlog) {
    const float step = Step(scales);
    std::copy_n(values + i, block, slope.data());
    StepSlope(scales, slope.data(), block);
    double sum = 0;
    for (int64_t k = i; k < i + block; ++k) {
      sum += static_cast<double>(dvalues[k]) * slope[static_cast<size_t>(k - i)];
      const float v = step != 0 ? values[k] / step : 0.0f;
      if (v < low_ || v > high_) dvalues[k] = 0;
    }
    *dlog = static_cast<float>(sum);
  }
}

const std::vector<const Grid*>& AllGrids() {
  static const auto* grids = new std::vector<const Grid*>(MakeGrids());
  return *grids;
}

const Grid* FindGrid(std::string_view name) {
  std::string lower(name);
  for (char& c : lower) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c;
  for (const Grid* grid : AllGrids()) {
    if (grid->name() == lower) return grid;
  }
  return nullptr;
}

const Grid& GetGrid(std::string_view name, const std::string& where) {
  if (const Grid* grid = FindGrid(name)) return *grid;
  std::string names;
  for (const Grid* grid : AllGrids()) names += " " + grid->name();
  throw Error(
      StrCat(where, ": must be a grid of fake quantization; got '", name, "'; try one of", names));
}

}  // namespace lapidary
