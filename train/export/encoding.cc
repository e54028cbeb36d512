#include "train/export/encoding.h"

#include <cstring>
#include <vector>

#include "autograd/base/float16.h"

namespace lapidary {

RowEncoding FormatEncoding(const Format& format, int64_t cols, const char* rule) {
  const ScaleRule& chosen = GetScaleRule(format, rule);
  return {format.name, FormatBytes(format, cols), &format, format.max_abs,
          [&chosen](const float* row, int64_t n, uint8_t* out) { chosen.quantize(row, n, out); }};
}

RowEncoding MlxCodes(const MlxAffine& mode, int64_t cols) {
  return {"U32", cols / 32 * mode.bits * 4, nullptr, FLT_MAX,
          [mode](const float* row, int64_t n, uint8_t* out) {
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
          }};
}

namespace {

RowEncoding MlxEnds(const MlxAffine& mode, int64_t cols, float MlxGroup::*part) {
  return {"BF16", cols / mode.group_size * 2, nullptr, FLT_MAX,
          [mode, part](const float* row, int64_t n, uint8_t* out) {
            std::vector<uint8_t> codes(static_cast<size_t>(mode.group_size));
            for (int64_t at = 0; at < n; at += mode.group_size, out += 2) {
              const uint16_t bits =
                  Bf16FromF32(MlxQuantizeGroup(mode, row + at, codes.data()).*part);
              std::memcpy(out, &bits, 2);
            }
          }};
}

}  // namespace

RowEncoding MlxScales(const MlxAffine& mode, int64_t cols) {
  return MlxEnds(mode, cols, &MlxGroup::scale);
}
RowEncoding MlxBiases(const MlxAffine& mode, int64_t cols) {
  return MlxEnds(mode, cols, &MlxGroup::bias);
}

}  // namespace lapidary
