#include "autograd/kernels/gemm_driver.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <algorithm>
#include <memory>
#include <new>
#include <vector>

#include "autograd/base/dry_run.h"
#include "autograd/profile.h"
#include "autograd/weight_map.h"

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

// How the work of an output is cut: panels of whole tiles times groups of whole row blocks. None of
// it shows in the numbers.
struct Grid {
  int64_t tiles, panels, blocks, groups;
  int64_t width = 32;  // of a tile; of a mapped weight's blocks where they lie across panels
  int64_t step;        // inner positions packed at a time, a divisor of the chunk
};

// With few rows a panel is used once or twice: it should stay in L1, and the reads of the weight
// should still be long. Forward: at most 4 tiles of 128 positions or 1 of 256 (16 to 32 KB as
// bf16), as many as a kernel multiplies side by side.
constexpr int64_t kRowsThatAreFew = 16, kFewRowsStep = 32, kFewRowsCols = 512;
constexpr int64_t kFewRowsTiles = 4, kFewRowsForwardStep = 128;

// Straight from blocks: most tiles of an item.
constexpr int64_t kDirectTiles = 4;

// Blocks that a map replaces together should not be computed for two panels.
void AlignToMap(const GemmOutput& p, Grid* g) {
  const WeightView& w = p.terms[0].w;
  if (!w.map || p.side != GemmSide::kInputGrad || w.map->block <= g->width) return;
  g->width = w.map->block;
  g->tiles = CeilDiv(p.cols, g->width);
  g->panels = std::min(g->panels, g->tiles);
}

