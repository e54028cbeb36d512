#include "autograd/ops/attention.h"

#include <algorithm>

#include "autograd/kernels/kernels.h"
#include "autograd/ops/common.h"

namespace lapidary {
namespace {

// How the work is cut; the same for every table and both directions.
struct Plan {
  std::vector<AttentionRowBlock> rows;
  std::vector<AttentionKeyBlock> keys;
};

// Blocks never cross documents: rows are cut into runs of kAttentionRows and keys into runs of
// kAttentionKeys, both counted from the document, so its results do not depend on its neighbours.
// `share`: heads per key/value group.
Plan MakePlan(const AttentionSpans& spans, int64_t share) {
  Plan plan;
  const std::vector<int32_t>&lo = spans.lo, &hi = spans.hi, &begin = spans.begin;
  const int64_t queries = static_cast<int64_t>(lo.size());
  for (int64_t n0 = 0, n1; n0 < queries; n0 = n1) {
    n1 = std::upper_bound(begin.begin() + n0, begin.end(), begin[n0]) - begin.begin();
    const int64_t start = begin[n0], end = hi[n1 - 1];
    const int64_t first_block = (lo[n0] - start) / kAttentionKeys;
    const int64_t first_index = static_cast<int64_t>(plan.keys.size());
    for (int64_t key = start + first_block * kAttentionKeys; key < end; key += kAttentionKeys) {
      const int64_t key_end = std::min(key + kAttentionKeys, end);
      // lo and hi never decrease, so the queries that see a block are contiguous.
      const int64_t query = std::upper_bound(hi.begin() + n0, hi.begin() + n1, key) - hi.begin();
      const int64_t query_end =
          std::lower_bound(lo.begin() + n0, lo.begin() + n1, key_end) - lo.begin();
      plan.keys.push_back({key, key_end - key, query, std::max(query, query_end)});
    }
    for (int64_t row = n0 * share; row < n1 * share; row += kAttentionRows) {
      const int64_t rows = std::min(kAttentionRows, n1 * share - row);
      const int64_t low = lo[row / share], high = hi[(row + rows - 1) / share];
      const int64_t key_block = first_index + (low - start) / kAttentionKeys - first_block;
      const int64_t key_end =
          first_index + (high - start + kAttentionKeys - 1) / kAttentionKeys - first_block;
      plan.rows.push_back({row, rows, key_block, key_end});
    }
  }
  return plan;
}

void CheckSpans(const AttentionSpans& spans, int64_t queries, int64_t keys) {
  const size_t n = static_cast<size_t>(queries);
  LAPIDARY_CHECK(spans.lo.size() == n && spans.hi.size() == n && spans.begin.size() == n,
                 "attention: spans must hold one lo, hi and begin per query; got ", spans.lo.size(),
                 ", ", spans.hi.size(), " and ", spans.begin.size(), " for ", queries, " queries");
  for (size_t i = 0; i < n; ++i) {
    const int64_t lo = spans.lo[i], hi = spans.hi[i], begin = spans.begin[i];
    LAPIDARY_CHECK(0 <= begin && begin <= lo && lo < hi && hi <= keys,
                   "attention: spans must satisfy 0 <= begin <= lo < hi <= ", keys, "; got begin ",
                   begin, ", lo ", lo, ", hi ", hi, " for query ", i);
    if (i == 0) continue;
    LAPIDARY_CHECK(lo >= spans.lo[i - 1] && hi >= spans.hi[i - 1] && begin >= spans.begin[i - 1],
                   "attention: spans must not decrease; got query ", i, " before query ", i - 1);
    LAPIDARY_CHECK(begin == spans.begin[i - 1] || begin >= spans.hi[i - 1],
                   "attention: documents must not share keys; got a document from ", begin,
                   " before the last one's end ", spans.hi[i - 1]);
  }
}

// A copy rounded to bf16; undefined if not `round`.
Tensor Rounded(const float* x, const Shape& shape, bool round) {
  if (!round) return Tensor();
  Tensor y(shape);
  const RoundArgs args = {.x = x, .y = y.data()};
  ParallelFor(
      y.size(), [&](Range r) { ActiveKernels().RoundBf16(args, r); }, kElementGrain);
  return y;
}

// Key/value groups laid out at a time, so that the packed copies stay small.
int64_t GroupsAtOnce(const AttentionArgs& a) {
  constexpr int64_t kPackedBytes = int64_t{64} << 20;
  const int64_t bytes = PackedFloats(a) * static_cast<int64_t>(sizeof(float));
  return std::clamp<int64_t>(bytes ? kPackedBytes / bytes : a.groups, 1, a.groups);
}

// kernel(args, {i, i + 1}) for every i, on any thread.
template <class Kernel>
void ForItems(int64_t items, const AttentionArgs& a, const Kernel& kernel,
              int64_t group_floats = 0) {
  const Tensor scratch({Threads(), ScratchFloats(a)}), group_memory({Threads(), group_floats});
  ParallelForDynamic(items, [&](int64_t i, int thread) {
    AttentionArgs mine = a;
    mine.scratch = scratch.data() + thread * ScratchFloats(a);
    mine.group_memory = group_memory.data() + thread * group_floats;
    kernel(mine, Range{i, i + 1});
  });
}

// Whether threads should take whole groups in the gradient: five products a pair of blocks instead
// of seven, but only as many threads as groups are busy. Both ways have the same bits.
bool WholeGroupsPay(const AttentionArgs& a, int64_t groups) {
  constexpr int64_t kMostBytes = int64_t{64} << 20;  // of memory, a thread
  const int64_t threads = Threads(), rounds = (groups + threads - 1) / threads;
  return 5 * rounds * threads <= 7 * groups &&
         GroupFloats(a) * static_cast<int64_t>(sizeof(float)) <= kMostBytes;
}

// Calls work(args, groups) for batches of groups whose packed copies are ready.
template <class Work>
void ForGroups(AttentionArgs a, const Work& work) {
  const int64_t at_once = GroupsAtOnce(a);
  Tensor packed({at_once * PackedFloats(a)});
  a.packed = packed.data();
  for (int64_t group = 0; group < a.groups; group += at_once) {
    a.group = group;
    const int64_t groups = std::min(at_once, a.groups - group);
    ParallelFor(groups * a.key_block_count, [&](Range r) { ActiveKernels().AttentionPack(a, r); });
    work(a, groups);
  }
}

AttentionArgs MakeArgs(const Plan& plan, const AttentionSpans& spans, const Shape& qs,
                       const Shape& ks, float scale, bool round) {
  AttentionArgs a = {};
  a.lo = spans.lo.data();
  a.hi = spans.hi.data();
  a.row_blocks = plan.rows.data();
  a.key_blocks = plan.keys.data();
  a.row_block_count = static_cast<int64_t>(plan.rows.size());
  a.key_block_count = static_cast<int64_t>(plan.keys.size());
  a.queries = qs[0];
  a.heads = qs[1];
  a.groups = ks[1];
  a.width = qs[2];
  a.scale = scale;
  a.round = round;
  return a;
}

struct AttentionOp {
  static constexpr const char* kName = "attention";
  Tensor q, k, v, o, lse;
  std::shared_ptr<const AttentionSpans> spans;
  float scale;
  bool round;

