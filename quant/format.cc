#include "quant/format.h"

#include <cctype>

#include "autograd/base/error.h"
#include "autograd/base/parallel.h"
#include "quant/formats/rows.h"

namespace lapidary {
namespace {

std::string Upper(std::string_view name) {
  std::string out(name);
  for (char& c : out) c = static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  return out;
}

// Rows a thread takes at least: below this many elements a second thread costs more than it brings.
int64_t Grain(int64_t cols) { return std::max<int64_t>(1, 16384 / std::max<int64_t>(1, cols)); }

}  // namespace

const std::vector<const Format*>& AllFormats() {
  static const std::vector<Format>* rows = new std::vector<Format>{
#define LAPIDARY_ROW(name) formats::name(),
      LAPIDARY_FORMAT_ROWS(LAPIDARY_ROW)
#undef LAPIDARY_ROW
  };
  static const std::vector<const Format*>* pointers = [] {
    auto* out = new std::vector<const Format*>;
    for (const Format& row : *rows) out->push_back(&row);
    return out;
  }();
  return *pointers;
}

const Format* FindFormat(std::string_view name) {
  const std::string upper = Upper(name);
  for (const Format* format : AllFormats()) {
    if (upper == format->name) return format;
  }
  return nullptr;
}

const Format* FindFormat(int32_t id) {
  for (const Format* format : AllFormats()) {
    if (id == format->id) return format;
  }
  return nullptr;
}

const Format& GetFormat(std::string_view name) {
  const Format* format = FindFormat(name);
  if (format) return *format;
  std::string names;
  for (const Format* row : AllFormats()) names += " " + UserName(*row);
  throw Error(StrCat("format: must be in the format table; got '", name, "'; try one of", names));
}

const ScaleRule& GetScaleRule(const Format& format, std::string_view name) {
  std::string names;
  for (const ScaleRule& rule : format.rules) {
    if (name == rule.name) return rule;
    names += StrCat(" ", rule.name);
  }
  throw Error(StrCat("format ", format.name, ": scale rule must exist; got '", name,
                     "'; try one of", names));
}

std::string UserName(const Format& format) {
  std::string out(format.name);
  for (char& c : out) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return out;
}

int64_t FormatBytes(const Format& format, int64_t n) {
  LAPIDARY_CHECK(n >= 0 && n % format.block_size == 0, "format ", format.name,
                 ": the number of elements must be a multiple of ", format.block_size, "; got ", n);
  int64_t bytes = 0;
  LAPIDARY_CHECK(!__builtin_mul_overflow(n / format.block_size, format.block_bytes, &bytes),
                 "format ", format.name, ": the size must fit 63 bits; got ", n, " elements");
  return bytes;
}

void QuantizeRows(const Format& format, const ScaleRule& rule, const float* values, int64_t rows,
                  int64_t cols, uint8_t* out) {
  const int64_t row_bytes = FormatBytes(format, cols);
  ParallelFor(
      rows,
      [&](Range r) {
        for (int64_t i = r.begin; i < r.end; ++i)
          rule.quantize(values + i * cols, cols, out + i * row_bytes);
      },
      Grain(cols));
}

void QuantizeRowsWeighted(const Format& format, const float* values, const float* importance,
                          int64_t rows, int64_t cols, uint8_t* out) {
  if (!format.quantize_weighted)
    return QuantizeRows(format, GetScaleRule(format), values, rows, cols, out);
  const int64_t row_bytes = FormatBytes(format, cols);
  ParallelFor(
      rows,
      [&](Range r) {
        for (int64_t i = r.begin; i < r.end; ++i)
          format.quantize_weighted(values + i * cols, importance, cols, out + i * row_bytes);
      },
      Grain(cols));
}

void DequantizeRows(const Format& format, const uint8_t* blocks, int64_t rows, int64_t cols,
                    float* out) {
  const int64_t row_bytes = FormatBytes(format, cols);
  ParallelFor(
      rows,
      [&](Range r) {
        for (int64_t i = r.begin; i < r.end; ++i)
          format.dequantize(blocks + i * row_bytes, cols, out + i * cols);
      },
      Grain(cols));
}

}  // namespace lapidary
