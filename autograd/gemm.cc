#include "autograd/gemm.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <new>
#include <vector>

#include "autograd/base/error.h"
#include "autograd/base/parallel.h"
#include "autograd/kernels/gemm_table.h"

namespace lapidary {
namespace {

// Packed activations are kept below this; more rows go in several passes over the weight.
constexpr int64_t kPackedBytes = int64_t{64} << 20;
// Most columns of a panel: 512 columns x a chunk are half a megabyte, which leaves room for
// activations in a 1 MB L2.
constexpr int64_t kPanelCols = 512;
// Below this many multiplications waking other threads costs more than it gives.
constexpr int64_t kSerialWork = 1 << 17;

// Grows, never shrinks. Large buffers ask for huge pages: a block of packed activations is then in
// one or two of them.
class Scratch {
 public:
  void* Get(int64_t bytes) {
    if (bytes > size_) {
      const size_t align = bytes >= kHuge ? kHuge : 4096;
      data_.reset();
      data_ = {static_cast<char*>(::operator new (bytes, std::align_val_t{align})), Free{align}};
      size_ = bytes;
#if defined(__linux__)
      if (bytes >= kHuge)
        madvise(data_.get(), bytes, MADV_HUGEPAGE);  // a wish: failure is harmless
#endif
    }
    return data_.get();
  }

