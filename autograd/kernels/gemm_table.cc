#include "autograd/kernels/gemm_table.h"

#include <algorithm>
#include <vector>

#include "autograd/kernels/gemm_isa.h"
#include "autograd/kernels/gemm_panels_isa.h"
#include "autograd/weight_map.h"

namespace lapidary {
namespace {

struct PanelRow {
  int32_t format;
  Isa isa;
  Compute compute;
  GemmSide side;
  WeightLayout layout;
  PanelFunction function;
};

// Dense weights.
std::vector<PanelRow> BuiltInRows() {
  std::vector<PanelRow> rows;
  [[maybe_unused]] const auto add = [&](Isa isa, Compute compute, const DensePanels& panels) {
    const auto add_format = [&](int32_t format, const PanelPair& pair) {
      if (!pair.forward) return;
      rows.push_back({format, isa, compute, GemmSide::kForward, WeightLayout::kRows, pair.forward});
      rows.push_back(
          {format, isa, compute, GemmSide::kInputGrad, WeightLayout::kRows, pair.input_grad});
    };
    add_format(kFormatBF16, panels.bf16);
    add_format(kFormatF32, panels.f32);
    add_format(kFormatF16, panels.f16);
  };
#if defined(__x86_64__)
  add(Isa::kAvx2, Compute::kFloat32, kDensePanelsAvx2);
  add(Isa::kAvx2, Compute::kBfloat16, kDensePanelsAvx2Round);
  for (Isa isa : {Isa::kAvx512, Isa::kAvx512Bf16, Isa::kAmx}) {
    add(isa, Compute::kFloat32, kDensePanelsAvx512);
  }
  add(Isa::kAvx512, Compute::kBfloat16, kDensePanelsAvx512Round);
  add(Isa::kAvx512Bf16, Compute::kBfloat16, kDensePanelsPairs);
  add(Isa::kAmx, Compute::kBfloat16, kDensePanelsTiles);
#elif defined(__aarch64__)
  add(Isa::kNeon, Compute::kFloat32, kDensePanelsNeon);
  add(Isa::kNeon, Compute::kBfloat16, kDensePanelsNeonRound);
#endif
  return rows;
}

struct FewRowsRow {
  int32_t format;
  Isa isa;
  Compute compute;
  WeightLayout layout;
  FewRowsFunction function;
};

std::vector<FewRowsRow>& FewRowsRows() {
  static std::vector<FewRowsRow> rows = {
#if defined(__x86_64__)
    {kFormatBF16, Isa::kAvx512Bf16, Compute::kBfloat16, WeightLayout::kRows, kFewRowsBf16Pairs},
#endif
  };
  return rows;
}

std::vector<PanelRow>& PanelRows() {
  static std::vector<PanelRow> rows = BuiltInRows();
  return rows;
}

}  // namespace

const GemmTable& GetGemmTable(Isa isa, Compute compute) {
  const bool bf16 = compute == Compute::kBfloat16;
  switch (isa) {
    case Isa::kScalar:
      return bf16 ? kGemmScalarBf16 : kGemmScalarF32;
#if defined(__x86_64__)
    case Isa::kAvx2:
      return bf16 ? kGemmAvx2Bf16 : kGemmAvx2F32;
    case Isa::kAvx512:
      return bf16 ? kGemmAvx512Bf16Fma : kGemmAvx512F32;
    case Isa::kAvx512Bf16:
      return bf16 ? kGemmAvx512Bf16 : kGemmAvx512F32;
    case Isa::kAmx:
      return bf16 ? kGemmAmxBf16 : kGemmAvx512F32;
#elif defined(__aarch64__)
    case Isa::kNeon:
      return bf16 ? kGemmNeonBf16 : kGemmNeonF32;
#endif
    default:
      break;
  }
  return bf16 ? kGemmScalarBf16 : kGemmScalarF32;
}

void RegisterPanelFunction(int32_t format, Isa isa, Compute compute, GemmSide side,
                           PanelFunction function, WeightLayout layout) {
  for (PanelRow& row : PanelRows()) {
    if (row.format == format && row.isa == isa && row.compute == compute && row.side == side &&
        row.layout == layout) {
      row.function = function;
      return;
    }
  }
  PanelRows().push_back({format, isa, compute, side, layout, function});
}

PanelFunction FindPanelFunction(int32_t format, Isa isa, Compute compute, GemmSide side,
                                WeightLayout layout) {
  for (const PanelRow& row : PanelRows()) {
    if (row.format == format && row.isa == isa && row.compute == compute && row.side == side &&
        row.layout == layout) {
      return row.function;
    }
  }
  return nullptr;
}

void RegisterFewRowsFunction(int32_t format, Isa isa, Compute compute, WeightLayout layout,
                             FewRowsFunction function) {
  for (FewRowsRow& row : FewRowsRows()) {
    if (row.format == format && row.isa == isa && row.compute == compute && row.layout == layout) {
      row.function = function;
      return;
    }
  }
  FewRowsRows().push_back({format, isa, compute, layout, function});
}

FewRowsFunction FindFewRowsFunction(int32_t format, Isa isa, Compute compute, WeightLayout layout) {
  for (const FewRowsRow& row : FewRowsRows()) {
    if (row.format == format && row.isa == isa && row.compute == compute && row.layout == layout)
      return row.function;
  }
  return nullptr;
}

namespace {

// The same for a weight with a map: tiles of rows, few enough to stay in the second cache, are
// dequantized, mapped and packed.
void PackMappedPanel(const GemmTable& table, GemmSide side, const PanelRequest& q) {
  const WeightView& w = *q.w;
  const int64_t block = TileBlock(w);
  const int64_t kp = (q.ks + table.k_unit - 1) / table.k_unit * table.k_unit;
  const auto tile_at = [&](int64_t out, int64_t k) {
    // Positions of a tile are its stored width apart.
    const int64_t width = table.layout == PanelLayout::kF32x16 || q.outs - out <= 16 ? 16 : 32;
    return static_cast<char*>(q.panel) +
           (PanelOffset(table.layout, out, kp) + k * width) * table.element_bytes;
  };
  thread_local std::vector<float> rows;
  if (side == GemmSide::kForward) {
    const int64_t begin = q.k / block * block;
    const int64_t end = std::min((q.k + q.ks + block - 1) / block * block, w.cols);
    const int64_t stride = end - begin;
    rows.resize(table.tile_cols * stride);
    for (int64_t out = 0; out < q.outs; out += table.tile_cols) {
      const int64_t cols = std::min(table.tile_cols, q.outs - out);
      MappedColumns(w, q.out + out, cols, begin, end, rows.data(), stride);
      table.pack_b_columns(rows.data() + (q.k - begin), stride, cols, q.ks, tile_at(out, 0));
    }
    return;
  }
  constexpr int64_t kRows = 32;  // a multiple of every table's k_unit
  const int64_t begin = q.out / block * block;
  const int64_t end = std::min((q.out + q.outs + block - 1) / block * block, w.cols);
  const int64_t stride = end - begin;
  rows.resize(kRows * stride);
  for (int64_t k = 0; k < q.ks; k += kRows) {
    const int64_t count = std::min(kRows, q.ks - k);
    MappedColumns(w, q.k + k, count, begin, end, rows.data(), stride);
    for (int64_t out = 0; out < q.outs; out += table.tile_cols) {
      table.pack_b_rows(rows.data() + (q.out - begin) + out, stride,
                        std::min(table.tile_cols, q.outs - out), count, tile_at(out, k));
    }
  }
}

}  // namespace

void PackPanelFromRows(const GemmTable& table, GemmSide side, const PanelRequest& q) {
  const WeightView& w = *q.w;
  if (w.map) {
    PackMappedPanel(table, side, q);
    return;
  }
  const WeightFormat& format = GetWeightFormat(w.format);
  const int64_t block = format.block_size;
  const int64_t kp = (q.ks + table.k_unit - 1) / table.k_unit * table.k_unit;
  const auto tile_at = [&](int64_t out) {
    return static_cast<char*>(q.panel) + PanelOffset(table.layout, out, kp) * table.element_bytes;
  };
  thread_local std::vector<float> rows;
  if (side == GemmSide::kForward) {
    const int64_t begin = q.k / block * block, end = (q.k + q.ks + block - 1) / block * block;
    for (int64_t out = 0; out < q.outs; out += table.tile_cols) {
      const int64_t cols = std::min(table.tile_cols, q.outs - out);
      if (w.format == kFormatF32) {
        const char* first = static_cast<const char*>(w.data) + (q.out + out) * w.row_bytes;
        table.pack_b_columns(reinterpret_cast<const float*>(first) + q.k, w.row_bytes / 4, cols,
                             q.ks, tile_at(out));
        continue;
      }
      rows.resize(cols * (end - begin));
      for (int64_t c = 0; c < cols; ++c) {
        DequantizeColumns(w, q.out + out + c, begin, end, rows.data() + c * (end - begin));
      }
      table.pack_b_columns(rows.data() + (q.k - begin), end - begin, cols, q.ks, tile_at(out));
    }
    return;
  }
  const int64_t begin = q.out / block * block, end = (q.out + q.outs + block - 1) / block * block;
  const float* from = nullptr;
  int64_t stride = 0;
  if (w.format == kFormatF32) {
    from = reinterpret_cast<const float*>(static_cast<const char*>(w.data) + q.k * w.row_bytes) +
           q.out;
    stride = w.row_bytes / 4;
  } else {
    stride = end - begin;
    rows.resize(q.ks * stride);
    for (int64_t k = 0; k < q.ks; ++k) {
      DequantizeColumns(w, q.k + k, begin, end, rows.data() + k * stride);
    }
    from = rows.data() + (q.out - begin);
  }
  for (int64_t out = 0; out < q.outs; out += table.tile_cols) {
    table.pack_b_rows(from + out, stride, std::min(table.tile_cols, q.outs - out), q.ks,
                      tile_at(out));
  }
}

}  // namespace lapidary
