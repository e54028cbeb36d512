#include "train/optim/state_code.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <vector>

#include "autograd/base/float16.h"
#include "autograd/base/parallel.h"

namespace lapidary {

DynamicCode::DynamicCode(bool with_sign) {
  std::vector<double> values = {0.0, 1.0};
  double decade = 1e-6;
  for (int i = 0; i < 7; ++i, decade *= 10) {
    const int64_t steps = int64_t{1} << (with_sign ? i : i + 1);
    for (int64_t k = 0; k < steps; ++k) {
      const double middle = 0.1 + 0.9 * (static_cast<double>(k) + 0.5) / static_cast<double>(steps);
      values.push_back(decade * middle);
      if (with_sign) values.push_back(-decade * middle);
    }
  }
  std::sort(values.begin(), values.end());
  for (size_t i = 0; i < values_.size(); ++i) values_[i] = static_cast<float>(values[i]);
  for (size_t i = 0; i < middles_.size(); ++i) {
    middles_[i] = static_cast<float>((values[i] + values[i + 1]) / 2);
  }
  for (uint32_t top = 0; top < first_.size(); ++top) {
    // Of negative numbers, those with the most low bits set are the least.
    const float least = std::bit_cast<float>(top << 16 | (top & 0x8000u ? 0xffffu : 0u));
    const auto above = std::lower_bound(middles_.begin(), middles_.end(), least);
    first_[top] = std::isnan(least) ? uint8_t{0} : static_cast<uint8_t>(above - middles_.begin());
  }
}

const DynamicCode& DynamicCode::Signed() {
  static const DynamicCode code(true);
  return code;
}
const DynamicCode& DynamicCode::Unsigned() {
  static const DynamicCode code(false);
  return code;
}

uint8_t DynamicCode::Nearest(float x) const {
  uint32_t code = first_[std::bit_cast<uint32_t>(x) >> 16];
  while (code < 255 && x > middles_[code]) ++code;
  return static_cast<uint8_t>(code);
}

uint16_t RoundStochastically(float x, uint32_t random) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  if ((bits & 0x7f800000u) == 0x7f800000u) return Bf16FromF32(x);
  return static_cast<uint16_t>((bits + (random & 0xffffu)) >> 16);
}

MomentState::MomentState(const Shape& shape, DType dtype, bool has_sign) : is_signed(has_sign) {
  values = Tensor::Zeros(shape, dtype);
  if (dtype != DType::kI8) return;
  const DynamicCode& code = has_sign ? DynamicCode::Signed() : DynamicCode::Unsigned();
  uint8_t* codes = values.data<uint8_t>();
  ParallelFor(
      values.size(),
      [&](Range r) {
        std::memset(codes + r.begin, code.Nearest(0.0f), static_cast<size_t>(r.end - r.begin));
      },
      1 << 20);
  scales = Tensor::Zeros(Shape{(shape.size() + kStateBlock - 1) / kStateBlock});
}

void MomentState::Load(int64_t begin, int64_t end, float* out) const {
  switch (values.dtype()) {
    case DType::kBf16: {
      const uint16_t* from = values.data<uint16_t>() + begin;
      for (int64_t i = 0; i < end - begin; ++i) out[i] = F32FromBf16(from[i]);
      return;
    }
    case DType::kI8: {
      const DynamicCode& code = is_signed ? DynamicCode::Signed() : DynamicCode::Unsigned();
      const uint8_t* from = values.data<uint8_t>();
      for (int64_t i = begin; i < end; ++i) {
        out[i - begin] = scales.data()[i / kStateBlock] * code.Value(from[i]);
      }
      return;
    }
    default:
      std::memcpy(out, values.data() + begin, static_cast<size_t>(end - begin) * sizeof(float));
  }
}

void MomentState::Store(int64_t begin, int64_t end, const float* in, const RandomKey& key) {
  switch (values.dtype()) {
    case DType::kBf16: {
      uint16_t* to = values.data<uint16_t>();
      std::array<uint32_t, 4> words{};
      for (int64_t i = begin; i < end; ++i) {  // eight elements share the words of one index
        if (i % 8 == 0 || i == begin) words = RandomBits(key, static_cast<uint64_t>(i / 8));
        to[i] = RoundStochastically(in[i - begin], words[i % 8 / 2] >> (i % 2 * 16));
      }
      return;
    }
    case DType::kI8: {
      const DynamicCode& code = is_signed ? DynamicCode::Signed() : DynamicCode::Unsigned();
      const uint8_t zero = code.Nearest(0.0f);
      uint8_t* to = values.data<uint8_t>();
      for (int64_t block = begin; block < end; block += kStateBlock) {
        const int64_t block_end = std::min(block + kStateBlock, end);
        float most = 0;
        for (int64_t i = block; i < block_end; ++i) {
          most = std::max(most, std::fabs(in[i - begin]));
        }
        scales.data()[block / kStateBlock] = most;
        const float inverse = most > 0 ? 1.0f / most : 0.0f;
        for (int64_t i = block; i < block_end; ++i) {
          const float x = in[i - begin];
          to[i] = code.Nearest(std::isfinite(inverse) ? x * inverse : x / most);
          if (!is_signed && x > 0 && to[i] == zero) to[i] = static_cast<uint8_t>(zero + 1);
        }
      }
      return;
    }
    default:
      std::memcpy(values.data() + begin, in, static_cast<size_t>(end - begin) * sizeof(float));
  }
}

}  // namespace lapidary