 private:
  static constexpr int64_t kHuge = int64_t{2} << 20;
  struct Free {
    size_t align;
    void operator()(char* p) const { ::operator delete (p, std::align_val_t{align}); }
  };
  std::unique_ptr<char, Free> data_{nullptr, Free{4096}};
  int64_t size_ = 0;
};

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

// C[rows, cols] (+)= A B. A's element (r, k) is a[r * row_stride + k * k_stride].
struct Product {
  const float* a = nullptr;
  int64_t row_stride = 0, k_stride = 0;
  int64_t rows = 0, k = 0, cols = 0;
  const WeightView* w = nullptr;
  GemmSide side = GemmSide::kForward;
  float* c = nullptr;
  bool add = false;
};

// How the work is cut: panels of whole tiles times groups of whole row blocks. None of it shows in
// the numbers.
struct Grid {
  int64_t tiles, panels, blocks, groups;
  int64_t step;  // inner positions packed at a time, a divisor of the chunk
};

// With few rows a panel is used once or twice: it should stay in L1, and the reads of the weight
// should still be long.
constexpr int64_t kFewRows = 16, kFewRowsStep = 32, kFewRowsCols = 512;

Grid MakeGrid(const GemmTable& table, const Product& p, int64_t block_size) {
  const int64_t threads = Threads();
  Grid g;
  g.tiles = CeilDiv(p.cols, 32);
  g.blocks = CeilDiv(p.rows, table.block_rows);
  g.groups = 1;
  g.step = table.chunk;
  if (p.rows <= kFewRows) {
    if (p.side == GemmSide::kForward) {
      g.panels = g.tiles;
    } else {
      g.panels = std::max(CeilDiv(g.tiles, kFewRowsCols / 32), std::min(2 * threads, g.tiles / 2));
      g.panels = std::max<int64_t>(g.panels, 1);
      if (block_size <= 32) g.step = kFewRowsStep;
    }
    return g;
  }
  // Enough panels to balance, yet at least 4 tiles in each.
  g.panels = std::max(CeilDiv(g.tiles, kPanelCols / 32), std::min(4 * threads, g.tiles / 4));
  g.panels = std::max<int64_t>(g.panels, 1);
  if (g.panels > threads && CeilDiv(g.panels, threads) * threads <= g.tiles) {
    g.panels = CeilDiv(g.panels, threads) * threads;
  }
  if (threads > 1 && g.panels < 2 * threads) {
    g.groups = std::clamp<int64_t>(CeilDiv(4 * threads, g.panels), 1, CeilDiv(p.rows, 64));
    g.groups = std::min(g.groups, g.blocks);
  }
  return g;
}

void RunPass(const GemmTable& table, PanelFunction pack_panel, const Product& p, Scratch& packed) {
  const Grid g = MakeGrid(table, p, GetWeightFormat(p.w->format).block_size);
  const int64_t chunks = CeilDiv(p.k, table.chunk);
  const int64_t block_bytes = table.block_rows * table.chunk * table.element_bytes;
  char* const a = static_cast<char*>(packed.Get(chunks * g.blocks * block_bytes));
  const bool serial = p.rows * p.k * p.cols < kSerialWork;

  const auto pack_a = [&](Range range) {
    for (int64_t block = range.begin; block < range.end; ++block) {
      const int64_t row = block * table.block_rows, rows = std::min(table.block_rows, p.rows - row);
      for (int64_t chunk = 0; chunk < chunks; ++chunk) {
        const int64_t k = chunk * table.chunk;
        table.pack_a(p.a + row * p.row_stride + k * p.k_stride, p.row_stride, p.k_stride, rows,
                     std::min(table.chunk, p.k - k), a + (chunk * g.blocks + block) * block_bytes);
      }
    }
  };
  const auto multiply = [&](int64_t item, int) {
    thread_local Scratch panel_scratch;
    const int64_t panel = item / g.groups, group = item % g.groups;
    const int64_t col = g.tiles * panel / g.panels * 32;
    const int64_t col_end = std::min(g.tiles * (panel + 1) / g.panels * 32, p.cols);
    const int64_t block = g.blocks * group / g.groups;
    const int64_t row = block * table.block_rows;
    const int64_t row_end = std::min(g.blocks * (group + 1) / g.groups * table.block_rows, p.rows);
    if (col >= col_end || row >= row_end) return;
    PanelRequest request;
    request.w = p.w;
    request.out = col;
    request.outs = col_end - col;
    request.panel =
        panel_scratch.Get(PanelOffset(table.layout, CeilDiv(col_end - col, 32) * 32, table.chunk) *
                          table.element_bytes);
    float* partials = nullptr;
    if (table.partials && p.k > g.step) {
      thread_local Scratch partials_scratch;
      const int64_t row_count = CeilDiv(row_end - row, table.block_rows) * table.block_rows;
      const int64_t count = row_count * CeilDiv(col_end - col, 32) * 32;
      partials = static_cast<float*>(partials_scratch.Get(count * 4));
    }
    for (request.k = 0; request.k < p.k; request.k += g.step) {
      request.ks = std::min(g.step, p.k - request.k);
      if (pack_panel) {
        pack_panel(request);
      } else {
        PackPanelFromRows(table, p.side, request);
      }
      const int64_t chunk = request.k / table.chunk;
      GemmCall call;
      call.a = a + (chunk * g.blocks + block) * block_bytes +
               (request.k - chunk * table.chunk) * table.element_bytes;
      call.rows = row_end - row;
      call.b = request.panel;
      call.cols = request.outs;
      call.k = request.ks;
      call.c = p.c + row * p.cols + col;
      call.ldc = p.cols;
      call.load = p.add || request.k > 0;
      call.partials = partials;
      call.first = request.k == 0;
      call.last = request.k + request.ks == p.k;
      table.multiply(call);
    }
  };

  if (serial) {
    pack_a({0, g.blocks});
    for (int64_t i = 0; i < g.panels * g.groups; ++i) multiply(i, 0);
  } else {
    ParallelFor(g.blocks, pack_a);
    ParallelForDynamic(g.panels * g.groups, multiply);
  }
}

void Run(Product p, Compute compute) {
  if (p.rows == 0 || p.cols == 0) return;
  if (p.k == 0) {
    if (!p.add) std::fill_n(p.c, p.rows * p.cols, 0.0f);
    return;
  }
  const Isa isa = ActiveIsa();
  const GemmTable& table = GetGemmTable(isa, compute);
  const PanelFunction pack_panel = FindPanelFunction(p.w->format, isa, compute, p.side);
  // One buffer for each calling thread: a nested call is serial and packs its own.
  thread_local Scratch packed;
  const int64_t row_bytes = CeilDiv(p.k, table.chunk) * table.chunk * table.element_bytes;
  const int64_t pass_blocks = std::max<int64_t>(kPackedBytes / (row_bytes * table.block_rows), 8);
  const int64_t pass_rows = pass_blocks * table.block_rows;
  // Equal passes.
  const int64_t passes = CeilDiv(p.rows, pass_rows), blocks = CeilDiv(p.rows, table.block_rows);
  for (int64_t i = 0; i < passes; ++i) {
    const int64_t begin = blocks * i / passes * table.block_rows;
    const int64_t end = std::min(blocks * (i + 1) / passes * table.block_rows, p.rows);
    Product part = p;
    part.a += begin * p.row_stride;
    part.c += begin * p.cols;
    part.rows = end - begin;
    RunPass(table, pack_panel, part, packed);
  }
}

void CheckWeight(const char* where, const WeightView& w, int64_t n) {
  const WeightFormat& format = GetWeightFormat(w.format);
  LAPIDARY_CHECK(n >= 0 && w.rows >= 0 && w.cols >= 0, where,
                 ": sizes must not be negative; got n ", n, ", weight [", w.rows, ", ", w.cols,
                 "]");
  LAPIDARY_CHECK(w.cols % format.block_size == 0, where,
                 ": columns must be a multiple of the block size of ", format.name, " (",
                 format.block_size, "); got ", w.cols);
  LAPIDARY_CHECK(w.row_bytes >= w.cols / format.block_size * format.block_bytes, where,
                 ": row_bytes must hold a row; got ", w.row_bytes, " for ", w.cols, " columns of ",
                 format.name);
}

}  // namespace

const char* ComputeName(Compute compute) {
  return compute == Compute::kFloat32 ? "float32" : "bfloat16";
}

void GemmForward(const float* x, int64_t n, const WeightView& w, float* y, bool add,
                 Compute compute) {
  CheckWeight("GemmForward", w, n);
  Product p;
  p.a = x;
  p.row_stride = w.cols;
  p.k_stride = 1;
  p.rows = n;
  p.k = w.cols;
  p.cols = w.rows;
  p.w = &w;
  p.side = GemmSide::kForward;
  p.c = y;
  p.add = add;
  Run(p, compute);
}

void GemmInputGrad(const float* dy, int64_t n, const WeightView& w, float* dx, bool add,
                   Compute compute) {
  CheckWeight("GemmInputGrad", w, n);
  Product p;
  p.a = dy;
  p.row_stride = w.rows;
  p.k_stride = 1;
  p.rows = n;
  p.k = w.rows;
  p.cols = w.cols;
  p.w = &w;
  p.side = GemmSide::kInputGrad;
  p.c = dx;
  p.add = add;
  Run(p, compute);
}

namespace {

// dw as A^T B with A [n, o] and B [n, i]: B plays the weight of an input gradient, whose inner
// dimension is its rows, the tokens.
void TokenSum(const float* a, const float* b, int64_t n, int64_t o, int64_t i, float* dw, bool add,
              Compute compute) {
  const WeightView view = F32View(b, n, i);
  Product p;
  p.a = a;
  p.row_stride = 1;
  p.k_stride = o;
  p.rows = o;
  p.k = n;
  p.cols = i;
  p.w = &view;
  p.side = GemmSide::kInputGrad;
  p.c = dw;
  p.add = add;
  Run(p, compute);
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
