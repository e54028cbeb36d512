// Blockwise attention: every step is a small matrix product of up to 64 rows whose operands lie in
// the first two cache levels. Included once per instruction set by kernels.cc.
//
// What makes results independent of how rows are grouped and who computes them: an element of a
// product is one chain of fused multiply-adds in the order of the inner index, continued through
// memory; the running maximum and sum of a row see the same key blocks in the same order; and a key
// that a row does not see adds a product with an exact 0.
HWY_BEFORE_NAMESPACE();
namespace lapidary::HWY_NAMESPACE {

// --- c[rows, cols] += a[rows, k] b[k, cols] ------------------------------------------------------

struct Left {  // element (i, k) is data[i * row + k * inner]
  const float* data;
  int64_t row, inner;
};

// kRows x kVecs accumulators: 6 x 4 fill the 32 registers of AVX-512 and NEON, 6 x 2 the 16 of
// AVX2.
constexpr int64_t kTileRows = 6;
constexpr int64_t kTileVecs = kLanes == 8 ? 2 : 4;

template <int kRows, int kVecs>
HWY_INLINE void Tile(const Left& a, const float* HWY_RESTRICT b, int64_t ldb, int64_t inner,
                     float* HWY_RESTRICT c, int64_t ldc) {
  Vec acc[kRows][kVecs];
  for (int i = 0; i < kRows; ++i) {
    for (int j = 0; j < kVecs; ++j) acc[i][j] = hn::LoadU(Tag(), c + i * ldc + j * kLanes);
  }
  const float* left = a.data;
  for (int64_t k = 0; k < inner; ++k, left += a.inner, b += ldb) {
    Vec right[kVecs];
    for (int j = 0; j < kVecs; ++j) right[j] = hn::LoadU(Tag(), b + j * kLanes);
    for (int i = 0; i < kRows; ++i) {
      const Vec x = Const(left[i * a.row]);
      for (int j = 0; j < kVecs; ++j) acc[i][j] = hn::MulAdd(x, right[j], acc[i][j]);
    }
  }
  for (int i = 0; i < kRows; ++i) {
    for (int j = 0; j < kVecs; ++j) hn::StoreU(acc[i][j], Tag(), c + i * ldc + j * kLanes);
  }
}

template <int kVecs>
HWY_NOINLINE void TileColumn(int64_t rows, Left a, const float* b, int64_t ldb, int64_t inner,
                             float* c, int64_t ldc) {
  for (; rows >= kTileRows; rows -= kTileRows) {
    Tile<kTileRows, kVecs>(a, b, ldb, inner, c, ldc);
    a.data += kTileRows * a.row;
    c += kTileRows * ldc;
  }
  switch (rows) {
    case 5:
      return Tile<5, kVecs>(a, b, ldb, inner, c, ldc);
    case 4:
      return Tile<4, kVecs>(a, b, ldb, inner, c, ldc);
    case 3:
      return Tile<3, kVecs>(a, b, ldb, inner, c, ldc);
    case 2:
      return Tile<2, kVecs>(a, b, ldb, inner, c, ldc);
    case 1:
      return Tile<1, kVecs>(a, b, ldb, inner, c, ldc);
    default:
      return;
  }
}

// cols is a multiple of 16.
void Product(int64_t rows, int64_t cols, int64_t inner, const Left& a, const float* b, int64_t ldb,
             float* c, int64_t ldc) {
  int64_t j = 0;
  for (; j + kTileVecs * kLanes <= cols; j += kTileVecs * kLanes) {
    TileColumn<kTileVecs>(rows, a, b + j, ldb, inner, c + j, ldc);
  }
  for (; j < cols; j += kLanes) TileColumn<1>(rows, a, b + j, ldb, inner, c + j, ldc);
}

// --- Matrices in panels --------------------------------------------------------------------------

// body(offset of the panel, its first column, its width) for every panel.
template <class Body>
HWY_INLINE void ForPanels(int64_t padded, const Body& body) {
  for (int64_t column = 0; column < padded; column += kAttentionPanel) {
    body(column * kAttentionRows, column, std::min(kAttentionPanel, padded - column));
  }
}

// Row `row` of a matrix in panels <- x[width].
HWY_INLINE void SetRow(const float* x, int64_t width, int64_t padded, int64_t row, float* panels) {
  ForPanels(padded, [&](int64_t at, int64_t column, int64_t panel) LAPIDARY_INLINE {
    float* to = panels + at + row * panel;
    const int64_t used = std::min(panel, width - column);
    std::fill(std::copy_n(x + column, used, to), to + panel, 0.0f);
  });
}

// x[width] <- row `row` of a matrix in panels.
HWY_INLINE void GetRow(const float* panels, int64_t padded, int64_t row, int64_t width, float* x) {
  ForPanels(padded, [&](int64_t at, int64_t column, int64_t panel) LAPIDARY_INLINE {
    std::copy_n(panels + at + row * panel, std::min(panel, width - column), x + column);
  });
}

// s[rows, 64] = x y^T: x in panels, y transposed.
void Scores(const AttentionArgs& a, int64_t rows, const float* x, const float* y, float* s) {
  std::fill_n(s, rows * kAttentionKeys, 0.0f);
  ForPanels(PaddedWidth(a), [&](int64_t at, int64_t column, int64_t panel) LAPIDARY_INLINE {
    Product(rows, kAttentionKeys, std::min(panel, a.width - column), {x + at, panel, 1}, y + at,
            kAttentionKeys, s, kAttentionKeys);
  });
}

// out += p y over inner indices [begin, end): y and out in panels.
void Combine(const AttentionArgs& a, int64_t rows, Left p, int64_t begin, int64_t end,
             const float* y, float* out) {
  p.data += begin * p.inner;
  ForPanels(PaddedWidth(a), [&](int64_t at, int64_t, int64_t panel) LAPIDARY_INLINE {
    Product(rows, panel, end - begin, p, y + at + begin * panel, panel, out + at, panel);
  });
}

// --- Rows and keys -------------------------------------------------------------------------------

// The copies of a key block that AttentionPack made.
struct KeyPanels {
  const float *keys_t, *values, *values_t, *keys;
};
HWY_INLINE KeyPanels PanelsOf(const AttentionArgs& a, int64_t group, int64_t block) {
  const int64_t size = PanelFloats(a);
  const float* p = a.blocks[block] + (group - a.group) * BlockFloats(a);
  return {p, p + size, p + 2 * size, p + 3 * size};
}

// Index of (query, head) of row r of a group.
HWY_INLINE int64_t RowIndex(const AttentionArgs& a, int64_t group, int64_t row) {
  const int64_t share = a.heads / a.groups;
  return row / share * a.heads + group * share + row % share;
}

// The keys of a block that a query sees, counted from the block.
HWY_INLINE Range SeenKeys(const AttentionArgs& a, int64_t query, const AttentionKeyBlock& block) {
  return {std::clamp<int64_t>(a.lo[query] - block.key, 0, kAttentionKeys),
          std::clamp<int64_t>(a.hi[query] - block.key, 0, kAttentionKeys)};
}

// body(i, lanes that are in `seen`) over the vectors of a row of 64.
template <class Body>
HWY_INLINE void ForKeys(Range seen, const Body& body) {
  const IntTag di;
  const auto begin = hn::Set(di, static_cast<int32_t>(seen.begin));
  const auto end = hn::Set(di, static_cast<int32_t>(seen.end));
  for (int64_t i = 0; i < kAttentionKeys; i += kLanes) {
    const auto index = hn::Iota(di, static_cast<int32_t>(i));
    const auto mask = hn::And(hn::Not(hn::Lt(index, begin)), hn::Lt(index, end));
    body(i, hn::RebindMask(Tag(), mask));
  }
}

void AttentionPack(const AttentionArgs& a, Range units) noexcept {
  const int64_t padded = PaddedWidth(a), size = PanelFloats(a);
  for (int64_t unit = units.begin; unit < units.end; ++unit) {
    const int64_t group = unit / a.key_block_count, index = unit % a.key_block_count;
    const AttentionKeyBlock& block = a.key_blocks[index];
    float* out = a.blocks[index] + group * BlockFloats(a);
    if (block.filled == 0) std::fill_n(out, BlockFloats(a), 0.0f);
    for (int64_t i = block.filled; i < block.filled + block.keys; ++i) {
      const int64_t key = block.key + i - block.filled;
      const int64_t at = (key * a.groups + a.group + group) * a.width;
      for (int64_t d = 0; d < a.width; ++d) out[d * kAttentionKeys + i] = a.k[at + d];
      SetRow(a.v + at, a.width, padded, i, out + size);
      if (!a.backward) continue;
      for (int64_t d = 0; d < a.width; ++d) out[2 * size + d * kAttentionKeys + i] = a.v[at + d];
      SetRow(a.k + at, a.width, padded, i, out + 3 * size);
    }
  }
}

// --- Forward -------------------------------------------------------------------------------------

// Turns a row of scores into exp(score - top) and keeps the row's top and sum of them; returns the
// factor for what was summed under the old top.
HWY_INLINE float SoftmaxStep(const AttentionArgs& a, Range seen, float* s, float& top, float& sum) {
  const Vec scale = Const(a.scale), none = Const(-std::numeric_limits<float>::infinity());
  Vec most = none;
  ForKeys(seen, [&](int64_t i, const auto mask) LAPIDARY_INLINE {
    const Vec score = hn::IfThenElse(mask, hn::Mul(scale, hn::Load(Tag(), s + i)), none);
    hn::Store(score, Tag(), s + i);
    most = hn::Max(score, most);
  });
  const float new_top = std::max(top, hn::GetLane(hn::MaxOfLanes(Tag(), most)));
  const Vec shift = Const(new_top);
  Vec total = hn::Zero(Tag());
  ForKeys(seen, [&](int64_t i, const auto mask) LAPIDARY_INLINE {
    const Vec p = hn::IfThenElseZero(mask, Exp(hn::Sub(hn::Load(Tag(), s + i), shift)));
    total = hn::Add(total, p);
    hn::Store(a.round ? ToBf16(p) : p, Tag(), s + i);
  });
  const float shrink = hn::GetLane(Exp(Const(top - new_top)));
  top = new_top;
  sum = sum * shrink + Total(total);
  return shrink;
}

// x[n] *= c, n a multiple of the lanes.
HWY_INLINE void MultiplyRow(float c, int64_t n, float* x) {
  for (int64_t i = 0; i < n; i += kLanes) {
    hn::StoreU(hn::Mul(Const(c), hn::LoadU(Tag(), x + i)), Tag(), x + i);
  }
}

void AttentionForward(const AttentionArgs& a, Range items) noexcept {
  const int64_t padded = PaddedWidth(a), share = a.heads / a.groups;
  float* q = a.scratch;
  float* o = q + PanelFloats(a);
  float* s = q + 4 * PanelFloats(a);
  float* top = s + 2 * kAttentionRows * kAttentionKeys;
  float* sum = top + kAttentionRows;
  for (int64_t item = items.begin; item < items.end; ++item) {
    const int64_t group = a.group + item / a.row_block_count;
    const AttentionRowBlock& rows = a.row_blocks[item % a.row_block_count];
    for (int64_t r = 0; r < rows.rows; ++r) {
      SetRow(a.q + RowIndex(a, group, rows.row + r) * a.width, a.width, padded, r, q);
    }
    std::fill_n(o, PanelFloats(a), 0.0f);
    std::fill_n(top, rows.rows, -std::numeric_limits<float>::infinity());
    std::fill_n(sum, rows.rows, 0.0f);
    for (int64_t kb = rows.key_block; kb < rows.key_end; ++kb) {
      const AttentionKeyBlock& block = a.key_blocks[kb];
      const KeyPanels panels = PanelsOf(a, group, kb);
      Scores(a, rows.rows, q, panels.keys_t, s);
      for (int64_t r = 0; r < rows.rows; ++r) {
        const Range seen = SeenKeys(a, (rows.row + r) / share, block);
        float* row = s + r * kAttentionKeys;
        if (seen.begin >= seen.end) {
          std::fill_n(row, kAttentionKeys, 0.0f);
          continue;
        }
        const float shrink = SoftmaxStep(a, seen, row, top[r], sum[r]);
        if (shrink == 1.0f) continue;
        ForPanels(padded, [&](int64_t at, int64_t, int64_t panel)
                              LAPIDARY_INLINE { MultiplyRow(shrink, panel, o + at + r * panel); });
      }
      const int64_t first = SeenKeys(a, rows.row / share, block).begin;
      const int64_t last = SeenKeys(a, (rows.row + rows.rows - 1) / share, block).end;
      Combine(a, rows.rows, {s, kAttentionKeys, 1}, first, last, panels.values, o);
    }
    for (int64_t r = 0; r < rows.rows; ++r) {
      const int64_t at = RowIndex(a, group, rows.row + r);
      float* out = a.o + at * a.width;
      const Vec divisor = Const(sum[r]);
      ForPanels(padded, [&](int64_t offset, int64_t column, int64_t panel) LAPIDARY_INLINE {
        const float* from = o + offset + r * panel;
        Sweep(0, std::min(panel, a.width - column), [&](int64_t i, const auto& io) LAPIDARY_INLINE {
          io.Store(hn::Div(io.Load(from + i), divisor), out + column + i);
        });
      });
      a.lse[at] = top[r] + std::log(sum[r]);
    }
  }
}

// --- Forward of few rows -------------------------------------------------------------------------

void AttentionScores(const AttentionArgs& a, Range items) noexcept {
  const int64_t rows = a.row_blocks[0].rows;
  for (int64_t item = items.begin; item < items.end; ++item) {
    const int64_t group = item / a.key_block_count, kb = item % a.key_block_count;
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t at = RowIndex(a, group, a.row_blocks[0].row + r) * a.width;
      SetRow(a.q + at, a.width, PaddedWidth(a), r, a.scratch);
    }
    Scores(a, rows, a.scratch, PanelsOf(a, group, kb).keys_t,
           FewOf(a).scores + item * rows * kAttentionKeys);
  }
}