  void Backward(const float* dy, const InputGrads& d) const {
    const Plan plan = MakePlan(*spans, q.shape()[1] / k.shape()[1]);
    AttentionArgs a = MakeArgs(plan, *spans, q.shape(), k.shape(), scale, round);
    const Tensor qr = Rounded(q.data(), q.shape(), round);
    const Tensor kr = Rounded(k.data(), k.shape(), round);
    const Tensor vr = Rounded(v.data(), v.shape(), round);
    const Tensor dr = Rounded(dy, q.shape(), round);
    const Tensor delta(lse.shape());
    a.q = round ? qr.data() : q.data();
    a.k = round ? kr.data() : k.data();
    a.v = round ? vr.data() : v.data();
    a.dout = round ? dr.data() : dy;
    a.o = o.data();
    a.lse = lse.data();
    a.delta = delta.data();
    a.dq = d[0];
    a.dk = d[1];
    a.dv = d[2];
    a.backward = true;
    ParallelFor(delta.size(), [&](Range r) { ActiveKernels().AttentionDelta(a, r); });
    ForGroups(a, [](const AttentionArgs& g, int64_t groups) {
      if (g.dq && g.dk && g.dv && WholeGroupsPay(g, groups)) {
        ForItems(groups, g, ActiveKernels().AttentionGradGroup, GroupFloats(g));
        return;
      }
      if (g.dq) {
        ForItems(groups * g.row_block_count, g, ActiveKernels().AttentionGradQ);
      }
      if (g.dk || g.dv) {
        ForItems(groups * g.key_block_count, g, ActiveKernels().AttentionGradKV);
      }
    });
  }
};

}  // namespace

Var Attention(Var q, Var k, Var v, std::shared_ptr<const AttentionSpans> spans, float scale,
              bool round_to_bf16) {
  const Shape qs = q.shape(), ks = k.shape();
  LAPIDARY_CHECK(qs.rank == 3 && ks.rank == 3 && v.shape() == ks && qs[2] == ks[2] && ks[1] >= 1 &&
                     qs[1] % ks[1] == 0 && qs[2] >= 1,
                 "attention: q must be [N, H, D], k and v [M, G, D], H a multiple of G; got q ", qs,
                 ", k ", ks, ", v ", v.shape());
  LAPIDARY_CHECK(spans != nullptr, "attention: spans must be given; got none");
  CheckSpans(*spans, qs[0], ks[0]);
  const Plan plan = MakePlan(*spans, qs[1] / ks[1]);
  Tensor o(qs), lse({qs[0], qs[1]});
  {
    AttentionArgs a = MakeArgs(plan, *spans, qs, ks, scale, round_to_bf16);
    const Tensor qr = Rounded(q.data(), qs, round_to_bf16);
    const Tensor kr = Rounded(k.data(), ks, round_to_bf16);
    const Tensor vr = Rounded(v.data(), ks, round_to_bf16);
    a.q = round_to_bf16 ? qr.data() : q.data();
    a.k = round_to_bf16 ? kr.data() : k.data();
    a.v = round_to_bf16 ? vr.data() : v.data();
    a.o = o.data();
    a.lse = lse.data();
    ForGroups(a, [](const AttentionArgs& g, int64_t groups) {
      ForItems(groups * g.row_block_count, g, ActiveKernels().AttentionForward);
    });
  }
  AttentionOp op = {q.value(), k.value(),        v.value(), o,
                    lse,       std::move(spans), scale,     round_to_bf16};
  return q.tape().Record(std::move(op), {q, k, v}, o);
}

}  // namespace lapidary
