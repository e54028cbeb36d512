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

// Bytes of packed copies of keys and values at a time.
constexpr int64_t kPackedBytes = int64_t{64} << 20;

// Key/value groups laid out at a time, so that the packed copies stay small.
int64_t GroupsAtOnce(const AttentionArgs& a) {
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

// Lays out the blocks that a.key_blocks names of `at_once` groups after the other and calls
// work(args, groups).
template <class Work>
void ForGroups(AttentionArgs a, int64_t at_once, const Work& work) {
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

void GradientOfGroups(const AttentionArgs& g, int64_t groups) {
  if (g.dq && g.dk && g.dv && WholeGroupsPay(g, groups)) {
    ForAttentionItems(groups, g, ActiveKernels().AttentionGradGroup, GroupFloats(g));
    return;
  }
  if (g.dq) ForAttentionItems(groups * g.row_block_count, g, ActiveKernels().AttentionGradQ);
  if (g.dk || g.dv) {
    ForAttentionItems(groups * g.key_block_count, g, ActiveKernels().AttentionGradKV);
  }
}

// The gradient with some of the key blocks at a time, if one group's copies of all are too many.
void GradientByKeys(AttentionArgs a) {
  const int64_t most =
      std::max<int64_t>(1, kPackedBytes / (BlockFloats(a) * static_cast<int64_t>(sizeof(float))));
  if (a.key_block_count <= most) {
    ForGroups(a, GroupsAtOnce(a), GradientOfGroups);
    return;
  }
  const AttentionArgs all = a;
  std::vector<AttentionRowBlock> rows(all.row_blocks, all.row_blocks + all.row_block_count);
  for (int64_t first = 0; first < all.key_block_count; first += most) {
    a.key_block_count = std::min(most, all.key_block_count - first);
    a.key_blocks = all.key_blocks + first;
    for (size_t i = 0; i < rows.size(); ++i) {
      const AttentionRowBlock& whole = all.row_blocks[i];
      rows[i].key_block = std::clamp<int64_t>(whole.key_block - first, 0, a.key_block_count);
      rows[i].key_end = std::clamp<int64_t>(whole.key_end - first, 0, a.key_block_count);
    }
    a.row_blocks = rows.data();
    ForGroups(a, 1, GradientOfGroups);
  }
}

// What q, k and v must be.
void CheckShapes(const Shape& q, const Shape& k, const Shape& v) {
  LAPIDARY_CHECK(q.rank == 3 && k.rank == 3 && v == k && q[2] == k[2] && k[1] >= 1 &&
                     q[1] % k[1] == 0 && q[2] >= 1,
                 "attention: q must be [N, H, D], k and v [M, G, D], H a multiple of G; got q ", q,
                 ", k ", k, ", v ", v);
}

struct AttentionOp {
  static constexpr const char* kName = "attention";
  Tensor q, k, v, o, lse;
  std::shared_ptr<const AttentionSpans> spans;
  float scale;
  bool round;

  void Backward(Tensor dy, const InputGrads& d) const {
    const Tensor dout = dy.Reshaped(q.shape());
    Tensor delta(lse.shape());
    const Tensor rounded = Rounded(dout.data(), dout.shape(), round);
    AttentionDelta(round ? rounded : dout, o, &delta);
    // Into tensors of their own: a chain from what is there would round at its size, key by key.
    const Tensor* const inputs[] = {&q, &k, &v};
    Tensor grads[3];
    for (int i = 0; i < 3; ++i) {
      if (d.needed(i)) grads[i] = Tensor::Zeros(inputs[i]->shape());
    }
    AttentionBackward(q, k, v, dout, lse, delta, *spans, scale, round,
                      {grads[0].data(), grads[1].data(), grads[2].data()});
    for (int i = 0; i < 3; ++i) {
      if (grads[i].defined()) d.Give(i, std::move(grads[i]));
    }
  }
};

}  // namespace

AttentionSpans SpansOf(const AttentionSpans& spans, int64_t first, int64_t count) {
  const auto part = [&](const std::vector<int32_t>& all) {
    return std::vector<int32_t>(all.begin() + first, all.begin() + first + count);
  };
  return {part(spans.lo), part(spans.hi), part(spans.begin)};
}

namespace {

// q, k and v of a call, rounded to bf16 where the compute type wants them so; what `a` points to
// lives as long as this.
class RoundedInputs {
 public:
  RoundedInputs(const Tensor& q, const Tensor& k, const Tensor& v, bool round, AttentionArgs* a)
      : q_(Rounded(q.data(), q.shape(), round)),
        k_(Rounded(k.data(), k.shape(), round)),
        v_(Rounded(v.data(), k.shape(), round)) {
    a->round = round;
    a->q = round ? q_.data() : q.data();
    a->k = round ? k_.data() : k.data();
    a->v = round ? v_.data() : v.data();
  }

 private:
  Tensor q_, k_, v_;
};

}  // namespace

void AttentionForward(const Tensor& q, const Tensor& k, const Tensor& v,
                      const AttentionSpans& spans, float scale, bool round_to_bf16, Tensor* o,
                      Tensor* lse) {
  const ProfileScope scope(AttentionOp::kName);
  const Shape qs = q.shape(), ks = k.shape();
  CheckShapes(qs, ks, v.shape());
  CheckSpans(spans, qs[0], ks[0]);
  const AttentionPlan plan = MakeAttentionPlan(spans, qs[1] / ks[1]);
  AttentionArgs a = MakeAttentionArgs(plan, spans, qs[1], ks[1], qs[2], scale);
  const RoundedInputs inputs(q, k, v, round_to_bf16, &a);
  a.o = o->data();
  a.lse = lse->data();
  ForGroups(a, GroupsAtOnce(a), [](const AttentionArgs& g, int64_t groups) {
    ForAttentionItems(groups * g.row_block_count, g, ActiveKernels().AttentionForward);
  });
}

void AttentionDelta(const Tensor& dout, const Tensor& o, Tensor* delta) {
  AttentionArgs a = {};
  a.dout = dout.data();
  a.o = o.data();
  a.delta = delta->data();
  a.width = delta->size() > 0 ? o.size() / delta->size() : 0;
  LAPIDARY_CHECK(dout.size() == o.size() && a.width * delta->size() == o.size(),
                 "attention: dout and o must be [N, H, D] for delta [N, H]; got ", dout.shape(),
                 ", ", o.shape(), " and ", delta->shape());
  ParallelFor(delta->size(), [&](Range r) { ActiveKernels().AttentionDelta(a, r); });
}

void AttentionBackward(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& dout,
                       const Tensor& lse, const Tensor& delta, const AttentionSpans& spans,
                       float scale, bool round_to_bf16, const AttentionGradient& gradient) {
  const ProfileScope scope(AttentionOp::kName, /*backward=*/true);
  const Shape qs = q.shape(), ks = k.shape();
  CheckShapes(qs, ks, v.shape());
  CheckSpans(spans, qs[0], ks[0]);
  const AttentionPlan plan = MakeAttentionPlan(spans, qs[1] / ks[1]);
  AttentionArgs a = MakeAttentionArgs(plan, spans, qs[1], ks[1], qs[2], scale);
  const RoundedInputs inputs(q, k, v, round_to_bf16, &a);
  const Tensor dr = Rounded(dout.data(), qs, round_to_bf16);
  a.dout = round_to_bf16 ? dr.data() : dout.data();
  a.lse = const_cast<float*>(lse.data());
  a.delta = const_cast<float*>(delta.data());
  a.dq = gradient.dq;
  a.dk = gradient.dk;
  a.dv = gradient.dv;
  a.backward = true;
  GradientByKeys(a);
}

Var Attention(Var q, Var k, Var v, std::shared_ptr<const AttentionSpans> spans, float scale,
              bool round_to_bf16) {
  LAPIDARY_CHECK(spans != nullptr, "attention: spans must be given; got none");
  CheckShapes(q.shape(), k.shape(), v.shape());
  const Shape qs = q.shape();
  Tensor o(qs), lse({qs[0], qs[1]});
  AttentionForward(q.value(), k.value(), v.value(), *spans, scale, round_to_bf16, &o, &lse);
  AttentionOp op = {q.value(), k.value(),        v.value(), o,
                    lse,       std::move(spans), scale,     round_to_bf16};
  return q.tape().Record(std::move(op), {q, k, v}, o);
}

}  // namespace lapidary
