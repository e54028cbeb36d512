// Thread counts and checkpoints do not show: the same bits on every instruction set, for every op
// that splits its work.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <thread>

#include "autograd/base/error.h"
#include "autograd/base/parallel.h"
#include "autograd/checkpoint.h"
#include "autograd/ops/activation.h"
#include "autograd/ops/attention.h"
#include "autograd/ops/basic.h"
#include "autograd/ops/embedding.h"
#include "autograd/ops/loss.h"
#include "autograd/ops/matmul.h"
#include "autograd/ops/norm.h"
#include "autograd/ops/rope.h"
#include "tests/autograd/run_op.h"
#include "tests/check.h"

namespace lapidary {
namespace {

using check::SameBits;
using Vars = std::vector<Var>;

// 301 x 139 elements: above the grain of elementwise ops for three threads, and prime.
constexpr int64_t kRows = 401, kCols = 139;

struct ThreadCase {
  const char* name;
  std::vector<Shape> in;
  OpFunction op;
};

const std::vector<ThreadCase>& Cases() {
  static std::vector<int64_t> indices, rows;
  static std::vector<int32_t> ids, positions;
  static std::vector<float> inv_freq, weights;
  if (ids.empty()) {
    for (int32_t n = 0; n < kRows; ++n) {
      indices.push_back(n * 5);
      ids.push_back(n * n % 97);
      positions.push_back(n);
      weights.push_back(n % 3 ? 1.0f : 0.0f);
      if (n % 2) rows.push_back(n);
    }
    for (int i = 0; i < 11; ++i) inv_freq.push_back(1.0f / static_cast<float>(i + 1));
  }
  static const std::vector<ThreadCase> cases = {
      {"add",
       {{kRows, kCols}, {kRows, kCols}},
       [](Tape&, const Vars& v) { return Add(v[0], v[1]); }},
      {"scale", {{kRows, kCols}}, [](Tape&, const Vars& v) { return Scale(v[0], 0.3f); }},
      {"add_bias",
       {{kRows, kCols}, {kCols}},
       [](Tape&, const Vars& v) { return AddBias(v[0], v[1]); }},
      {"scale_columns",
       {{kRows, kCols}, {kCols}},
       [](Tape&, const Vars& v) { return ScaleColumns(v[0], v[1], NormalTensor({kCols}, 5)); }},
      {"round_bf16", {{kRows, kCols}}, [](Tape&, const Vars& v) { return RoundBf16(v[0]); }},
      {"dropout",
       {{kRows, kCols}},
       [](Tape&, const Vars& v) {
         return Dropout(v[0], 0.2f, {1, 2, 3}, indices);
       }},
      {"geglu",
       {{kRows, kCols}, {kRows, kCols}},
       [](Tape&, const Vars& v) { return GeGlu(v[0], v[1]); }},
      {"rms_norm",
       {{kRows, kCols}, {kCols}},
       [](Tape&, const Vars& v) { return RmsNorm(v[0], v[1], 1e-6f); }},
      {"layer_norm",
       {{kRows, kCols}, {kCols}, {kCols}},
       [](Tape&, const Vars& v) { return LayerNorm(v[0], v[1], v[2], 1e-6f); }},
      {"rope",
       {{kRows, 5, 22}},
       [](Tape&, const Vars& v) { return Rope(v[0], positions, inv_freq); }},
      {"embedding",
       {{97, kCols}},
       [](Tape&, const Vars& v) { return Embedding(v[0], ids, 3.0f, 0); }},
      {"replace_rows",
       {{kRows, kCols}, {kRows / 2, kCols}},
       [](Tape&, const Vars& v) { return ReplaceRows(v[0], v[1], rows); }},
      {"position_embedding",
       {{97, 2, kCols}},
       [](Tape&, const Vars& v) {
         return PositionEmbedding(v[0], {ids.begin(), ids.end() - 1}, true);
       }},
      {"matmul",
       {{kRows, kCols}, {77, kCols}},
       [](Tape&, const Vars& v) { return MatMul(v[0], v[1], Compute::kFloat32); }},
      {"matmul, bf16",
       {{kRows, kCols}, {77, kCols}},
       [](Tape&, const Vars& v) { return MatMul(v[0], v[1], Compute::kBfloat16); }},
      {"cross_entropy",
       {{kRows, 20}, {97, 20}},
       [](Tape&, const Vars& v) { return CrossEntropy(v[0], v[1], ids, weights, {}, nullptr); }},
  };
  return cases;
}

class ThreadBits : public EveryIsa {};
LAPIDARY_ON_EVERY_ISA(ThreadBits);

testing::AssertionResult SameResults(const OpResult& got, const OpResult& want) {
  testing::AssertionResult same = SameBits(got.y, want.y);
  if (!same) return same << " in the value";
  for (size_t i = 0; i < want.grad.size(); ++i) {
    same = SameBits(got.grad[i], want.grad[i]);
    if (!same) return same << " in gradient " << i;
  }
  return same;
}

OpResult RunCase(const ThreadCase& c, const OpFunction& op) {
  std::vector<Tensor> in;
  for (size_t i = 0; i < c.in.size(); ++i) in.push_back(NormalTensor(c.in[i], 50 + i));
  return RunOp(op, in);
}

TEST_P(ThreadBits, OneTwoAndThreeThreadsAgree) {
  for (const ThreadCase& c : Cases()) {
    OpResult first;
    for (const int threads : {1, 2, 3}) {
      const WithThreads with(threads);
      const OpResult got = RunCase(c, c.op);
      if (threads == 1) {
        first = got;
      } else {
        EXPECT_TRUE(SameResults(got, first)) << c.name << ", " << threads << " threads";
      }
    }
  }
}

// A sum that threads share instead of owning its parts must be seen.
struct SharedSumOp {
  static constexpr const char* kName = "shared_sum";
  int64_t size;
  void Backward(const float* dy, const InputGrads& d) const {
    float* dx = d[0];
    for (int64_t i = 0; i < size; ++i) dx[i] += dy[0];
  }
};
TEST(ThreadBitsCheck, CatchesASumThatIsShared) {
  const ThreadCase shared = {"shared", {{kRows, kCols}}, [](Tape& tape, const Vars& v) {
                               const float* x = v[0].data();
                               const int64_t size = v[0].value().size();
                               std::vector<float> parts(static_cast<size_t>(Threads()));
                               for (int t = 0; t < Threads(); ++t) {
                                 for (int64_t i = size * t / Threads();
                                      i < size * (t + 1) / Threads(); ++i) {
                                   parts[t] += x[i];
                                 }
                               }
                               Tensor y{Shape{}};
                               y.Fill(0.0f);
                               for (const float part : parts) y.data()[0] += part;
                               return tape.Record(SharedSumOp{size}, {v[0]}, y);
                             }};
  OpResult first;
  {
    const WithThreads with(1);
    first = RunCase(shared, shared.op);
  }
  const WithThreads with(3);
  EXPECT_FALSE(SameResults(RunCase(shared, shared.op), first));
}

// Far more threads than cores: every index is visited once, exceptions arrive, and a loop does not
// wait for threads that the system does not run (that took milliseconds each).
TEST(Pool, ManyThreads) {
  const WithThreads with(24);
  std::vector<int> visits(1000, 0);
  for (int loop = 0; loop < 2000; ++loop) {
    ParallelFor(1000, [&](Range r) {
      for (int64_t i = r.begin; i < r.end; ++i) ++visits[static_cast<size_t>(i)];
    });
  }
  EXPECT_EQ(std::count(visits.begin(), visits.end(), 2000), 1000);
  EXPECT_THROW(ParallelFor(1000, [](Range r) { LAPIDARY_CHECK(r.begin > 0, "pool: first"); }),
               Error);
  std::vector<std::atomic<int>> claimed(500);
  ParallelForDynamic(500, [&](int64_t i, int thread) {
    EXPECT_TRUE(thread >= 0 && thread < 24);
    ++claimed[static_cast<size_t>(i)];
  });
  for (const std::atomic<int>& c : claimed) EXPECT_EQ(c, 1);
}

TEST_P(ThreadBits, CheckpointsDoNotShow) {
  for (const ThreadCase& c : Cases()) {
    const OpResult kept = RunCase(c, c.op);
    const OpResult again = RunCase(c, [&](Tape& tape, const Vars& v) {
      return Checkpoint(tape,
                        [&](Tape& inner, std::span<const Var> in) {
                          return c.op(inner, Vars(in.begin(), in.end()));
                        },
                        v, {}, {});
    });
    EXPECT_TRUE(SameResults(again, kept)) << c.name;
  }
}

// Every item once, in order within a run, whoever is slow; the first error arrives.
TEST(ParallelForRuns, EveryItemOnce) {
  for (const int threads : {1, 2, 5}) {
    SetThreads(threads);
    for (const int64_t n : {0, 1, 2, 4, 7, 1000}) {
      for (const int64_t slow : {int64_t{0}, n - 1}) {
        std::vector<std::atomic<int>> times(static_cast<size_t>(n));
        ParallelForRuns(n, [&](int64_t i) {
          if (i == slow) std::this_thread::sleep_for(std::chrono::milliseconds(3));
          ++times[static_cast<size_t>(i)];
        });
        EXPECT_TRUE(std::all_of(times.begin(), times.end(), [](const auto& t) { return t == 1; }))
            << threads << " threads, " << n << " items";
      }
    }
    EXPECT_THROW(ParallelForRuns(9, [](int64_t i) { LAPIDARY_CHECK(i != 4, "item four"); }), Error);
    EXPECT_THROW(ParallelForRuns((int64_t{1} << 31) + 1, [](int64_t) {}), Error);
  }
  SetThreads(2);
}

}  // namespace
}  // namespace lapidary
