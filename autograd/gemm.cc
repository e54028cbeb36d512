#include "autograd/gemm.h"

#include <algorithm>
#include <vector>

#include "autograd/base/dry_run.h"
#include "autograd/base/error.h"
#include "autograd/kernels/gemm_driver.h"
#include "autograd/weight_map.h"

namespace lapidary {
namespace {

// C[rows, cols] (+)= A B, A packed in passes.
struct Product {
  Activations a;
  WeightView w;
  GemmSide side = GemmSide::kForward;
  float* c = nullptr;
  int64_t cols = 0;
  bool add = false;
};

void Run(const Product& p, Compute compute) {
  const int64_t rows = p.a.rows;
  if (rows == 0 || p.cols == 0) return;
  if (p.a.k == 0) {
    if (!p.add && !DryRun()) std::fill_n(p.c, rows * p.cols, 0.0f);
    return;
  }
  const Isa isa = ActiveIsa();
  const GemmTable& table = GetGemmTable(isa, compute);
  ForPasses(table, rows, PackedBytes(table, table.block_rows, p.a.k) / table.block_rows,
            [&](Range range) {
              Activations a = p.a;
              a.data += range.begin * a.row_stride;
              a.rows = range.end - range.begin;
              GemmOutput out;
              out.c = p.c + range.begin * p.cols;
              out.ldc = out.cols = p.cols;
              out.add = p.add;
              out.side = p.side;
              out.terms[0].w = p.w;
              out.terms[0].a = Pack(table, a, PackingBuffer(PackedBytes(table, a.rows, a.k)));
              MultiplyPacked(isa, compute, {&out, 1});
            });
}

}  // namespace

void CheckWeight(const char* where, const WeightView& w, int64_t n) {
  const WeightFormat& format = GetWeightFormat(w.format);
  LAPIDARY_CHECK(n >= 0 && w.rows >= 0 && w.cols >= 0, where,
                 ": sizes must not be negative; got n ", n, ", weight [", w.rows, ", ", w.cols,
                 "]");
  LAPIDARY_CHECK(w.cols % format.block_size == 0, where,
                 ": columns must be a multiple of the block size of ", format.name, " (",
                 format.block_size, "); got ", w.cols);
  LAPIDARY_CHECK(w.layout == WeightLayout::kRows || (format.pieces && w.rows % 32 == 0), where,
                 ": units are for 32 n rows of a format with pieces; got ", w.rows, " rows of ",
                 format.name);
  LAPIDARY_CHECK(!w.map || (w.map->block >= 1 && w.map->block <= 256 && 256 % w.map->block == 0 &&
                            w.cols % w.map->block == 0),
                 where, ": the block of a map must divide 256 and the columns; got ",
                 w.map ? w.map->block : 0, " of ", w.cols);
  LAPIDARY_CHECK(w.row_bytes >= w.cols / format.block_size * format.block_bytes, where,
                 ": row_bytes must hold a row; got ", w.row_bytes, " for ", w.cols, " columns of ",
                 format.name);
}

const char* ComputeName(Compute compute) {
  return compute == Compute::kFloat32 ? "float32" : "bfloat16";
}

void GemmForward(const float* x, int64_t n, const WeightView& w, float* y, bool add,
                 Compute compute) {
  CheckWeight("GemmForward", w, n);
  Run({{x, w.cols, 1, n, w.cols}, w, GemmSide::kForward, y, w.rows, add}, compute);
}

void GemmInputGrad(const float* dy, int64_t n, const WeightView& w, float* dx, bool add,
                   Compute compute) {
  CheckWeight("GemmInputGrad", w, n);
  Run({{dy, w.rows, 1, n, w.rows}, w, GemmSide::kInputGrad, dx, w.cols, add}, compute);
}

namespace {

// dw as A^T B with A [n, o] and B [n, i]: B plays the weight of an input gradient, whose inner
// dimension is its rows, the tokens.
void TokenSum(const float* a, const float* b, int64_t n, int64_t o, int64_t i, float* dw, bool add,
              Compute compute) {
  Run({{a, 1, o, o, n}, F32View(b, n, i), GemmSide::kInputGrad, dw, i, add}, compute);
}

}  // namespace

void GemmWeightGrad(const float* dy, const float* x, int64_t n, int64_t o, int64_t i, float* dw,
                    bool add, Compute compute) {
  CheckWeight("GemmWeightGrad", F32View(x, n, i), o);
  // The narrow side (the rank of LoRA) is the cheap one to transpose, so it should be A: then dw is
  // computed transposed. Products commute and the tokens keep their order, so the bits are the
  // same.
  constexpr int64_t kNarrow = 64;
  if (i > kNarrow || o <= i) {
    TokenSum(dy, x, n, o, i, dw, add, compute);
    return;
  }
  if (DryRun()) return;
  thread_local std::vector<float> transposed;
  transposed.resize(o * i);
  const auto transpose = [](const float* from, int64_t rows, int64_t cols, float* to) {
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t c = 0; c < cols; ++c) to[c * rows + r] = from[r * cols + c];
    }
  };
  if (add) transpose(dw, o, i, transposed.data());
  TokenSum(x, dy, n, i, o, transposed.data(), add, compute);
  transpose(transposed.data(), i, o, dw);
}

}  // namespace lapidary
