#include "autograd/ops/rope.h"

#include <algorithm>
#include <cmath>
#include <memory>

#include "autograd/kernels/kernels.h"
#include "autograd/ops/common.h"
#include "autograd/profile.h"

namespace lapidary {
namespace {

// Cosines and sines of every token and pair, [N, D/2] each.
struct RopeTable {
  std::vector<int32_t> positions;
  std::vector<float> inv_freq;
  Tensor cos, sin;
};

std::shared_ptr<const RopeTable> MakeTable(const std::vector<int32_t>& positions,
                                           const std::vector<float>& inv_freq) {
  const int64_t tokens = static_cast<int64_t>(positions.size());
  const int64_t half = static_cast<int64_t>(inv_freq.size());
  auto table = std::make_shared<RopeTable>();
  table->positions = positions;
  table->inv_freq = inv_freq;
  table->cos = Tensor({tokens, half});
  table->sin = Tensor({tokens, half});
  float *cos = table->cos.data(), *sin = table->sin.data();
  ParallelFor(
      tokens,
      [&](Range r) {
        for (int64_t n = r.begin; n < r.end; ++n) {
          for (int64_t i = 0; i < half; ++i) {
            const float angle = static_cast<float>(positions[n]) * inv_freq[i];
            cos[n * half + i] = std::cos(angle);
            sin[n * half + i] = std::sin(angle);
          }
        }
      },
      1 + 512 / half);
  return table;
}

// Every layer of a step asks for the same few tables (two layer types, runs of tokens), so the last
// ones of each thread are kept, up to some bytes: making one costs more than rotating.
std::shared_ptr<const RopeTable> CachedTable(const std::vector<int32_t>& positions,
                                             const std::vector<float>& inv_freq) {
  constexpr int64_t kKeptBytes = int64_t{32} << 20;
  thread_local std::vector<std::shared_ptr<const RopeTable>> recent;
  for (size_t i = 0; i < recent.size(); ++i) {
    if (recent[i]->positions != positions || recent[i]->inv_freq != inv_freq) continue;
    std::rotate(recent.begin(), recent.begin() + i, recent.begin() + i + 1);
    return recent[0];
  }
  recent.insert(recent.begin(), MakeTable(positions, inv_freq));
  int64_t bytes = 0;
  for (size_t i = 0; i < recent.size(); ++i) {
    bytes += 2 * recent[i]->cos.byte_size();
    if (i > 0 && bytes > kKeptBytes) recent.resize(i);
  }
  return recent[0];
}

void Rotate(const RopeTable& table, const float* x, const InputGrads::Target& y, int64_t heads,
            float sign) {
  const int64_t half = table.cos.shape()[1];
  const RopeArgs args = {.x = x,
                         .y = y.data,
                         .cos = table.cos.data(),
                         .sin = table.sin.data(),
                         .heads = heads,
                         .width = 2 * half,
                         .sign = sign,
                         .add = y.add};
  ParallelFor(
      table.cos.shape()[0], [&](Range r) { ActiveKernels().Rope(args, r); },
      RowGrain(heads * args.width));
}

struct RopeOp {
  static constexpr const char* kName = "rope";
  std::shared_ptr<const RopeTable> table;
  int64_t heads;
  void Backward(const float* dy, const InputGrads& d) const {
    const InputGrads::Target dx = d.Write(0);
    if (dx.data) Rotate(*table, dy, dx, heads, -1.0f);
  }
};

}  // namespace

Var Rope(Var x, const std::vector<int32_t>& positions, const std::vector<float>& inv_freq) {
  const ProfileScope scope(RopeOp::kName);
  const Shape xs = x.shape();
  LAPIDARY_CHECK(xs.rank == 3 && static_cast<int64_t>(positions.size()) == xs[0],
                 "rope: x must be [N, H, D] with N positions; got x ", xs, ", positions ",
                 positions.size());
  LAPIDARY_CHECK(static_cast<int64_t>(inv_freq.size()) * 2 == xs[2],
                 "rope: inv_freq must be [D / 2]; got ", inv_freq.size(), ", x ", xs);
  std::shared_ptr<const RopeTable> table = CachedTable(positions, inv_freq);
  Tensor y(xs);
  Rotate(*table, x.data(), {y.data(), false}, xs[1], 1.0f);
  return x.tape().Record(RopeOp{std::move(table), xs[1]}, {x}, y);
}

}  // namespace lapidary
