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

// Rows that lie as in the arguments, or in the blocks of a cache (k and v null).
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

// Where element (key, d) of a group lies in the block of its key, as AttentionPack put it.
float* InBlock(const AttentionArgs& a, int64_t group, int64_t block, int64_t key, int64_t d,
               bool value) {
  float* keys_t = a.blocks[block] + (group - a.group) * BlockFloats(a);
  if (!value) return keys_t + d * kAttentionKeys + key;
  const int64_t column = d / kAttentionPanel * kAttentionPanel;
  const int64_t panel = std::min(kAttentionPanel, PaddedWidth(a) - column);
  return keys_t + PanelFloats(a) + column * kAttentionRows + key * panel + (d - column);
}

struct Place {
  int64_t block, key;
};
// Of a key of the only document.
Place PlaceOf(const AttentionArgs& a, int64_t key) {
  const int64_t from_first = key - a.key_blocks[0].key;
  return {from_first / kAttentionKeys, from_first % kAttentionKeys};
}

float Score(const AttentionArgs& a, const float* q, int64_t group, int64_t key) {
  if (a.k) return a.scale * Dot(q, KeyOf(a, a.k, key, group), a.width);
  const Place at = PlaceOf(a, key);
  float sum = 0;
  for (int64_t d = 0; d < a.width; ++d) {
    sum += q[d] * *InBlock(a, group, at.block, at.key, d, false);
  }
  return a.scale * sum;
}

// o[begin, end) += p v
void AddValue(const AttentionArgs& a, float p, int64_t group, int64_t key, Range columns,
              float* o) {
  const Place at = a.k ? Place{} : PlaceOf(a, key);
  for (int64_t d = columns.begin; d < columns.end; ++d) {
    o[d] +=
        p * (a.k ? KeyOf(a, a.v, key, group)[d] : *InBlock(a, group, at.block, at.key, d, true));
  }
}

}  // namespace

// The forward part, for caches; the gradients of this table read rows.
void AttentionPack(const AttentionArgs& a, Range units) noexcept {
  for (int64_t unit = units.begin; unit < units.end; ++unit) {
    const int64_t group = a.group + unit / a.key_block_count, index = unit % a.key_block_count;
    const AttentionKeyBlock& block = a.key_blocks[index];
    if (block.filled == 0) {
      std::fill_n(a.blocks[index] + (group - a.group) * BlockFloats(a), BlockFloats(a), 0.0f);
    }
    for (int64_t i = 0; i < block.keys; ++i) {
      for (int64_t d = 0; d < a.width; ++d) {
        const int64_t to = block.filled + i;
        *InBlock(a, group, index, to, d, false) = KeyOf(a, a.k, block.key + i, group)[d];
        *InBlock(a, group, index, to, d, true) = KeyOf(a, a.v, block.key + i, group)[d];
      }
    }
  }
}

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
        top = std::max(top, Score(a, q, group, key));
      }
      for (int64_t key = a.lo[at.query]; key < a.hi[at.query]; ++key) {
        const float p = std::exp(Score(a, q, group, key) - top);
        sum += p;
        AddValue(a, Rounded(a, p), group, key, {0, a.width}, o);
      }
      for (int64_t d = 0; d < a.width; ++d) o[d] /= sum;
      a.lse[row] = top + std::log(sum);
    }
  }
}

void AttentionScores(const AttentionArgs& a, Range items) noexcept {
  const AttentionRowBlock& rows = a.row_blocks[0];
  for (int64_t item = items.begin; item < items.end; ++item) {
    const int64_t group = item / a.key_block_count;
    const AttentionKeyBlock& block = a.key_blocks[item % a.key_block_count];
    for (int64_t r = 0; r < rows.rows; ++r) {
      const Row at = RowOf(a, group, rows.row + r);
      const float* q = a.q + (at.query * a.heads + at.head) * a.width;
      float* scores = FewOf(a).scores + (item * rows.rows + r) * kAttentionKeys;
      for (int64_t i = 0; i < block.keys; ++i) scores[i] = Score(a, q, group, block.key + i);
    }
  }
}

void AttentionSoftmax(const AttentionArgs& a, Range items) noexcept {
  const AttentionRowBlock& rows = a.row_blocks[0];
  for (int64_t item = items.begin; item < items.end; ++item) {
    const int64_t group = item / rows.rows, r = item % rows.rows;
    const Row at = RowOf(a, group, rows.row + r);
    const auto score = [&](int64_t key) -> float& {
      const Place place = PlaceOf(a, key);
      return FewOf(a)
          .scores[((group * a.key_block_count + place.block) * rows.rows + r) * kAttentionKeys +
                  place.key];
    };
    float top = -std::numeric_limits<float>::infinity(), sum = 0;
    for (int64_t key = a.lo[at.query]; key < a.hi[at.query]; ++key) {
      top = std::max(top, score(key));
    }
    for (int64_t key = a.lo[at.query]; key < a.hi[at.query]; ++key) {
      const float p = std::exp(score(key) - top);
      sum += p;
      score(key) = Rounded(a, p);
    }
    FewOf(a).sum[item] = sum;
    a.lse[at.query * a.heads + at.head] = top + std::log(sum);
  }
}

void AttentionValues(const AttentionArgs& a, Range items) noexcept {
  const AttentionRowBlock& rows = a.row_blocks[0];
  for (int64_t item = items.begin; item < items.end; ++item) {
    const int64_t group = item / PanelCount(a), column = item % PanelCount(a) * kAttentionPanel;
    const Range columns = {column, std::min(column + kAttentionPanel, a.width)};
    for (int64_t r = 0; r < rows.rows; ++r) {
      const Row at = RowOf(a, group, rows.row + r);
      float* o = a.o + (at.query * a.heads + at.head) * a.width;
      for (int64_t d = columns.begin; d < columns.end; ++d) o[d] = 0;
      for (int64_t key = a.lo[at.query]; key < a.hi[at.query]; ++key) {
        const Place place = PlaceOf(a, key);
        const int64_t score =
            ((group * a.key_block_count + place.block) * rows.rows + r) * kAttentionKeys +
            place.key;
        AddValue(a, FewOf(a).scores[score], group, key, columns, o);
      }
      for (int64_t d = columns.begin; d < columns.end; ++d)
        o[d] /= FewOf(a).sum[group * rows.rows + r];
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
    if (block.key_block >= block.key_end) continue;
    const AttentionKeyBlock& last = a.key_blocks[block.key_end - 1];
    const int64_t begin = a.key_blocks[block.key_block].key, end = last.key + last.keys;
    for (int64_t r = block.row; r < block.row + block.rows; ++r) {
      const Row at = RowOf(a, group, r);
      const int64_t row = at.query * a.heads + at.head;
      for (int64_t key = std::max<int64_t>(begin, a.lo[at.query]);
           key < std::min<int64_t>(end, a.hi[at.query]); ++key) {
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