void AttentionSoftmax(const AttentionArgs& a, Range items) noexcept {
  const AttentionRowBlock& rows = a.row_blocks[0];
  const int64_t share = a.heads / a.groups;
  const AttentionFew few = FewOf(a);
  for (int64_t item = items.begin; item < items.end; ++item) {
    const int64_t group = item / rows.rows, r = item % rows.rows;
    float top = -std::numeric_limits<float>::infinity(), sum = 0;
    for (int64_t kb = 0; kb < a.key_block_count; ++kb) {
      const Range seen = SeenKeys(a, (rows.row + r) / share, a.key_blocks[kb]);
      float* row = few.scores + ((group * a.key_block_count + kb) * rows.rows + r) * kAttentionKeys;
      float& shrink = few.shrink[item * a.key_block_count + kb];
      if (seen.begin >= seen.end) {
        std::fill_n(row, kAttentionKeys, 0.0f);
        shrink = 1.0f;
      } else {
        shrink = SoftmaxStep(a, seen, row, top, sum);
      }
    }
    few.sum[item] = sum;
    a.lse[RowIndex(a, group, rows.row + r)] = top + std::log(sum);
  }
}

void AttentionValues(const AttentionArgs& a, Range items) noexcept {
  const AttentionRowBlock& rows = a.row_blocks[0];
  const int64_t padded = PaddedWidth(a), share = a.heads / a.groups;
  const AttentionFew few = FewOf(a);
  float* o = a.scratch;
  for (int64_t item = items.begin; item < items.end; ++item) {
    const int64_t group = item / PanelCount(a), column = item % PanelCount(a) * kAttentionPanel;
    const int64_t panel = std::min(kAttentionPanel, padded - column);
    std::fill_n(o, rows.rows * panel, 0.0f);
    for (int64_t kb = 0; kb < a.key_block_count; ++kb) {
      const AttentionKeyBlock& block = a.key_blocks[kb];
      for (int64_t r = 0; r < rows.rows; ++r) {
        const float shrink = few.shrink[(group * rows.rows + r) * a.key_block_count + kb];
        if (shrink != 1.0f) MultiplyRow(shrink, panel, o + r * panel);
      }
      const int64_t first = SeenKeys(a, rows.row / share, block).begin;
      const int64_t last = SeenKeys(a, (rows.row + rows.rows - 1) / share, block).end;
      const float* p =
          few.scores + (group * a.key_block_count + kb) * rows.rows * kAttentionKeys + first;
      const float* values = PanelsOf(a, group, kb).values + column * kAttentionRows + first * panel;
      Product(rows.rows, panel, last - first, {p, kAttentionKeys, 1}, values, panel, o, panel);
    }
    for (int64_t r = 0; r < rows.rows; ++r) {
      float* out = a.o + RowIndex(a, group, rows.row + r) * a.width + column;
      const Vec divisor = Const(few.sum[group * rows.rows + r]);
      Sweep(0, std::min(panel, a.width - column), [&](int64_t i, const auto& io) LAPIDARY_INLINE {
        io.Store(hn::Div(io.Load(o + r * panel + i), divisor), out + i);
      });
    }
  }
}

