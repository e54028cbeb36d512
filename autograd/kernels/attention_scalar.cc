#include "autograd/kernels/attention_scalar.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "autograd/base/float16.h"

namespace lapidary::scalar {
namespace {

float Dot(const float* a, const float* b, int64_t n) {
  float sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

void AddScaled(float c, const float* x, float* y, int64_t n) {
  for (int64_t i = 0; i < n; ++i) y[i] += c * x[i];
}

// Where row r of a group lies.
struct Row {
  int64_t query, head;
};
Row RowOf(const AttentionArgs& a, int64_t group, int64_t row) {
  const int64_t share = a.heads / a.groups;
  return {row / share, group * share + row % share};
}

float Rounded(const AttentionArgs& a, float x) { return a.round ? RoundToBf16(x) : x; }

const float* KeyOf(const AttentionArgs& a, const float* keys, int64_t key, int64_t group) {
  return keys + (key * a.groups + group) * a.width;
}

// The probability of a key in a row's softmax and the gradient of its score.
struct Weights {
  float p, ds;
};
Weights WeightsOf(const AttentionArgs& a, int64_t group, int64_t row, int64_t key) {
  const float p =
      std::exp(a.scale * Dot(a.q + row * a.width, KeyOf(a, a.k, key, group), a.width) - a.lse[row]);
  const float dp = Dot(a.dout + row * a.width, KeyOf(a, a.v, key, group), a.width);
  return {Rounded(a, p), Rounded(a, p * (dp - a.delta[row]) * a.scale)};
}

}  // namespace

void AttentionPack(const AttentionArgs&, Range) noexcept {}

void AttentionForward(const AttentionArgs& a, Range items) noexcept {
  for (int64_t item = items.begin; item < items.end; ++item) {
    const int64_t group = a.group + item / a.row_block_count;
    const AttentionRowBlock& block = a.row_blocks[item % a.row_block_count];
    for (int64_t r = block.row; r < block.row + block.rows; ++r) {
      const Row at = RowOf(a, group, r);
      const int64_t row = at.query * a.heads + at.head;
      const float* q = a.q + row * a.width;
      float* o = a.o + row * a.width;
      std::fill_n(o, a.width, 0.0f);
      float top = -std::numeric_limits<float>::infinity(), sum = 0;
      for (int64_t key = a.lo[at.query]; key < a.hi[at.query]; ++key) {
        top = std::max(top, a.scale * Dot(q, KeyOf(a, a.k, key, group), a.width));
      }
      for (int64_t key = a.lo[at.query]; key < a.hi[at.query]; ++key) {
        const float p = std::exp(a.scale * Dot(q, KeyOf(a, a.k, key, group), a.width) - top);
        sum += p;
        AddScaled(Rounded(a, p), KeyOf(a, a.v, key, group), o, a.width);
      }
      for (int64_t d = 0; d < a.width; ++d) o[d] /= sum;
      a.lse[row] = top + std::log(sum);
    }
  }
}

void AttentionDelta(const AttentionArgs& a, Range rows) noexcept {
  for (int64_t row = rows.begin; row < rows.end; ++row) {
    a.delta[row] = Dot(a.dout + row * a.width, a.o + row * a.width, a.width);
  }
}

void AttentionGradQ(const AttentionArgs& a, Range items) noexcept {
  for (int64_t item = items.begin; item < items.end; ++item) {
    const int64_t group = a.group + item / a.row_block_count;
    const AttentionRowBlock& block = a.row_blocks[item % a.row_block_count];
    for (int64_t r = block.row; r < block.row + block.rows; ++r) {
      const Row at = RowOf(a, group, r);
      const int64_t row = at.query * a.heads + at.head;
      for (int64_t key = a.lo[at.query]; key < a.hi[at.query]; ++key) {
        AddScaled(WeightsOf(a, group, row, key).ds, KeyOf(a, a.k, key, group), a.dq + row * a.width,
                  a.width);
      }
    }
  }
}

void AttentionGradKV(const AttentionArgs& a, Range items) noexcept {
  const int64_t share = a.heads / a.groups;
  for (int64_t item = items.begin; item < items.end; ++item) {
    const int64_t group = a.group + item / a.key_block_count;
    const AttentionKeyBlock& block = a.key_blocks[item % a.key_block_count];
    for (int64_t key = block.key; key < block.key + block.keys; ++key) {
      const int64_t at = (key * a.groups + group) * a.width;
      for (int64_t r = block.query * share; r < block.query_end * share; ++r) {
        const Row where = RowOf(a, group, r);
        if (key < a.lo[where.query] || key >= a.hi[where.query]) continue;
        const int64_t row = where.query * a.heads + where.head;
        const Weights w = WeightsOf(a, group, row, key);
        if (a.dv) AddScaled(w.p, a.dout + row * a.width, a.dv + at, a.width);
        if (a.dk) AddScaled(w.ds, a.q + row * a.width, a.dk + at, a.width);
      }
    }
  }
}

void AttentionGradGroup(const AttentionArgs& a, Range groups) noexcept {
  AttentionGradQ(a, {groups.begin * a.row_block_count, groups.end * a.row_block_count});
  AttentionGradKV(a, {groups.begin * a.key_block_count, groups.end * a.key_block_count});
}

}  // namespace lapidary::scalar
