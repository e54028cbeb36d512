#include "train/export/encoding.h"

#include <cstring>
#include <memory>
#include <vector>

#include "autograd/base/error.h"
#include "autograd/base/float16.h"

namespace lapidary {
namespace {

RowEncoding Make(const char* dtype, int64_t row_bytes, decltype(RowEncoding::row) row) {
  RowEncoding encoding;
  encoding.dtype = dtype;
  encoding.row_bytes = row_bytes;
  encoding.row = std::move(row);
  return encoding;
}

}  // namespace

RowEncoding FormatEncoding(const Format& format, int64_t cols, const char* rule) {
  const ScaleRule& chosen = GetScaleRule(format, rule);
  RowEncoding encoding =
      Make(format.name, FormatBytes(format, cols),
           [&chosen](const float* row, int64_t n, uint8_t* out) { chosen.quantize(row, n, out); });
  encoding.format = &format;
  encoding.max_abs = format.max_abs;
  return encoding;
}

RowEncoding WeightedEncoding(const Format& format, std::vector<float> importance) {
  LAPIDARY_CHECK(format.quantize_weighted, "export: an importance matrix must go with a format ",
                 "that takes heed of it; got ", format.name);
  const int64_t cols = static_cast<int64_t>(importance.size());
  RowEncoding encoding = Make(
      format.name, FormatBytes(format, cols),
      [&format, importance = std::make_shared<const std::vector<float>>(std::move(importance))](
          const float* row, int64_t n, uint8_t* out) {
        format.quantize_weighted(row, importance->data(), n, out);
      });
  encoding.format = &format;
  encoding.max_abs = format.max_abs / 2;
  return encoding;
}

RowEncoding MlxCodes(const MlxAffine& mode, int64_t cols) {
  return Make("U32", cols / 32 * mode.bits * 4, [mode](const float* row, int64_t n, uint8_t* out) {
    const int per_word = 32 / mode.bits;
    std::vector<uint8_t> codes(static_cast<size_t>(mode.group_size));
    for (int64_t at = 0; at < n; at += mode.group_size) {
      MlxQuantizeGroup(mode, row + at, codes.data());
      for (int64_t i = 0; i < mode.group_size; i += per_word, out += 4) {
        uint32_t word = 0;
        for (int k = 0; k < per_word; ++k)
          word |= uint32_t{codes[static_cast<size_t>(i + k)]} << (mode.bits * k);
        std::memcpy(out, &word, 4);
      }
    }
  });
}

namespace {

RowEncoding MlxEnds(const MlxAffine& mode, int64_t cols, float MlxGroup::*part) {
  return Make(
      "BF16", cols / mode.group_size * 2, [mode, part](const float* row, int64_t n, uint8_t* out) {
        std::vector<uint8_t> codes(static_cast<size_t>(mode.group_size));
        for (int64_t at = 0; at < n; at += mode.group_size, out += 2) {
          const uint16_t bits = Bf16FromF32(MlxQuantizeGroup(mode, row + at, codes.data()).*part);
          std::memcpy(out, &bits, 2);
        }
      });
}

}  // namespace

RowEncoding MlxScales(const MlxAffine& mode, int64_t cols) {
  return MlxEnds(mode, cols, &MlxGroup::scale);
}
RowEncoding MlxBiases(const MlxAffine& mode, int64_t cols) {
  return MlxEnds(mode, cols, &MlxGroup::bias);
}

namespace {

int64_t ScaleBytes(const Grid& grid, int64_t cols) {
  return (grid.block() > 0 ? cols / grid.block() : 1) * grid.scale_bytes();
}

// Codes in two's complement to unsigned ones, first in the low bits of each word.
void PackCodes(int bits, const int8_t* codes, int64_t n, uint8_t* out) {
  const int per_word = 32 / bits;
  for (int64_t i = 0; i < n; i += per_word, out += 4) {
    uint32_t word = 0;
    for (int k = 0; k < per_word; ++k)
      word |= static_cast<uint32_t>(codes[i + k] + (1 << (bits - 1))) << (bits * k);
    std::memcpy(out, &word, 4);
  }
}

constexpr int64_t kQ40Bytes = 18, kQ40Values = 32;  // f16 scale, 16 bytes of codes

}  // namespace

RowEncoding PackedCodes(const Grid& grid, int64_t cols) {
  RowEncoding encoding = Make("I32", cols / 32 * grid.bits() * 4, {});
  encoding.grid = &grid;
  encoding.on_scales = [&grid](const uint8_t* scales, const float* row, int64_t n, uint8_t* out) {
    std::vector<uint8_t> codes(static_cast<size_t>(n));
    grid.Encode(scales, row, n, codes.data());
    PackCodes(grid.bits(), reinterpret_cast<const int8_t*>(codes.data()), n, out);
  };
  encoding.row = [&grid, on_scales = encoding.on_scales](const float* row, int64_t n,
                                                         uint8_t* out) {
    std::vector<uint8_t> scales(static_cast<size_t>(ScaleBytes(grid, n)));
    grid.Measure(row, n, scales.data());
    std::vector<float> values(row, row + n);
    grid.ProjectOn(scales.data(), values.data(), n);
    on_scales(scales.data(), values.data(), n, out);
  };
  if (grid.bits() == 4 && grid.block() == kQ40Values) {
    encoding.from_q4_0 = [](const uint8_t* blocks, int64_t n, uint8_t* out) {
      int8_t codes[kQ40Values];
      for (int64_t i = 0; i < n; i += kQ40Values, blocks += kQ40Bytes, out += kQ40Values / 2) {
        for (int k = 0; k < 16; ++k) {
          codes[k] = static_cast<int8_t>((blocks[2 + k] & 15) - 8);
          codes[k + 16] = static_cast<int8_t>((blocks[2 + k] >> 4) - 8);
        }
        PackCodes(4, codes, kQ40Values, out);
      }
    };
  }
  return encoding;
}

RowEncoding PackedScales(const Grid& grid, int64_t cols) {
  RowEncoding encoding = Make("BF16", ScaleBytes(grid, cols), {});
  encoding.grid = &grid;
  encoding.row = [&grid](const float* row, int64_t n, uint8_t* out) { grid.Measure(row, n, out); };
  encoding.on_scales = [&grid](const uint8_t* scales, const float*, int64_t n, uint8_t* out) {
    std::memcpy(out, scales, static_cast<size_t>(ScaleBytes(grid, n)));
  };
  if (grid.bits() == 4 && grid.block() == kQ40Values) {
    encoding.from_q4_0 = [](const uint8_t* blocks, int64_t n, uint8_t* out) {
      for (int64_t i = 0; i < n; i += kQ40Values, blocks += kQ40Bytes, out += 2) {
        uint16_t half;
        std::memcpy(&half, blocks, 2);
        const uint16_t bits = Bf16FromF32(F32FromF16(half));
        std::memcpy(out, &bits, 2);
      }
    };
  }
  return encoding;
}

}  // namespace lapidary