// --- Gradient ------------------------------------------------------------------------------------

void AttentionDelta(const AttentionArgs& a, Range rows) noexcept {
  for (int64_t row = rows.begin; row < rows.end; ++row) {
    const float *x = a.dout + row * a.width, *y = a.o + row * a.width;
    a.delta[row] = SweepSum(a.width, [&](int64_t i, const auto& io, Vec acc) LAPIDARY_INLINE {
      return hn::MulAdd(io.Load(x + i), io.Load(y + i), acc);
    });
  }
}

// s: scores -> probabilities; ds: dout v^T -> gradients of the scores.
void ScoreGradients(const AttentionArgs& a, int64_t group, int64_t row, int64_t rows,
                    const AttentionKeyBlock& block, float* s, float* ds) {
  const int64_t share = a.heads / a.groups;
  const Vec scale = Const(a.scale);
  for (int64_t r = 0; r < rows; ++r, s += kAttentionKeys, ds += kAttentionKeys) {
    const int64_t at = RowIndex(a, group, row + r);
    const Vec lse = Const(a.lse[at]), delta = Const(a.delta[at]);
    ForKeys(SeenKeys(a, (row + r) / share, block), [&](int64_t i, const auto mask) LAPIDARY_INLINE {
      const Vec score = hn::Mul(scale, hn::Load(Tag(), s + i));
      const Vec p = hn::IfThenElseZero(mask, Exp(hn::Sub(score, lse)));
      const Vec slope = hn::Mul(scale, hn::Sub(hn::Load(Tag(), ds + i), delta));
      const Vec change = hn::IfThenElseZero(mask, hn::Mul(p, slope));
      hn::Store(a.round ? ToBf16(p) : p, Tag(), s + i);
      hn::Store(a.round ? ToBf16(change) : change, Tag(), ds + i);
    });
  }
}

