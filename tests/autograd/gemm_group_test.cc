// Products of a group with fused low-rank terms: bit for bit what the products of gemm.h give one
// after the other, on every instruction set, for any number of threads, and for tokens in runs.
#include "autograd/gemm_group.h"

#include <gtest/gtest.h>

#include <cstring>
#include <string>
#include <tuple>

#include "autograd/base/error.h"
#include "autograd/base/parallel.h"
#include "tests/autograd/gemm_check.h"
#include "tests/autograd/table_test.h"

namespace lapidary {
namespace {

struct PartSize {
  int64_t o, rank;
  float scale;
};
struct GroupCase {
  int64_t n, i;
  std::vector<PartSize> parts;
};
// q, k and v, one of them without adapter; one linear; ranks beyond a tile and beyond a chunk of
// the inner dimension (512); inner dimensions that end a chunk and that do not.
const GroupCase kCases[] = {{70, 300, {{97, 16, 2.0f}, {33, 0, 1.0f}, {64, 5, 0.7f}}},
                            {192, 512, {{160, 8, 1.0f}, {130, 8, 1.5f}}},
                            {130, 90, {{40, 33, 0.3f}}},
                            {65, 64, {{72, 600, 1.75f}, {20, 3, 1.0f}}},
                            {3, 1030, {{50, 4, 2.0f}, {48, 4, 2.0f}}},
                            {1, 256, {{40, 2, 0.5f}}},
                            {5, 1056, {{64, 16, 2.0f}, {48, 0, 1.0f}, {32, 600, 0.5f}}},
                            {20, 33, {{17, 0, 1.0f}}}};

struct Results {
  std::vector<std::vector<float>> y, da, db;
  std::vector<float> z, dx;
  bool operator==(const Results& other) const {
    const auto same = [](const std::vector<float>& a, const std::vector<float>& b) {
      return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * 4) == 0;
    };
    for (size_t j = 0; j < y.size(); ++j) {
      if (!same(y[j], other.y[j]) || !same(da[j], other.da[j]) || !same(db[j], other.db[j]))
        return false;
    }
    return same(z, other.z) && same(dx, other.dx);
  }
};

class GemmGroupTest : public TableTest {
 protected:
  struct Data {
    GroupCase c;
    std::vector<float> x;
    std::vector<std::vector<float>> w, a, b, dy;
    std::vector<std::vector<uint16_t>> bf16;
    std::vector<GroupPart> parts;
    int64_t rank = 0;

    explicit Data(const GroupCase& g) : c(g), x(Values(g.n * g.i, 1)) {
      for (size_t j = 0; j < c.parts.size(); ++j) {
        const auto [o, r, s] = c.parts[j];
        const uint32_t seed = 10 * static_cast<uint32_t>(j);
        w.push_back(Values(o * c.i, seed + 2));
        a.push_back(Values(r * c.i, seed + 3));
        b.push_back(Values(o * r, seed + 4));
        dy.push_back(Values(c.n * o, seed + 5));
        bf16.emplace_back();
        for (float v : w.back()) bf16.back().push_back(Bf16FromF32(v));
        rank += r;
      }
      for (size_t j = 0; j < c.parts.size(); ++j) {
        const auto [o, r, s] = c.parts[j];
        // Weights of two formats side by side.
        const WeightView view =
            j % 2 ? F32View(w[j].data(), o, c.i) : Bf16View(bf16[j].data(), o, c.i);
        parts.push_back({view, a[j].data(), b[j].data(), r, s});
      }
    }
  };

  // Everything in runs of `run` tokens, gradients starting from `start`.
  Results Fused(const Data& d, int64_t run, bool add, bool with_dx = true) const {
    Results r = Empty(d);
    for (int64_t first = 0; first < d.c.n; first += run) {
      const int64_t n = std::min(run, d.c.n - first);
      std::vector<float*> y;
      std::vector<GroupPartGrads> grads;
      const bool more = add || first > 0;
      for (size_t j = 0; j < d.parts.size(); ++j) {
        const int64_t o = d.c.parts[j].o;
        y.push_back(r.y[j].data() + first * o);
        grads.push_back(
            {d.dy[j].data() + first * o, {r.da[j].data(), more}, {r.db[j].data(), more}});
      }
      const float* x = d.x.data() + first * d.c.i;
      float* z = r.z.data() + first * d.rank;
      GemmGroupForward(x, n, d.parts, y, z, compute_);
      GemmGroupGrad(x, z, n, d.parts, grads, {with_dx ? r.dx.data() + first * d.c.i : nullptr, add},
                    compute_);
    }
    return r;
  }

