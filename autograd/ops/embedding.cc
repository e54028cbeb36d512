#include "autograd/ops/embedding.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "autograd/kernels/kernels.h"
#include "autograd/ops/common.h"
#include "autograd/profile.h"
#include "autograd/weight_map.h"

namespace lapidary {
namespace {

void CopyScaled(const float* x, float c, float* y, int64_t cols) {
  ActiveKernels().Scale({.x = x, .y = y, .c = c, .add = false}, {0, cols});
}
void AddScaled(const float* x, float c, float* y, int64_t cols) {
  ActiveKernels().Scale({.x = x, .y = y, .c = c, .add = true}, {0, cols});
}

void CheckIds(const char* op, const std::vector<int32_t>& ids, int64_t rows) {
  for (size_t n = 0; n < ids.size(); ++n) {
    LAPIDARY_CHECK(ids[n] >= 0 && ids[n] < rows, op, ": ids must be in [0, ", rows, "); got ",
                   ids[n], " at ", n);
  }
}

// dtable[slots[i]] += scale * dy[i / per_row]; threads own rows of the table and add in the order
// of i, so that repeated slots are summed the same way at any number of threads. Slot -1: none.
void ScatterRows(const std::vector<int64_t>& slots, int64_t per_row, const float* dy, float scale,
                 float* dtable, int64_t cols) {
  std::vector<int64_t> order(slots.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int64_t a, int64_t b) { return slots[a] < slots[b]; });
  std::vector<int64_t> starts;  // of the runs of equal slots in `order`
  for (size_t i = 0; i < order.size(); ++i) {
    if (slots[order[i]] >= 0 && (i == 0 || slots[order[i]] != slots[order[i - 1]])) {
      starts.push_back(static_cast<int64_t>(i));
    }
  }
  starts.push_back(static_cast<int64_t>(order.size()));
  ParallelFor(static_cast<int64_t>(starts.size()) - 1, [&](Range r) {
    for (int64_t run = r.begin; run < r.end; ++run) {
      for (int64_t i = starts[run]; i < starts[run + 1]; ++i) {
        AddScaled(dy + order[i] / per_row * cols, scale, dtable + slots[order[i]] * cols, cols);
      }
    }
  });
}

struct EmbeddingOp {
  static constexpr const char* kName = "embedding";
  std::vector<int64_t> slots;  // ids, -1 where the row gets no gradient
  int64_t cols;
  float scale;
  void Backward(const float* dy, const InputGrads& d) const {
    if (float* dtable = d[0]) ScatterRows(slots, 1, dy, scale, dtable, cols);
  }
};

struct ReplaceRowsOp {
  static constexpr const char* kName = "replace_rows";
  std::vector<int64_t> source;  // of each row of x, the row of s, or -1
  std::vector<int64_t> rows;
  int64_t cols;
  void Backward(const float* dy, const InputGrads& d) const {
    if (float* dx = d[0]) {
      ParallelFor(static_cast<int64_t>(source.size()), [&](Range r) {
        for (int64_t n = r.begin; n < r.end; ++n) {
          if (source[n] < 0) AddScaled(dy + n * cols, 1.0f, dx + n * cols, cols);
        }
      });
    }
    if (float* ds = d[1]) {
      ParallelFor(static_cast<int64_t>(rows.size()), [&](Range r) {
        for (int64_t j = r.begin; j < r.end; ++j) {
          AddScaled(dy + rows[j] * cols, 1.0f, ds + j * cols, cols);
        }
      });
    }
  }
};

struct PositionEmbeddingOp {
  static constexpr const char* kName = "position_embedding";
  std::vector<int64_t> slots;  // two rows of [P * 2, C] per token
  int64_t cols;
  void Backward(const float* dy, const InputGrads& d) const {
    if (float* dtable = d[0]) ScatterRows(slots, 2, dy, 1.0f, dtable, cols);
  }
};

}  // namespace