void AttentionGradQ(const AttentionArgs& a, Range items) noexcept {
  const int64_t padded = PaddedWidth(a), share = a.heads / a.groups;
  float* q = a.scratch;
  float* dout = q + PanelFloats(a);
  float* dq = dout + PanelFloats(a);
  float* s = q + 4 * PanelFloats(a);
  float* ds = s + kAttentionRows * kAttentionKeys;
  for (int64_t item = items.begin; item < items.end; ++item) {
    const int64_t group = a.group + item / a.row_block_count;
    const AttentionRowBlock& rows = a.row_blocks[item % a.row_block_count];
    for (int64_t r = 0; r < rows.rows; ++r) {
      const int64_t at = RowIndex(a, group, rows.row + r) * a.width;
      SetRow(a.q + at, a.width, padded, r, q);
      SetRow(a.dout + at, a.width, padded, r, dout);
    }
    if (rows.key_block >= rows.key_end) continue;
    for (int64_t r = 0; r < rows.rows; ++r) {
      SetRow(a.dq + RowIndex(a, group, rows.row + r) * a.width, a.width, padded, r, dq);
    }
    for (int64_t kb = rows.key_block; kb < rows.key_end; ++kb) {
      const AttentionKeyBlock& block = a.key_blocks[kb];
      const KeyPanels panels = PanelsOf(a, group, kb);
      Scores(a, rows.rows, q, panels.keys_t, s);
      Scores(a, rows.rows, dout, panels.values_t, ds);
      ScoreGradients(a, group, rows.row, rows.rows, block, s, ds);
      const int64_t first = SeenKeys(a, rows.row / share, block).begin;
      const int64_t last = SeenKeys(a, (rows.row + rows.rows - 1) / share, block).end;
      Combine(a, rows.rows, {ds, kAttentionKeys, 1}, first, last, panels.keys, dq);
    }
    for (int64_t r = 0; r < rows.rows; ++r) {
      GetRow(dq, padded, r, a.width, a.dq + RowIndex(a, group, rows.row + r) * a.width);
    }
  }
}

