#include "autograd/ops/attention.h"

#include <algorithm>

#include "autograd/kernels/kernels.h"
#include "autograd/ops/attention_plan.h"
#include "autograd/ops/common.h"
#include "autograd/profile.h"

namespace lapidary {
namespace {

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
  const int64_t bytes = a.key_block_count * BlockFloats(a) * static_cast<int64_t>(sizeof(float));
  return std::clamp<int64_t>(bytes ? kPackedBytes / bytes : a.groups, 1, a.groups);
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
  const int64_t stride = at_once * BlockFloats(a);
  const Tensor packed({a.key_block_count, stride});
  std::vector<float*> blocks(static_cast<size_t>(a.key_block_count));
  for (int64_t i = 0; i < a.key_block_count; ++i) blocks[i] = packed.data() + i * stride;
  a.blocks = blocks.data();
  for (int64_t group = 0; group < a.groups; group += at_once) {
    a.group = group;
    const int64_t groups = std::min(at_once, a.groups - group);
    ParallelFor(groups * a.key_block_count, [&](Range r) { ActiveKernels().AttentionPack(a, r); });
    work(a, groups);
  }
}

struct AttentionOp {
  static constexpr const char* kName = "attention";
  Tensor q, k, v, o, lse;
  std::shared_ptr<const AttentionSpans> spans;
  float scale;
  bool round;

  void Backward(const float* dy, const InputGrads& d) const {
    const AttentionPlan plan = MakeAttentionPlan(*spans, q.shape()[1] / k.shape()[1]);
    AttentionArgs a =
        MakeAttentionArgs(plan, *spans, q.shape()[1], k.shape()[1], q.shape()[2], scale);
    a.round = round;
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
        ForAttentionItems(groups, g, ActiveKernels().AttentionGradGroup, GroupFloats(g));
        return;
      }
      if (g.dq) {
        ForAttentionItems(groups * g.row_block_count, g, ActiveKernels().AttentionGradQ);
      }
      if (g.dk || g.dv) {
        ForAttentionItems(groups * g.key_block_count, g, ActiveKernels().AttentionGradKV);
      }
    });
  }
};

}  // namespace

Var Attention(Var q, Var k, Var v, std::shared_ptr<const AttentionSpans> spans, float scale,
              bool round_to_bf16) {
  const ProfileScope scope(AttentionOp::kName);
  const Shape qs = q.shape(), ks = k.shape();
  LAPIDARY_CHECK(qs.rank == 3 && ks.rank == 3 && v.shape() == ks && qs[2] == ks[2] && ks[1] >= 1 &&
                     qs[1] % ks[1] == 0 && qs[2] >= 1,
                 "attention: q must be [N, H, D], k and v [M, G, D], H a multiple of G; got q ", qs,
                 ", k ", ks, ", v ", v.shape());
  LAPIDARY_CHECK(spans != nullptr, "attention: spans must be given; got none");
  CheckSpans(*spans, qs[0], ks[0]);
  const AttentionPlan plan = MakeAttentionPlan(*spans, qs[1] / ks[1]);
  Tensor o(qs), lse({qs[0], qs[1]});
  {
    AttentionArgs a = MakeAttentionArgs(plan, *spans, qs[1], ks[1], qs[2], scale);
    a.round = round_to_bf16;
    const Tensor qr = Rounded(q.data(), qs, round_to_bf16);
    const Tensor kr = Rounded(k.data(), ks, round_to_bf16);
    const Tensor vr = Rounded(v.data(), ks, round_to_bf16);
    a.q = round_to_bf16 ? qr.data() : q.data();
    a.k = round_to_bf16 ? kr.data() : k.data();
    a.v = round_to_bf16 ? vr.data() : v.data();
    a.o = o.data();
    a.lse = lse.data();
    ForGroups(a, [](const AttentionArgs& g, int64_t groups) {
      ForAttentionItems(groups * g.row_block_count, g, ActiveKernels().AttentionForward);
    });
  }
  AttentionOp op = {q.value(), k.value(),        v.value(), o,
                    lse,       std::move(spans), scale,     round_to_bf16};
  return q.tape().Record(std::move(op), {q, k, v}, o);
}

}  // namespace lapidary