Var Embedding(Var table, const std::vector<int32_t>& ids, float scale, int32_t padding_id,
              const WeightMap* map) {
  const ProfileScope scope("embedding");
  const Shape ts = table.shape();
  LAPIDARY_CHECK(ts.rank == 2, "embedding: table must be [V, C]; got ", ts);
  CheckIds("embedding", ids, ts[0]);
  const int64_t tokens = static_cast<int64_t>(ids.size()), cols = ts[1];
  Tensor y({tokens, cols});
  WeightView view = F32View(table.data(), ts[0], cols);
  view.map = map;
  ParallelFor(tokens, [&](Range r) {
    for (int64_t n = r.begin; n < r.end; ++n) {
      float* const to = y.data() + n * cols;
      if (map) MappedColumns(view, ids[n], 1, 0, cols, to, cols);
      CopyScaled(map ? to : table.data() + ids[n] * cols, scale, to, cols);
    }
  });
  EmbeddingOp op = {{ids.begin(), ids.end()}, cols, scale};
  for (int64_t& slot : op.slots) {
    if (slot == padding_id) slot = -1;
  }
  return table.tape().Record(std::move(op), {table}, y);
}

Tensor EmbeddingFrozen(const WeightView& table, const std::vector<int32_t>& ids, float scale) {
  const ProfileScope scope("embedding");
  CheckIds("embedding", ids, table.rows);
  const int64_t tokens = static_cast<int64_t>(ids.size()), cols = table.cols;
  Tensor y({tokens, cols});
  ParallelFor(tokens, [&](Range r) {
    for (int64_t n = r.begin; n < r.end; ++n) {
      float* row = y.data() + n * cols;
      DequantizeRows(table, ids[n], 1, row);
      CopyScaled(row, scale, row, cols);
    }
  });
  return y;
}

Var ReplaceRows(Var x, Var s, const std::vector<int64_t>& rows) {
  const ProfileScope scope("replace_rows");
  const Shape xs = x.shape(), ss = s.shape();
  LAPIDARY_CHECK(
      xs.rank == 2 && ss.rank == 2 && xs[1] == ss[1] && static_cast<int64_t>(rows.size()) == ss[0],
      "replace_rows: x must be [N, C], s [M, C] with M rows; got x ", xs, ", s ", ss, ", rows ",
      rows.size());
  const int64_t cols = xs[1];
  ReplaceRowsOp op = {std::vector<int64_t>(static_cast<size_t>(xs[0]), -1), rows, cols};
  for (size_t j = 0; j < rows.size(); ++j) {
    LAPIDARY_CHECK(rows[j] >= 0 && rows[j] < xs[0], "replace_rows: rows must be in [0, ", xs[0],
                   "); got ", rows[j]);
    LAPIDARY_CHECK(op.source[rows[j]] < 0, "replace_rows: rows must be distinct; got ", rows[j],
                   " twice");
    op.source[rows[j]] = static_cast<int64_t>(j);
  }
  Tensor y(xs);
  ParallelFor(xs[0], [&](Range r) {
    for (int64_t n = r.begin; n < r.end; ++n) {
      const float* from = op.source[n] < 0 ? x.data() + n * cols : s.data() + op.source[n] * cols;
      std::memcpy(y.data() + n * cols, from, static_cast<size_t>(cols) * sizeof(float));
    }
  });
  return x.tape().Record(std::move(op), {x, s}, y);
}

Var PositionEmbedding(Var table, const std::vector<int32_t>& positions, bool round_to_bf16) {
  const ProfileScope scope("position_embedding");
  const Shape ts = table.shape();
  LAPIDARY_CHECK(ts.rank == 3 && ts[1] == 2, "position_embedding: table must be [P, 2, C]; got ",
                 ts);
  LAPIDARY_CHECK(positions.size() % 2 == 0,
                 "position_embedding: positions must be pairs (x, y); got ", positions.size(),
                 " numbers");
  CheckIds("position_embedding", positions, ts[0]);
  const int64_t tokens = static_cast<int64_t>(positions.size() / 2), cols = ts[2];
  PositionEmbeddingOp op = {{}, cols};
  op.slots.reserve(positions.size());
  for (size_t i = 0; i < positions.size(); ++i) {
    op.slots.push_back(static_cast<int64_t>(positions[i]) * 2 + static_cast<int64_t>(i % 2));
  }
  Tensor y({tokens, cols});
  ParallelFor(tokens, [&](Range r) {
    const Kernels& kernels = ActiveKernels();
    for (int64_t n = r.begin; n < r.end; ++n) {
      float* row = y.data() + n * cols;
      kernels.Add({.a = table.data() + op.slots[2 * n] * cols,
                   .b = table.data() + op.slots[2 * n + 1] * cols,
                   .y = row},
                  {0, cols});
      if (round_to_bf16) kernels.RoundBf16({.x = row, .y = row}, {0, cols});
    }
  });
  return table.tape().Record(std::move(op), {table}, y);
}

}  // namespace lapidary