// dk and dv of a key block in panels <- what they are so far, or back.
template <class Move>
HWY_INLINE void MoveKeyGradients(const AttentionArgs& a, int64_t group,
                                 const AttentionKeyBlock& block, const Move& move) {
  for (int64_t i = 0; i < block.keys; ++i) {
    const int64_t at = ((block.key + i) * a.groups + group) * a.width;
    if (a.dk) move(i, a.dk + at, 0);
    if (a.dv) move(i, a.dv + at, PanelFloats(a));
  }
}
HWY_INLINE void LoadKeyGradients(const AttentionArgs& a, int64_t group,
                                 const AttentionKeyBlock& block, float* both) {
  std::fill_n(both, 2 * PanelFloats(a), 0.0f);
  MoveKeyGradients(a, group, block, [&](int64_t row, const float* x, int64_t offset) {
    SetRow(x, a.width, PaddedWidth(a), row, both + offset);
  });
}
HWY_INLINE void StoreKeyGradients(const AttentionArgs& a, int64_t group,
                                  const AttentionKeyBlock& block, const float* both) {
  MoveKeyGradients(a, group, block, [&](int64_t row, float* x, int64_t offset) {
    GetRow(both + offset, PaddedWidth(a), row, a.width, x);
  });
}

void AttentionGradKV(const AttentionArgs& a, Range items) noexcept {
  const int64_t padded = PaddedWidth(a), share = a.heads / a.groups;
  float* q = a.scratch;
  float* dout = q + PanelFloats(a);
  float* dk = dout + PanelFloats(a);
  float* dv = dk + PanelFloats(a);
  float* s = q + 4 * PanelFloats(a);
  float* ds = s + kAttentionRows * kAttentionKeys;
  for (int64_t item = items.begin; item < items.end; ++item) {
    const int64_t group = a.group + item / a.key_block_count;
    const int64_t kb = item % a.key_block_count;
    const AttentionKeyBlock& block = a.key_blocks[kb];
    const KeyPanels panels = PanelsOf(a, group, kb);
    if (block.query >= block.query_end) continue;
    LoadKeyGradients(a, group, block, dk);
    for (int64_t row = block.query * share; row < block.query_end * share; row += kAttentionRows) {
      const int64_t rows = std::min(kAttentionRows, block.query_end * share - row);
      for (int64_t r = 0; r < rows; ++r) {
        const int64_t at = RowIndex(a, group, row + r) * a.width;
        SetRow(a.q + at, a.width, padded, r, q);
        SetRow(a.dout + at, a.width, padded, r, dout);
      }
      Scores(a, rows, q, panels.keys_t, s);
      Scores(a, rows, dout, panels.values_t, ds);
      ScoreGradients(a, group, row, rows, block, s, ds);
      if (a.dv) Combine(a, block.keys, {s, 1, kAttentionKeys}, 0, rows, dout, dv);
      if (a.dk) Combine(a, block.keys, {ds, 1, kAttentionKeys}, 0, rows, q, dk);
    }
    StoreKeyGradients(a, group, block, dk);
  }
}

