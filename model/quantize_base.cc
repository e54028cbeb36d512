#include "model/quantize_base.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <memory>

#include "autograd/base/error.h"
#include "autograd/base/parallel.h"
#include "model/quant_mix.h"
#include "quant/units.h"

namespace lapidary {
namespace {

constexpr int64_t kChunkBytes = int64_t{32} << 20;

// Anonymous pages: given back to the system when the last owner goes, and never zeroed twice.
std::shared_ptr<uint8_t> AnonymousPages(int64_t bytes, const std::string& name) {
  const auto size = static_cast<size_t>(bytes);
  void* at = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  LAPIDARY_CHECK(at != MAP_FAILED, "'", name,
                 "': memory for the quantized matrix must be had; got ", "none of ", bytes,
                 " bytes; try a smaller base_format");
  ::madvise(at, size, MADV_HUGEPAGE);
  return {static_cast<uint8_t*>(at), [size](uint8_t* p) { ::munmap(p, size); }};
}

// The largest magnitude; infinite if a value is not finite.
float MaxAbs(const float* values, int64_t n) {
  uint32_t largest = 0;  // as bits: ordered like magnitudes, NaN above infinity
  for (int64_t i = 0; i < n; ++i)
    largest = std::max(largest, std::bit_cast<uint32_t>(values[i]) & 0x7fffffffu);
  return std::bit_cast<float>(std::min(largest, 0x7f800000u));
}

}  // namespace

void CheckBaseFormat(const BaseFormat& base, const std::string& where) {
  if (!base.mix.empty()) FindQuantMix(base.mix, StrCat(where, ": 'base_format'"));
  if (base.embedding.empty()) return;
  const Format* format = FindFormat(base.embedding);
  std::string names;
  for (const Format* row : AllFormats()) names += " " + UserName(*row);
  LAPIDARY_CHECK(format, where, ": 'embedding_format' must be in the format table; got '",
                 base.embedding, "'; try one of", names);
}

const Format* BaseTensorFormat(const BaseFormat& base, const ModelConfig& config, bool untied,
                               const std::string& canonical, int64_t cols) {
  const bool head =
      canonical == "lm_head.weight" || canonical == "model.language_model.embed_tokens.weight";
  if (head && !base.embedding.empty()) return &FormatForRows(GetFormat(base.embedding), cols);
  if (base.mix.empty()) return nullptr;
  if (!head && canonical.rfind("model.language_model.layers.", 0) != 0) return nullptr;
  return &MixFormat(FindQuantMix(base.mix, "base_format"), config, untied, canonical, cols);
}

Weight QuantizeWeight(const std::string& name, const StoredTensor& tensor, const Format& format) {
  const int64_t rows = tensor.rows(), cols = tensor.cols(), row_bytes = FormatBytes(format, cols);
  int64_t bytes = 0;
  LAPIDARY_CHECK(!__builtin_mul_overflow(rows, row_bytes, &bytes) && bytes > 0, "'", name,
                 "': must hold values; got ", ShapeText(tensor.shape));
  const std::shared_ptr<uint8_t> out = AnonymousPages(bytes, name);
  const ScaleRule& rule = GetScaleRule(format);
  const int64_t stored_row = std::max<int64_t>(1, FormatBytes(*tensor.format, cols));
  const int64_t chunk = std::max<int64_t>(1, kChunkBytes / stored_row);
  std::vector<float> row_max(static_cast<size_t>(std::min(chunk, rows)));
  for (int64_t begin = 0; begin < rows; begin += chunk) {
    const int64_t count = std::min(chunk, rows - begin);
    ParallelFor(
        count,
        [&](Range r) {
          std::vector<float> values(static_cast<size_t>(cols));
          for (int64_t i = r.begin; i < r.end; ++i) {
            tensor.ReadRows(begin + i, 1, values.data());
            const float largest = MaxAbs(values.data(), cols);
            row_max[static_cast<size_t>(i)] = largest;
            if (largest <= format.max_abs)
              rule.quantize(values.data(), cols, out.get() + (begin + i) * row_bytes);
          }
        },
        std::max<int64_t>(1, 16384 / cols));
    for (int64_t i = 0; i < count; ++i) {
      const float largest = row_max[static_cast<size_t>(i)];
      LAPIDARY_CHECK(std::isfinite(largest), name, ": values must be finite; got ", largest,
                     " in row ", begin + i, "; try `lapidary inspect`");
      LAPIDARY_CHECK(largest <= format.max_abs, name, ": values must fit ", format.name, " (up to ",
                     format.max_abs, "); got ", largest, " in row ", begin + i,
                     "; try another base_format");
    }
    tensor.DropRows(begin, count);
  }
  Weight weight;
  weight.name = name;
  weight.view = {format.id, rows, cols, out.get(), row_bytes};
  weight.owner = out;
  return weight;
}

void LayOutInUnits(Weight* weight) {
  const WeightView from = weight->view;
  const auto page = static_cast<uintptr_t>(::sysconf(_SC_PAGESIZE));
  OwnedUnits units = MakeUnits(from, [&](int64_t row, int64_t count) {
    // Whole pages inside these rows; the few between two calls stay until the end.
    const auto begin =
        reinterpret_cast<uintptr_t>(from.data) + static_cast<uintptr_t>(row * from.row_bytes);
    const uintptr_t first = (begin + page - 1) / page * page;
    const uintptr_t last = (begin + static_cast<uintptr_t>(count * from.row_bytes)) / page * page;
    if (first < last) ::madvise(reinterpret_cast<void*>(first), last - first, MADV_DONTNEED);
  });
  weight->view = units.view;
  weight->owner = std::move(units.owner);
}

}  // namespace lapidary