Grid MakeGrid(const GemmTable& table, const GemmOutput& p, bool direct) {
  const int64_t threads = Threads(), rows = p.terms[0].a.rows;
  Grid g;
  g.tiles = CeilDiv(p.cols, 32);
  g.blocks = CeilDiv(rows, table.block_rows);
  g.groups = 1;
  g.step = table.chunk;
  if (direct) {
    g.panels = CeilDiv(g.tiles, std::clamp<int64_t>(g.tiles / (8 * threads), 1, kDirectTiles));
    return g;
  }
  if (rows <= kRowsThatAreFew) {
    if (p.side == GemmSide::kForward) {
      const int64_t block = TileBlock(p.terms[0].w);
      const int64_t most = block > kFewRowsForwardStep ? 1 : kFewRowsTiles;
      g.panels = CeilDiv(g.tiles, std::clamp<int64_t>(g.tiles / (4 * threads), 1, most));
      g.step = CeilDiv(kFewRowsForwardStep, block) * block;
    } else {
      g.panels = std::max(CeilDiv(g.tiles, kFewRowsCols / 32), std::min(2 * threads, g.tiles / 2));
      g.panels = std::max<int64_t>(g.panels, 1);
      if (TileBlock(p.terms[0].w) <= 32) g.step = kFewRowsStep;
      AlignToMap(p, &g);
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
    g.groups = std::clamp<int64_t>(CeilDiv(4 * threads, g.panels), 1, CeilDiv(rows, 64));
    g.groups = std::min(g.groups, g.blocks);
  }
  AlignToMap(p, &g);
  return g;
}

// One output on its way.
struct Job {
  const GemmTable& table;
  const GemmOutput& p;
  Grid grid;
  PanelFunction pack_panel[2];
  FewRowsFunction few_rows;  // the first term, if not null

  // A's rows from `block` on, inner positions from k on.
  const char* Rows(int term, int64_t block, int64_t k) const {
    const PackedActivations& a = p.terms[term].a;
    const int64_t chunk = k / table.chunk;
    const int64_t block_bytes = table.block_rows * table.chunk * table.element_bytes;
    return a.data + (chunk * a.blocks + block) * block_bytes +
           (k - chunk * table.chunk) * table.element_bytes;
  }

  void PackPanel(int term, int64_t col, int64_t cols, int64_t k, int64_t ks, void* to) const {
    PanelRequest request;
    request.w = &p.terms[term].w;
    request.out = col;
    request.outs = cols;
    request.k = k;
    request.ks = ks;
    request.panel = to;
    if (pack_panel[term]) {
      pack_panel[term](request);
    } else {
      PackPanelFromRows(table, p.side, request);
    }
  }

  int64_t PanelBytes(int64_t cols, int64_t k) const {
    return PanelOffset(table.layout, CeilDiv(cols, 32) * 32, k) * table.element_bytes;
  }

  void Run(int64_t item) const;
};

void Job::Run(int64_t item) const {
  const int64_t panel = item / grid.groups, group = item % grid.groups;
  const int64_t rows = p.terms[0].a.rows;
  const int64_t col = grid.tiles * panel / grid.panels * grid.width;
  const int64_t cols = std::min(grid.tiles * (panel + 1) / grid.panels * grid.width, p.cols) - col;
  const int64_t block = grid.blocks * group / grid.groups;
  const int64_t row = block * table.block_rows;
  const int64_t row_end =
      std::min(grid.blocks * (group + 1) / grid.groups * table.block_rows, rows);
  if (cols <= 0 || row >= row_end) return;

  if (few_rows) {
    FewRowsCall direct;
    direct.w = &p.terms[0].w;
    direct.out = col;
    direct.outs = cols;
    direct.a = p.terms[0].a.data;
    direct.chunk_bytes = table.block_rows * table.chunk * table.element_bytes;
    direct.rows = rows;
    direct.c = p.c + col;
    direct.ldc = p.ldc;
    direct.load = p.add;
    few_rows(direct);
    if (p.term_count == 1) return;
  }
  // A narrow second term goes with the last chunk of the first, where the kernel can do that: its
  // sums are then not stored and loaded once more.
  const bool tail = !few_rows && p.term_count == 2 && table.tails && p.terms[1].a.k <= table.chunk;
  const int64_t own_terms = tail ? 1 : p.term_count;
  const int64_t tail_k = tail ? CeilDiv(p.terms[1].a.k, table.k_unit) * table.k_unit : 0;
  thread_local Scratch panel_scratch;
  const int64_t panel_bytes = CeilDiv(PanelBytes(cols, table.chunk), 64) * 64;
  char* const panel_at =
      static_cast<char*>(panel_scratch.Get(panel_bytes + (tail ? PanelBytes(cols, tail_k) : 0)));

  GemmCall call;
  call.rows = row_end - row;
  call.cols = cols;
  call.c = p.c + row * p.ldc + col;
  call.ldc = p.ldc;
  call.load = p.add || few_rows;
  if (table.partials && (own_terms > 1 || p.terms[0].a.k > grid.step)) {
    thread_local Scratch partials_scratch;
    const int64_t row_count = CeilDiv(call.rows, table.block_rows) * table.block_rows;
    call.partials =
        static_cast<float*>(partials_scratch.Get(row_count * CeilDiv(cols, 32) * 32 * 4));
  }
  for (int64_t term = few_rows ? 1 : 0; term < own_terms; ++term) {
    const int64_t k_end = p.terms[term].a.k;
    for (int64_t k = 0; k < k_end; k += grid.step) {
      call.k = std::min(grid.step, k_end - k);
      call.last = term + 1 == own_terms && k + call.k == k_end;
      PackPanel(term, col, cols, k, call.k, panel_at);
      call.a = Rows(term, block, k);
      call.b = panel_at;
      if (tail && call.last) {
        call.k_tail = p.terms[1].a.k;
        call.a_tail = Rows(1, block, 0);
        call.b_tail = panel_at + panel_bytes;
        PackPanel(1, col, cols, 0, call.k_tail, panel_at + panel_bytes);
      }
      table.multiply(call);
      call.load = true;
      call.first = false;
    }
  }
}

}  // namespace

int64_t PackedBytes(const GemmTable& table, int64_t rows, int64_t k) {
  return CeilDiv(k, table.chunk) * CeilDiv(rows, table.block_rows) * table.block_rows *
         table.chunk * table.element_bytes;
}

