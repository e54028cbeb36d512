#include "quant/units.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <algorithm>
#include <cstring>
#include <new>

#include "autograd/base/error.h"
#include "autograd/base/parallel.h"
#include "autograd/kernels/isa.h"

namespace lapidary {
namespace {

constexpr int64_t kUnitRows = 32;

bool FitsUnits(const WeightView& w) {
  const WeightFormat& f = GetWeightFormat(w.format);
  return f.pieces && w.layout == WeightLayout::kRows && w.rows % kUnitRows == 0 &&
         w.cols % f.block_size == 0 && w.row_bytes == w.cols / f.block_size * f.block_bytes;
}

}  // namespace

const uint8_t* UnitPieces(int32_t format) {
  static constexpr uint8_t kQ4_0[] = {2, 16, 0};
  // Lower nibbles, upper pairs, scales, the block's scale.
  static constexpr uint8_t kQ6_K[] = {16, 16, 16, 16, 16, 16, 16, 16, 16, 16, 16, 16, 16, 2, 0};
  switch (format) {
    case kFormatQ4_0:
      return kQ4_0;
    case kFormatQ6_K:
      return kQ6_K;
    default:
      return nullptr;
  }
}

bool WantsUnits(const WeightView& w) {
  const Isa isa = ActiveIsa();
  return (isa == Isa::kAvx512Bf16 || isa == Isa::kAmx) && FitsUnits(w);
}

void CopyToUnits(const WeightView& w, int64_t row, int64_t count, uint8_t* out) {
  LAPIDARY_CHECK(FitsUnits(w), "CopyToUnits: must be 32 n row-major rows of Q4_0 or Q6_K; got ",
                 w.rows, " rows of ", GetWeightFormat(w.format).name);
  LAPIDARY_CHECK(row >= 0 && count >= 0 && row <= w.rows - count && row % kUnitRows == 0 &&
                     count % kUnitRows == 0,
                 "CopyToUnits: rows must be a range of whole groups of 32; got ", row, " + ", count,
                 " of ", w.rows);
  const WeightFormat& f = GetWeightFormat(w.format);
  const int64_t blocks = w.cols / f.block_size;
  for (int64_t group = row; group < row + count; group += kUnitRows) {
    const uint8_t* const from = static_cast<const uint8_t*>(w.data) + group * w.row_bytes;
    uint8_t* const to = out + group * w.row_bytes;
    for (int64_t r = 0; r < kUnitRows; ++r) {
      const uint8_t* block = from + r * w.row_bytes;
      for (int64_t b = 0; b < blocks; ++b) {
        uint8_t* unit = to + b * kUnitRows * f.block_bytes;
        for (const uint8_t* size = f.pieces; *size != 0; ++size) {
          uint8_t* const at = unit + r * *size;
          if (*size == 16) {
            std::memcpy(at, block, 16);
          } else {
            std::memcpy(at, block, 2);  // the only other size
          }
          block += *size;
          unit += kUnitRows * *size;
        }
      }
    }
  }
}

WeightView UnitsView(const WeightView& w, const uint8_t* units) {
  LAPIDARY_CHECK(reinterpret_cast<uintptr_t>(units) % 64 == 0,
                 "UnitsView: must be aligned to 64 bytes; got offset ",
                 reinterpret_cast<uintptr_t>(units) % 64);
  WeightView view = w;
  view.data = units;
  view.layout = WeightLayout::kUnits;
  return view;
}

OwnedUnits MakeUnits(const WeightView& w,
                     const std::function<void(int64_t row, int64_t count)>& consumed) {
  LAPIDARY_CHECK(FitsUnits(w), "MakeUnits: must be 32 n row-major rows of Q4_0 or Q6_K; got ",
                 w.rows, " rows of ", GetWeightFormat(w.format).name);
  // Whole huge pages where they are worth it: fewer page faults now, fewer misses later.
  constexpr size_t kHuge = size_t{2} << 20;
  constexpr int64_t kChunkBytes = int64_t{4} << 20;
  const size_t bytes = static_cast<size_t>(w.rows * w.row_bytes);
  const std::align_val_t align{bytes >= kHuge ? kHuge : 64};
  const std::shared_ptr<uint8_t> owner(
      static_cast<uint8_t*>(::operator new(std::max<size_t>(bytes, 1), align)),
      [align](uint8_t* p) { ::operator delete(p, align); });
#if defined(__linux__)
  if (bytes >= kHuge) madvise(owner.get(), bytes, MADV_HUGEPAGE);  // a wish: failure is harmless
#endif
  const int64_t chunk =
      std::max<int64_t>(kChunkBytes / std::max<int64_t>(w.row_bytes, 1) / kUnitRows, 1) * kUnitRows;
  ParallelForDynamic((w.rows + chunk - 1) / chunk, [&](int64_t i, int) {
    const int64_t row = i * chunk, count = std::min(chunk, w.rows - row);
    CopyToUnits(w, row, count, owner.get());
    if (consumed) consumed(row, count);
  });
  return {UnitsView(w, owner.get()), owner};
}

}  // namespace lapidary
