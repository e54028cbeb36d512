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
#include "quant/panels.h"

namespace lapidary {
namespace {

constexpr int64_t kUnitRows = 32;

bool FitsUnits(const WeightView& w) {
  const WeightFormat& f = GetWeightFormat(w.format);
  return f.pieces && w.layout == WeightLayout::kRows && w.rows % kUnitRows == 0 &&
         w.cols % f.block_size == 0 && w.row_bytes == w.cols / f.block_size * f.block_bytes;
}

// The same piece of 32 rows, one after the other.
template <int64_t kSize>
void CopyPieces(const uint8_t* from, int64_t row_bytes, uint8_t* to) {
  for (int64_t r = 0; r < kUnitRows; ++r)
    std::memcpy(to + r * kSize, from + r * row_bytes, static_cast<size_t>(kSize));
}

}  // namespace

const uint8_t* UnitPieces(int32_t format) {
  // Eight codes of eight rows are one vector, four 6-bit scales of 16 rows another.
  static constexpr uint8_t kQ4_0[] = {2, 8, 8, 0};             // scale, nibbles
  static constexpr uint8_t kQ8_0[] = {2, 8, 8, 8, 8, 0};       // scale, codes
  static constexpr uint8_t kQ4_K[] = {2, 2, 4, 4, 4,           // scales of the block, 6-bit scales
                                      8, 8, 8, 8, 8, 8, 8, 8,  // nibbles
                                      8, 8, 8, 8, 8, 8, 8, 8, 0};
  static constexpr uint8_t kQ5_K[] = {
      2, 2, 4, 4, 4,  // the same with a fifth bit before the nibbles
      8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 0};
  static constexpr uint8_t kQ6_K[] = {8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8,  // nibbles
                                      8, 8, 8, 8, 8, 8, 8, 8,  // upper pairs
                                      8, 8, 2, 0};             // scales
  switch (format) {
    case kFormatQ4_0:
      return kQ4_0;
    case kFormatQ8_0:
      return kQ8_0;
    case kFormatQ4_K:
      return kQ4_K;
    case kFormatQ5_K:
      return kQ5_K;
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
  LAPIDARY_CHECK(FitsUnits(w),
                 "CopyToUnits: must be 32 n row-major rows of a format with units; got ", w.rows,
                 " rows of ", GetWeightFormat(w.format).name);
  LAPIDARY_CHECK(row >= 0 && count >= 0 && row <= w.rows - count && row % kUnitRows == 0 &&
                     count % kUnitRows == 0,
                 "CopyToUnits: rows must be a range of whole groups of 32; got ", row, " + ", count,
                 " of ", w.rows);
  const WeightFormat& f = GetWeightFormat(w.format);
  const int64_t blocks = w.cols / f.block_size, unit_bytes = kUnitRows * f.block_bytes;
  for (int64_t group = row; group < row + count; group += kUnitRows) {
    const uint8_t* const from = static_cast<const uint8_t*>(w.data) + group * w.row_bytes;
    uint8_t* unit = out + group * w.row_bytes;
    // The 32 rows are read in step, too many streams for the hardware to foresee: the group after
    // this one is asked for while this one is copied.
    const int64_t ahead = group + kUnitRows < row + count ? kUnitRows * w.row_bytes : 0;
    for (int64_t b = 0; b < blocks; ++b) {
      for (int64_t line = 0; line < unit_bytes; line += 64)
        __builtin_prefetch(from + ahead + b * unit_bytes + line);
      const uint8_t* block = from + b * f.block_bytes;
      for (const uint8_t* size = f.pieces; *size != 0; ++size) {
        switch (*size) {
          case 8:
            CopyPieces<8>(block, w.row_bytes, unit);
            break;
          case 4:
            CopyPieces<4>(block, w.row_bytes, unit);
            break;
          default:
            CopyPieces<2>(block, w.row_bytes, unit);
        }
        block += *size;
        unit += kUnitRows * *size;
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
  LAPIDARY_CHECK(FitsUnits(w),
                 "MakeUnits: must be 32 n row-major rows of a format with units; got ", w.rows,
                 " rows of ", GetWeightFormat(w.format).name);
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