PackedActivations Pack(const GemmTable& table, const Activations& a, void* to) {
  const ProfileScope scope("gemm pack");
  PackedActivations packed;
  packed.data = static_cast<const char*>(to);
  packed.rows = a.rows;
  packed.k = a.k;
  packed.blocks = CeilDiv(a.rows, table.block_rows);
  const int64_t chunks = CeilDiv(a.k, table.chunk);
  const int64_t block_bytes = table.block_rows * table.chunk * table.element_bytes;
  const auto pack = [&](Range range) {
    for (int64_t block = range.begin; block < range.end; ++block) {
      const int64_t row = block * table.block_rows, rows = std::min(table.block_rows, a.rows - row);
      for (int64_t chunk = 0; chunk < chunks; ++chunk) {
        const int64_t k = chunk * table.chunk;
        table.pack_a(a.data + row * a.row_stride + k * a.k_stride, a.row_stride, a.k_stride, rows,
                     std::min(table.chunk, a.k - k),
                     static_cast<char*>(to) + (chunk * packed.blocks + block) * block_bytes);
      }
    }
  };
  if (DryRun()) return packed;
  if (a.rows * a.k < kSerialWork / 16) {
    pack({0, packed.blocks});
  } else {
    ParallelFor(packed.blocks, pack);
  }
  return packed;
}

void MultiplyPacked(Isa isa, Compute compute, std::span<const GemmOutput> outputs) {
  const ProfileScope scope("gemm");
  if (DryRun()) return;
  const GemmTable& table = GetGemmTable(isa, compute);
  std::vector<Job> jobs;
  std::vector<int64_t> starts = {0};
  int64_t work = 0;
  for (const GemmOutput& p : outputs) {
    if (p.cols == 0 || p.terms[0].a.rows == 0) continue;
    const WeightView& first = p.terms[0].w;
    const FewRowsFunction few_rows =
        p.side == GemmSide::kForward && !first.map &&
                p.terms[0].a.rows <= std::min(kMostFewRows, table.block_rows) &&
                first.rows % 16 == 0 && first.cols % 32 == 0
            ? FindFewRowsFunction(first.format, isa, compute, first.layout)
            : nullptr;
    Job job = {table, p, MakeGrid(table, p, few_rows != nullptr), {}, few_rows};
    for (int term = 0; term < p.term_count; ++term) {
      const WeightView& w = p.terms[term].w;
      // A mapped weight goes through rows.
      job.pack_panel[term] =
          w.map ? nullptr : FindPanelFunction(w.format, isa, compute, p.side, w.layout);
      work += p.terms[term].a.rows * p.terms[term].a.k * p.cols;
    }
    starts.push_back(starts.back() + job.grid.panels * job.grid.groups);
    jobs.push_back(job);
  }
  const auto run = [&](int64_t item) {
    const size_t job = std::upper_bound(starts.begin(), starts.end(), item) - starts.begin() - 1;
    jobs[job].Run(item - starts[job]);
  };
  if (work < kSerialWork) {
    for (int64_t item = 0; item < starts.back(); ++item) run(item);
  } else if (!jobs.empty() && jobs[0].few_rows) {
    ParallelForRuns(starts.back(), run);  // bound by memory: the kernels ask for the next rows
  } else {
    ParallelForDynamic(starts.back(), [&](int64_t item, int) { run(item); });
  }
}

void ForPasses(const GemmTable& table, int64_t n, int64_t row_bytes,
               const std::function<void(Range)>& body) {
  const int64_t pass_blocks = std::max<int64_t>(kPackedBytes / (row_bytes * table.block_rows), 8);
  const int64_t blocks = CeilDiv(n, table.block_rows), passes = CeilDiv(blocks, pass_blocks);
  for (int64_t i = 0; i < passes; ++i) {
    body({blocks * i / passes * table.block_rows,
          std::min(blocks * (i + 1) / passes * table.block_rows, n)});
  }
}

char* PackingBuffer(int64_t bytes) {
  if (DryRunCounts* dry = DryRunSlot()) {
    dry->scratch_bytes = std::max(dry->scratch_bytes, bytes);
    return nullptr;
  }
  // One for each calling thread: a nested call is serial and packs its own.
  thread_local Scratch packed;
  return static_cast<char*>(packed.Get(bytes));
}

}  // namespace lapidary
