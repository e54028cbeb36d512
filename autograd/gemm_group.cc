#include "autograd/gemm_group.h"

#include <algorithm>
#include <memory>
#include <vector>

#include "autograd/arena.h"
#include "autograd/base/error.h"
#include "autograd/base/parallel.h"
#include "autograd/kernels/gemm_driver.h"
#include "autograd/step_grad.h"
#include "autograd/weight_map.h"

namespace lapidary {
namespace {

// Float32 step memory.
class Floats {
 public:
  explicit Floats(int64_t count = 0) : bytes_(count > 0 ? AllocateBytes(count * 4) : nullptr) {}
  float* data() const { return reinterpret_cast<float*>(bytes_.get()); }

 private:
  std::shared_ptr<uint8_t[]> bytes_;
};

constexpr int64_t kCopyGrain = 1 << 14;

// to[rows, cols] = s * from[rows, cols], rows `stride` apart.
void ScaledCopy(const float* from, int64_t stride, int64_t rows, int64_t cols, float s, float* to) {
  ParallelFor(
      rows,
      [&](Range range) {
        for (int64_t r = range.begin; r < range.end; ++r) {
          for (int64_t c = 0; c < cols; ++c) to[r * cols + c] = s * from[r * stride + c];
        }
      },
      std::max<int64_t>(1, kCopyGrain / std::max<int64_t>(cols, 1)));
}

// s_j B_j of every part; the parts' own B where s_j is 1.
struct ScaledB {
  std::vector<Floats> owned;
  std::vector<WeightView> views;
  explicit ScaledB(std::span<const GroupPart> parts) {
    for (const GroupPart& p : parts) {
      const bool copy = p.rank > 0 && p.scale != 1.0f;
      owned.emplace_back(copy ? p.w.rows * p.rank : 0);
      if (copy) ScaledCopy(p.b, p.rank, p.w.rows, p.rank, p.scale, owned.back().data());
      views.push_back(F32View(copy ? owned.back().data() : p.b, p.w.rows, p.rank));
    }
  }
};

void CheckParts(const char* where, int64_t n, std::span<const GroupPart> parts, size_t others) {
  LAPIDARY_CHECK(!parts.empty() && parts.size() == others, where,
                 ": needs parts and as many outputs; got ", parts.size(), " and ", others);
  LAPIDARY_CHECK(n >= 0, where, ": the number of rows must not be negative; got ", n);
  for (const GroupPart& p : parts) {
    CheckWeight(where, p.w, n);
    LAPIDARY_CHECK(p.w.cols == parts[0].w.cols && p.w.cols >= 1 && p.w.rows >= 1, where,
                   ": weights must have the same positive number of columns; got [", p.w.rows, ", ",
                   p.w.cols, "], the first has ", parts[0].w.cols);
    LAPIDARY_CHECK(p.rank >= 0 && (p.rank == 0 || (p.a && p.b)), where,
                   ": a rank needs A and B; got rank ", p.rank);
  }
}

// The packed operands of one pass: bytes first, then where each goes.
class PassMemory {
 public:
  PassMemory(const GemmTable& table, int64_t rows) : table_(table), rows_(rows) {}
  // Room for an operand of k positions; returns its place.
  int64_t Add(int64_t k) {
    const int64_t at = bytes_;
    bytes_ += PackedBytes(table_, rows_, k);
    return at;
  }
  void Allocate() { data_ = PackingBuffer(bytes_); }
  char* At(int64_t place) const { return data_ + place; }