// Five products a pair of blocks instead of the seven of the two kernels above, which share out one
// group over threads. The chains are the same: dq over key blocks, dk and dv over rows, ascending.
void AttentionGradGroup(const AttentionArgs& a, Range groups) noexcept {
  const int64_t padded = PaddedWidth(a), share = a.heads / a.groups, size = PanelFloats(a);
  float* dk = a.scratch;
  float* dv = dk + size;
  float* s = dk + 4 * size;
  float* ds = s + kAttentionRows * kAttentionKeys;
  float* q = a.group_memory;
  float* dout = q + a.row_block_count * size;
  float* dq = dout + a.row_block_count * size;
  for (int64_t group = a.group + groups.begin; group < a.group + groups.end; ++group) {
    for (int64_t b = 0; b < a.row_block_count; ++b) {
      const AttentionRowBlock& rows = a.row_blocks[b];
      for (int64_t r = 0; r < rows.rows; ++r) {
        const int64_t at = RowIndex(a, group, rows.row + r) * a.width;
        SetRow(a.q + at, a.width, padded, r, q + b * size);
        SetRow(a.dout + at, a.width, padded, r, dout + b * size);
        SetRow(a.dq + at, a.width, padded, r, dq + b * size);
      }
    }
    int64_t first_row_block = 0;  // the first that sees the key block; they never step back
    for (int64_t kb = 0; kb < a.key_block_count; ++kb) {
      const AttentionKeyBlock& block = a.key_blocks[kb];
      const KeyPanels panels = PanelsOf(a, group, kb);
      LoadKeyGradients(a, group, block, dk);
      while (first_row_block < a.row_block_count && a.row_blocks[first_row_block].key_end <= kb) {
        ++first_row_block;
      }
      for (int64_t b = first_row_block; b < a.row_block_count && a.row_blocks[b].key_block <= kb;
           ++b) {
        const AttentionRowBlock& rows = a.row_blocks[b];
        Scores(a, rows.rows, q + b * size, panels.keys_t, s);
        Scores(a, rows.rows, dout + b * size, panels.values_t, ds);
        ScoreGradients(a, group, rows.row, rows.rows, block, s, ds);
        const int64_t first = SeenKeys(a, rows.row / share, block).begin;
        const int64_t last = SeenKeys(a, (rows.row + rows.rows - 1) / share, block).end;
        Combine(a, rows.rows, {ds, kAttentionKeys, 1}, first, last, panels.keys, dq + b * size);
        Combine(a, block.keys, {s, 1, kAttentionKeys}, 0, rows.rows, dout + b * size, dv);
        Combine(a, block.keys, {ds, 1, kAttentionKeys}, 0, rows.rows, q + b * size, dk);
      }
      StoreKeyGradients(a, group, block, dk);
    }
    for (int64_t b = 0; b < a.row_block_count; ++b) {
      const AttentionRowBlock& rows = a.row_blocks[b];
      for (int64_t r = 0; r < rows.rows; ++r) {
        GetRow(dq + b * size, padded, r, a.width,
               a.dq + RowIndex(a, group, rows.row + r) * a.width);
      }
    }
  }
}

}  // namespace lapidary::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