  Results Empty(const Data& d) const {
    Results r;
    r.z.assign(d.c.n * d.rank, 0.25f);
    r.dx.assign(d.c.n * d.c.i, 0.25f);
    for (const PartSize& p : d.c.parts) {
      r.y.emplace_back(d.c.n * p.o, NAN);
      r.da.emplace_back(p.rank * d.c.i, 0.25f);
      r.db.emplace_back(p.o * p.rank, 0.25f);
    }
    return r;
  }

  // The definition: products of gemm.h, one after the other.
  Results Composed(const Data& d, bool add) const {
    Results r = Empty(d);
    const int64_t n = d.c.n, i = d.c.i;
    int64_t z_at = 0;
    bool dx_add = add;
    for (size_t j = 0; j < d.parts.size(); ++j) {
      const GroupPart& p = d.parts[j];
      const int64_t o = p.w.rows, rank = p.rank;
      GemmForward(d.x.data(), n, p.w, r.y[j].data(), false, compute_);
      GemmInputGrad(d.dy[j].data(), n, p.w, r.dx.data(), dx_add, compute_);
      dx_add = true;
      if (rank == 0) continue;
      std::vector<float> z(n * rank), dz(n * rank), sz(n * rank), sb(o * rank);
      const WeightView a = F32View(p.a, rank, i), b = F32View(sb.data(), o, rank);
      for (int64_t e = 0; e < o * rank; ++e) sb[e] = p.scale * p.b[e];
      GemmForward(d.x.data(), n, a, z.data(), false, compute_);
      for (int64_t e = 0; e < n * rank; ++e) {
        sz[e] = p.scale * z[e];
        r.z[e / rank * d.rank + z_at + e % rank] = z[e];
      }
      GemmForward(z.data(), n, b, r.y[j].data(), true, compute_);
      GemmInputGrad(d.dy[j].data(), n, b, dz.data(), false, compute_);
      GemmInputGrad(dz.data(), n, a, r.dx.data(), true, compute_);
      GemmWeightGrad(dz.data(), d.x.data(), n, rank, i, r.da[j].data(), add, compute_);
      GemmWeightGrad(d.dy[j].data(), sz.data(), n, o, rank, r.db[j].data(), add, compute_);
      z_at += rank;
    }
    return r;
  }
};

TEST_P(GemmGroupTest, IsTheProductsOneAfterTheOther) {
  for (const GroupCase& c : kCases) {
    const Data d(c);
    for (bool add : {false, true}) {
      const Results want = Composed(d, add);
      for (int threads : {1, 2, 3}) {
        SetThreads(threads);
        EXPECT_TRUE(Fused(d, c.n, add) == want)
            << "n " << c.n << " i " << c.i << " threads " << threads << " add " << add;
      }
    }
  }
}

TEST_P(GemmGroupTest, RunsOfTokensGiveTheBitsOfOneCall) {
  for (const GroupCase& c : kCases) {
    const Data d(c);
    const Results want = Fused(d, c.n, false);
    for (int64_t run : {64, 128}) EXPECT_TRUE(Fused(d, run, false) == want) << c.n << " " << run;
  }
}

// The comparison sees one unit in the last place of one element of each result.
TEST_P(GemmGroupTest, ComparisonSeesOneBit) {
  const Data d(kCases[0]);
  const Results want = Fused(d, d.c.n, false);
  for (int what = 0; what < 5; ++what) {
    Results other = want;
    std::vector<float>* const all[] = {&other.y[0], &other.da[2], &other.db[2], &other.z,
                                       &other.dx};
    float& value = all[what]->back();
    value = std::nextafter(value, 100.0f);
    EXPECT_FALSE(other == want) << what;
  }
}

TEST_P(GemmGroupTest, WhatIsNotWantedIsLeftOut) {
  const Data d(kCases[0]);
  const int64_t n = d.c.n, i = d.c.i;
  const Results all = Fused(d, n, false), untouched = Empty(d);
  // Without dx: the other gradients are the same and dx is not touched.
  Results without = Fused(d, n, false, false);
  EXPECT_EQ(without.dx, untouched.dx);
  without.dx = all.dx;
  EXPECT_TRUE(without == all);
  // The third part only, without dA: its dB is the same, dx is its own.
  Results third = Empty(d);
  std::vector<GroupPartGrads> grads(3);
  grads[2].dy = d.dy[2].data();
  grads[2].db = {third.db[2].data(), false};
  GemmGroupGrad(nullptr, all.z.data(), n, d.parts, grads, {third.dx.data(), false}, compute_);
  EXPECT_EQ(third.db[2], all.db[2]);
  EXPECT_EQ(third.da[2], untouched.da[2]);
  EXPECT_EQ(third.db[0], untouched.db[0]);
  Results alone = Empty(d);
  std::vector<GroupPartGrads> own = {grads[2]};
  own[0].db = {};
  GemmGroupGrad(nullptr, nullptr, n, {&d.parts[2], 1}, own, {alone.dx.data(), false}, compute_);
  EXPECT_EQ(third.dx, alone.dx);
  // No gradient at all: dx is zeros, or what it was.
  std::vector<float> dx(n * i, 3.0f);
  const std::vector<GroupPartGrads> none(3);
  GemmGroupGrad(nullptr, nullptr, n, d.parts, none, {dx.data(), true}, compute_);
  EXPECT_EQ(dx[0], 3.0f);
  GemmGroupGrad(nullptr, nullptr, n, d.parts, none, {dx.data(), false}, compute_);
  EXPECT_EQ(dx, std::vector<float>(n * i, 0.0f));
}

INSTANTIATE_TEST_SUITE_P(All, GemmGroupTest,
                         testing::Combine(testing::ValuesIn(SupportedIsas()),
                                          testing::Values(Compute::kFloat32, Compute::kBfloat16)),
                         [](const testing::TestParamInfo<GemmGroupTest::ParamType>& info) {
                           return std::string(IsaName(std::get<0>(info.param))) + "_" +
                                  ComputeName(std::get<1>(info.param));
                         });

// Packed rows are limited to 64 MB: wide inputs with an adapter go in passes, which must not show.
TEST(GemmGroup, ManyRowsGoInPasses) {
  const int64_t n = 2300, i = 16384, o = 5, rank = 2;
  std::vector<float> x(n * i), w(o * i, 0.5f), a(rank * i, 0.25f), b(o * rank, 2.0f);
  for (int64_t e = 0; e < n * i; ++e) x[e] = static_cast<float>((e / i + e) % 3) - 1.0f;
  const GroupPart part = {F32View(w.data(), o, i), a.data(), b.data(), rank, 0.5f};
  std::vector<float> y(n * o), z(n * rank), part_y(n * o), part_z(n * rank);
  float* const whole[] = {y.data()};
  GemmGroupForward(x.data(), n, {&part, 1}, whole, z.data(), Compute::kBfloat16);
  for (int64_t row : {int64_t{0}, n / 2, n - 1}) {
    float* const one[] = {part_y.data()};
    GemmGroupForward(x.data() + row * i, 1, {&part, 1}, one, part_z.data(), Compute::kBfloat16);
    for (int64_t c = 0; c < o; ++c) EXPECT_EQ(part_y[c], y[row * o + c]) << row;
    for (int64_t c = 0; c < rank; ++c) EXPECT_EQ(part_z[c], z[row * rank + c]) << row;
  }
}

TEST(GemmGroup, SaysWhatIsWrong) {
  std::vector<float> m(64);
  float* const y[] = {m.data(), m.data()};
  const GroupPart good = {F32View(m.data(), 2, 4)};
  const GroupPart other = {F32View(m.data(), 2, 5)};
  GroupPart no_b = good;
  no_b.rank = 2;
  no_b.a = m.data();
  const Compute compute = Compute::kFloat32;
  const std::vector<GroupPart> two = {good, other};
  EXPECT_THROW(GemmGroupForward(m.data(), 1, two, y, nullptr, compute), Error);
  EXPECT_THROW(GemmGroupForward(m.data(), 1, {&good, 1}, y, nullptr, compute), Error);
  EXPECT_THROW(GemmGroupForward(m.data(), -1, {&good, 1}, {y, 1}, nullptr, compute), Error);
  EXPECT_THROW(GemmGroupForward(m.data(), 1, {&no_b, 1}, {y, 1}, m.data(), compute), Error);
  GroupPart low = no_b;
  low.b = m.data();
  EXPECT_THROW(GemmGroupForward(m.data(), 1, {&low, 1}, {y, 1}, nullptr, compute), Error);
  const GroupPartGrads grads = {m.data(), {m.data(), false}, {m.data(), false}};
  EXPECT_THROW(GemmGroupGrad(nullptr, m.data(), 1, {&low, 1}, {&grads, 1}, {}, compute), Error);
  EXPECT_THROW(GemmGroupGrad(m.data(), nullptr, 1, {&low, 1}, {&grads, 1}, {}, compute), Error);
}

}  // namespace
}  // namespace lapidary
