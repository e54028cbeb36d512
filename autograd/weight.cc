#include "autograd/weight.h"

#include <algorithm>
#include <cstring>
#include <map>

#include "autograd/base/error.h"
#include "autograd/base/float16.h"
#include "autograd/weight_map.h"

namespace lapidary {
namespace {

void DequantizeF32(const void* row, int64_t begin, int64_t end, float* out) {
  std::memcpy(out, static_cast<const char*>(row) + begin * 4, (end - begin) * 4);
}

void DequantizeF16(const void* row, int64_t begin, int64_t end, float* out) {
  const char* at = static_cast<const char*>(row) + begin * 2;
  for (int64_t i = 0; i < end - begin; ++i) {
    uint16_t half;
    std::memcpy(&half, at + 2 * i, 2);
    out[i] = F32FromF16(half);
  }
}

void DequantizeBf16(const void* row, int64_t begin, int64_t end, float* out) {
  const char* at = static_cast<const char*>(row) + begin * 2;
  for (int64_t i = 0; i < end - begin; ++i) {
    uint16_t bits;
    std::memcpy(&bits, at + 2 * i, 2);
    out[i] = F32FromBf16(bits);
  }
}

std::map<int32_t, WeightFormat>& Formats() {
  static std::map<int32_t, WeightFormat> formats = {
      {kFormatF32, {kFormatF32, "F32", 1, 4, DequantizeF32}},
      {kFormatF16, {kFormatF16, "F16", 1, 2, DequantizeF16}},
      {kFormatBF16, {kFormatBF16, "BF16", 1, 2, DequantizeBf16}},
  };
  return formats;
}

}  // namespace

void RegisterWeightFormat(const WeightFormat& format) {
  LAPIDARY_CHECK(format.dequantize && format.block_size > 0 && format.block_bytes > 0,
                 "RegisterWeightFormat: needs a dequantize function and block sizes; got ",
                 format.name, " (", format.id, ") without");
  int64_t bytes = 0;
  for (const uint8_t* piece = format.pieces; piece && *piece != 0; ++piece) bytes += *piece;
  LAPIDARY_CHECK(!format.pieces || (bytes == format.block_bytes && bytes <= 1024),
                 "RegisterWeightFormat: pieces must add up to the block; got ", bytes, " for ",
                 format.name);
  Formats()[format.id] = format;
}

bool HasWeightFormat(int32_t id) { return Formats().count(id) != 0; }

const WeightFormat& GetWeightFormat(int32_t id) {
  const auto found = Formats().find(id);
  LAPIDARY_CHECK(found != Formats().end(), "weight format: must be registered; got id ", id,
                 "; try RegisterQuantFormats() of quant/panels.h");
  return found->second;
}

void DequantizeColumns(const WeightView& w, int64_t row, int64_t begin, int64_t end, float* out) {
  if (w.map) {
    MappedColumns(w, row, 1, begin, end, out, end - begin);
    return;
  }
  const WeightFormat& format = GetWeightFormat(w.format);
  if (w.layout == WeightLayout::kRows) {
    format.dequantize(static_cast<const char*>(w.data) + row * w.row_bytes, begin, end, out);
    return;
  }
  // A few blocks at a time, put together again.
  constexpr int64_t kBytes = 1024;
  char blocks[kBytes];
  const int64_t size = format.block_size, most = kBytes / format.block_bytes;
  const char* group = static_cast<const char*>(w.data) + row / 32 * 32 * w.row_bytes;
  for (int64_t at = begin; at < end; at += most * size) {
    const int64_t count = std::min(most, (end - at) / size);
    for (int64_t b = 0; b < count; ++b) {
      const char* piece = group + (at / size + b) * 32 * format.block_bytes;
      char* to = blocks + b * format.block_bytes;
      for (const uint8_t* bytes = format.pieces; *bytes != 0; ++bytes) {
        std::memcpy(to, piece + row % 32 * *bytes, *bytes);
        piece += 32 * *bytes;
        to += *bytes;
      }
    }
    format.dequantize(blocks, 0, count * size, out + (at - begin));
  }
}

void DequantizeRows(const WeightView& w, int64_t row, int64_t count, float* out) {
  LAPIDARY_CHECK(row >= 0 && count >= 0 && row <= w.rows - count,
                 "DequantizeRows: rows must lie in the matrix; got ", row, " + ", count, " of ",
                 w.rows);
  for (int64_t r = 0; r < count; ++r) {
    DequantizeColumns(w, row + r, 0, w.cols, out + r * w.cols);
  }
}

}  // namespace lapidary
