// The cache of keys and values against attention over the whole document: the same bits, however
// the document is cut, on any number of threads, with a window and without.
#include "autograd/ops/attention_cache.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "tests/autograd/run_op.h"
#include "tests/check.h"

namespace lapidary {
namespace {

using check::SameBits;

struct Geometry {
  int64_t heads, groups, width;
};

AttentionSpans Causal(int32_t tokens, int32_t window) {
  AttentionSpans s;
  for (int32_t n = 0; n < tokens; ++n) {
    s.lo.push_back(std::max(0, n + 1 - window));
    s.hi.push_back(n + 1);
    s.begin.push_back(0);
  }
  return s;
}

Tensor Rows(const Tensor& t, int64_t begin, int64_t end) {
  Shape shape = t.shape();
  const int64_t row = t.size() / shape.dims[0];
  shape.dims[0] = end - begin;
  return Tensor::FromFloats(shape, t.data() + begin * row);
}

// The document through a cache, `step` tokens at a time.
std::vector<float> Cached(const std::vector<Tensor>& in, const AttentionSpans& spans,
                          int64_t step) {
  AttentionCache cache;
  std::vector<float> all;
  const int64_t tokens = in[0].shape()[0];
  for (int64_t n = 0; n < tokens; n += step) {
    const int64_t end = std::min(n + step, tokens);
    const AttentionSpans part = {{spans.lo.begin() + n, spans.lo.begin() + end},
                                 {spans.hi.begin() + n, spans.hi.begin() + end},
                                 {spans.begin.begin() + n, spans.begin.begin() + end}};
    cache.Forget(part.lo[0]);
    cache.Append(Rows(in[1], n, end), Rows(in[2], n, end));
    const Tensor o = cache.Attend(Rows(in[0], n, end), part, 0.3f);
    all.insert(all.end(), o.data(), o.data() + o.size());
  }
  return all;
}

class AttentionCacheOnIsa : public EveryIsa {};
LAPIDARY_ON_EVERY_ISA(AttentionCacheOnIsa);

TEST_P(AttentionCacheOnIsa, HasTheBitsOfTheWholeDocument) {
  constexpr int32_t kTokens = 200;
  for (const Geometry& g : {Geometry{4, 2, 40}, Geometry{2, 2, 64}, Geometry{16, 1, 136}}) {
    const std::vector<Tensor> in = {NormalTensor({kTokens, g.heads, g.width}, 1),
                                    NormalTensor({kTokens, g.groups, g.width}, 2),
                                    NormalTensor({kTokens, g.groups, g.width}, 3)};
    for (const int32_t window : {70, 1000}) {
      const AttentionSpans spans = Causal(kTokens, window);
      Tape tape(Tape::Mode::kNoGrad);
      const Var whole = Attention(tape.Constant(in[0]), tape.Constant(in[1]), tape.Constant(in[2]),
                                  std::make_shared<const AttentionSpans>(spans), 0.3f, false);
      const std::vector<float> want(whole.data(), whole.data() + whole.value().size());
      for (const int threads : {1, 3}) {
        const WithThreads with(threads);
        for (const int64_t step : {1, 7, 64, 200}) {
          EXPECT_TRUE(SameBits(Cached(in, spans, step), want))
              << g.heads << "/" << g.groups << " x " << g.width << ", window " << window
              << ", step " << step << ", " << threads << " threads";
        }
      }
    }
  }
}

TEST(AttentionCache, ForgetsWholeBlocksAndReusesThem) {
  AttentionCache cache;
  int64_t most = 0;
  for (int n = 0; n < 400; ++n) {
    cache.Forget(n - 99);
    cache.Append(NormalTensor({1, 2, 8}, 1), NormalTensor({1, 2, 8}, 2));
    EXPECT_EQ(cache.length(), n + 1);
    EXPECT_EQ(cache.first() % 64, 0);
    EXPECT_LE(cache.first(), std::max(0, n - 99));
    EXPECT_GT(cache.first(), n - 99 - 64);
    most = std::max(most, cache.bytes());
  }
  // 100 visible keys lie in three blocks at most; keys and values, rows of 8 padded to 16.
  EXPECT_EQ(most, 3 * 2 * 64 * 2 * 16 * 4);
  cache.Forget(5000);
  EXPECT_EQ(cache.first(), 384);
}

// A snapshot and its original go on apart; both give what one cache gives that saw the same tokens.
TEST(AttentionCache, SnapshotsGoOnApart) {
  const auto tokens = [](int64_t from, int64_t count, uint64_t seed) {
    return NormalTensor({count, 2, 8}, 100 + seed * 1000 + static_cast<uint64_t>(from));
  };
  for (const int32_t window : {70, 1000}) {
    for (const int64_t shared : {64, 100, 230}) {
      for (const int64_t cut : {0, 3, 36}) {
        const auto append = [&](AttentionCache& cache, int64_t from, int64_t count, uint64_t seed) {
          cache.Forget(from - window + 1 - 40);
          cache.Append(tokens(from, count, seed), tokens(from, count, seed + 10));
        };
        const auto attend = [&](const AttentionCache& cache) {
          const auto end = static_cast<int32_t>(cache.length());
          const Tensor o = cache.Attend(NormalTensor({1, 4, 8}, 3),
                                        {{std::max(0, end - window)}, {end}, {0}}, 0.5f);
          return std::vector<float>(o.data(), o.data() + o.size());
        };
        AttentionCache one, left, right;
        for (AttentionCache* cache : {&one, &left, &right}) append(*cache, 0, shared - cut, 1);
        append(one, shared - cut, cut, 1);
        AttentionCache two = one.Snapshot();
        for (int64_t n = shared; n < shared + 200; n += 50) append(one, n, 50, 2);
        two.Truncate(shared - cut);
        for (int64_t n = shared - cut; n < shared + 150; n += 25) append(two, n, 25, 3);
        if (cut > 0) append(left, shared - cut, cut, 1);
        for (int64_t n = shared; n < shared + 200; n += 50) append(left, n, 50, 2);
        for (int64_t n = shared - cut; n < shared + 150; n += 25) append(right, n, 25, 3);
        EXPECT_TRUE(SameBits(attend(one), attend(left))) << window << " " << shared << " " << cut;
        EXPECT_TRUE(SameBits(attend(two), attend(right))) << window << " " << shared << " " << cut;
      }
    }
  }
}

std::string CacheError(const Shape& k, const AttentionSpans& spans, int64_t forget) {
  AttentionCache cache;
  try {
    cache.Append(NormalTensor({130, 2, 8}, 1), NormalTensor({130, 2, 8}, 2));
    cache.Append(NormalTensor(k, 1), NormalTensor(k, 2));
    cache.Forget(forget);
    cache.Attend(NormalTensor({1, 4, 8}, 3), spans, 1.0f);
  } catch (const Error& e) {
    return e.what();
  }
  return "no error";
}

TEST(AttentionCache, ErrorsSayWhatIsWrong) {
  const AttentionSpans good = {{64}, {131}, {0}};
  EXPECT_EQ(CacheError({1, 2, 8}, good, 70), "no error");
  EXPECT_EQ(CacheError({1, 1, 8}, good, 0),
            "attention cache: keys must be [n, 2, 8]; got [1, 1, 8]");
  EXPECT_EQ(CacheError({1, 2, 8}, {{64}, {132}, {0}}, 0),
            "attention: spans must satisfy 0 <= begin <= lo < hi <= 131; got begin 0, lo 64, hi "
            "132 for query 0");
  EXPECT_EQ(CacheError({1, 2, 8}, {{63}, {131}, {0}}, 70),
            "attention cache: spans must count from the start of the document and begin at 64 or "
            "later; got begin 0, lo 63");
  EXPECT_EQ(CacheError({1, 2, 8}, {{64}, {131}, {64}}, 70),
            "attention cache: spans must count from the start of the document and begin at 64 or "
            "later; got begin 64, lo 64");
}

}  // namespace
}  // namespace lapidary