 private:
  const GemmTable& table_;
  int64_t rows_, bytes_ = 0;
  char* data_ = nullptr;
};

int64_t PackedRowBytes(const GemmTable& table, int64_t k) {
  return PackedBytes(table, table.block_rows, k) / table.block_rows;
}

GemmOutput OneTerm(const PackedActivations& a, const WeightView& w, GemmSide side, float* c,
                   int64_t ldc, bool add) {
  GemmOutput out;
  out.c = c;
  out.ldc = ldc;
  out.cols = side == GemmSide::kForward ? w.rows : w.cols;
  out.add = add;
  out.side = side;
  out.terms[0] = {a, w};
  return out;
}

// The correction is added by the weight's map.
bool InWeight(const GroupPart& p) { return p.w.map && p.w.map->rank > 0; }

void AddTerm(GemmOutput* out, const PackedActivations& a, const WeightView& w) {
  out->terms[1] = {a, w};
  out->term_count = 2;
}

// All A_j as one [R, I], so that the packed input is read once.
WeightView StackedA(std::span<const GroupPart> parts, int64_t rank, Floats* owned) {
  const int64_t cols = parts[0].w.cols;
  const auto only =
      std::find_if(parts.begin(), parts.end(), [&](const GroupPart& p) { return p.rank == rank; });
  if (only != parts.end()) return F32View(only->a, rank, cols);
  *owned = Floats(rank * cols);
  float* to = owned->data();
  for (const GroupPart& p : parts) to = std::copy_n(p.a, p.rank * cols, to);
  return F32View(owned->data(), rank, cols);
}

}  // namespace

int64_t GroupRank(std::span<const GroupPart> parts) {
  int64_t rank = 0;
  for (const GroupPart& p : parts) rank += p.rank;
  return rank;
}

void GemmGroupForward(const float* x, int64_t n, std::span<const GroupPart> parts,
                      std::span<float* const> y, float* z, Compute compute) {
  CheckParts("GemmGroupForward", n, parts, y.size());
  const int64_t cols = parts[0].w.cols, rank = GroupRank(parts);
  LAPIDARY_CHECK(rank == 0 || z, "GemmGroupForward: a rank needs room for z; got none");
  if (n == 0) return;
  const Isa isa = ActiveIsa();
  const GemmTable& table = GetGemmTable(isa, compute);
  const ScaledB scaled(parts);
  Floats stacked;
  const WeightView a = rank > 0 ? StackedA(parts, rank, &stacked) : WeightView{};
  int64_t row_bytes = PackedRowBytes(table, cols);
  for (const GroupPart& p : parts) row_bytes += PackedRowBytes(table, p.rank);
  ForPasses(table, n, row_bytes, [&](Range pass) {
    const int64_t rows = pass.end - pass.begin;
    PassMemory memory(table, rows);
    const int64_t x_place = memory.Add(cols);
    std::vector<int64_t> z_places;
    for (const GroupPart& p : parts) z_places.push_back(memory.Add(p.rank));
    memory.Allocate();
    const PackedActivations packed =
        Pack(table, {x + pass.begin * cols, cols, 1, rows, cols}, memory.At(x_place));
    float* const z_rows = rank > 0 ? z + pass.begin * rank : nullptr;
    if (rank > 0) {
      const GemmOutput low = OneTerm(packed, a, GemmSide::kForward, z_rows, rank, false);
      MultiplyPacked(isa, compute, {&low, 1});
    }
    std::vector<GemmOutput> outputs;
    for (size_t j = 0, z_at = 0; j < parts.size(); z_at += parts[j].rank, ++j) {
      const GroupPart& p = parts[j];
      outputs.push_back(
          OneTerm(packed, p.w, GemmSide::kForward, y[j] + pass.begin * p.w.rows, p.w.rows, false));
      if (p.rank == 0 || InWeight(p)) continue;
      AddTerm(&outputs.back(),
              Pack(table, {z_rows + z_at, rank, 1, rows, p.rank}, memory.At(z_places[j])),
              scaled.views[j]);
    }
    MultiplyPacked(isa, compute, outputs);
  });
}

namespace {

// dx (+)= [dy | dz] [W ; A] and dz = dy s B, each where wanted (dz null: no low rank, or not
// needed). dz rows are `dz_stride` apart.
void PartInputGrad(const float* dy, int64_t n, const GroupPart& p, const WeightView& b, float* dz,
                   int64_t dz_stride, GroupTarget dx, Compute compute) {
  const Isa isa = ActiveIsa();
  const GemmTable& table = GetGemmTable(isa, compute);
  const int64_t outs = p.w.rows, cols = p.w.cols, rank = dz ? p.rank : 0;
  ForPasses(table, n, PackedRowBytes(table, outs) + PackedRowBytes(table, rank), [&](Range pass) {
    const int64_t rows = pass.end - pass.begin;
    PassMemory memory(table, rows);
    const int64_t dy_place = memory.Add(outs), dz_place = memory.Add(rank);
    memory.Allocate();
    const PackedActivations packed =
        Pack(table, {dy + pass.begin * outs, outs, 1, rows, outs}, memory.At(dy_place));
    float* const dz_rows = rank > 0 ? dz + pass.begin * dz_stride : nullptr;
    if (rank > 0) {
      const GemmOutput low = OneTerm(packed, b, GemmSide::kInputGrad, dz_rows, dz_stride, false);
      MultiplyPacked(isa, compute, {&low, 1});
    }
    if (!dx.data) return;
    GemmOutput out =
        OneTerm(packed, p.w, GemmSide::kInputGrad, dx.data + pass.begin * cols, cols, dx.add);
    if (rank > 0 && !InWeight(p)) {
      AddTerm(&out, Pack(table, {dz_rows, dz_stride, 1, rows, rank}, memory.At(dz_place)),
              F32View(p.a, rank, cols));
    }
    MultiplyPacked(isa, compute, {&out, 1});
  });
}

// dA of all parts in `wanted` from one reading of x: dz [N, R] holds their columns side by side.
void StackedAGrad(const float* x, const float* dz, int64_t n, int64_t rank, int64_t cols,
                  std::span<const GroupPart> parts, std::span<const GroupPartGrads> grads,
                  const std::vector<size_t>& wanted, Compute compute) {
  if (wanted.size() == 1) {
    const GroupTarget& da = grads[wanted[0]].da;
    GemmWeightGrad(dz, x, n, rank, cols, da.data, da.add, compute);
    return;
  }
  const Floats stacked(rank * cols);
  float* at = stacked.data();
  for (size_t j : wanted) {
    const int64_t size = parts[j].rank * cols;
    if (grads[j].da.add) {
      std::copy_n(grads[j].da.data, size, at);
    } else {
      std::fill_n(at, size, 0.0f);
    }
    at += size;
  }
  GemmWeightGrad(dz, x, n, rank, cols, stacked.data(), /*add=*/true, compute);
  at = stacked.data();
  for (size_t j : wanted) {
    std::copy_n(at, parts[j].rank * cols, grads[j].da.data);
    at += parts[j].rank * cols;
  }
}

}  // namespace

void GemmGroupGrad(const float* x, const float* z, int64_t n, std::span<const GroupPart> parts,
                   std::span<const GroupPartGrads> grads, GroupTarget dx, Compute compute) {
  CheckParts("GemmGroupGrad", n, parts, grads.size());
  const int64_t cols = parts[0].w.cols, all_ranks = GroupRank(parts);
  const ScaledB scaled(parts);
  // Columns of dz: first the parts whose dA is wanted, side by side as StackedAGrad takes them.
  std::vector<size_t> wanted;
  int64_t rank = 0, widest = 0;
  for (size_t j = 0; j < parts.size(); ++j) {
    widest = std::max(widest, parts[j].rank);
    if (!grads[j].dy || !grads[j].da.data || parts[j].rank == 0) continue;
    wanted.push_back(j);
    rank += parts[j].rank;
  }
  LAPIDARY_CHECK(wanted.empty() || x, "GemmGroupGrad: dA needs x; got none");
  const Floats dz(n * rank), spare(n * widest);
  int64_t z_at = 0, dz_at = 0;
  for (size_t j = 0; j < parts.size(); z_at += parts[j].rank, ++j) {
    const GroupPart& p = parts[j];
    const GroupPartGrads& g = grads[j];
    if (!g.dy) continue;
    const bool low = p.rank > 0;
    if (g.dsteps.data) {
      LAPIDARY_CHECK(x, "GemmGroupGrad: gradients of steps need x; got none");
      StepGrad(g.dy, x, n, p.w, g.dsteps.data, g.dsteps.add, compute);
    }
    if (low && g.db.data) {
      LAPIDARY_CHECK(z, "GemmGroupGrad: dB needs z; got none");
      ScaledCopy(z + z_at, all_ranks, n, p.rank, p.scale, spare.data());
      GemmWeightGrad(g.dy, spare.data(), n, p.w.rows, p.rank, g.db.data, g.db.add, compute);
    }
    const bool for_a = low && g.da.data;
    if (!dx.data && !for_a) continue;
    float* const dz_columns = for_a ? dz.data() + dz_at : low ? spare.data() : nullptr;
    PartInputGrad(g.dy, n, p, scaled.views[j], dz_columns, for_a ? rank : p.rank, dx, compute);
    if (for_a) dz_at += p.rank;
    dx.add = true;
  }
  if (dx.data && !dx.add) std::fill_n(dx.data, n * cols, 0.0f);
  if (!wanted.empty()) StackedAGrad(x, dz.data(), n, rank, cols, parts, grads, wanted, compute);
}

}  // namespace lapidary
