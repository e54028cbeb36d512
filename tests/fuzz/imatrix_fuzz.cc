// Importance matrices, both kinds, as mutated files: every input is read, with weights that a
// quantizer can take, or refused with an Error.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>
#include <cstring>
#include <memory>

#include "autograd/base/error.h"
#include "autograd/base/file.h"
#include "quant/imatrix.h"
#include "tests/fuzz/mutate.h"
#include "tests/quant/temp_folder.h"

namespace lapidary {
namespace {

std::string Valid(const char* name) {
  const TempFolder folder;
  ImportanceMatrix matrix;
  matrix.entries["blk.0.attn_q.weight"] = {{0, 1.5f, 6, 2}, {3}};
  matrix.entries["blk.0.ffn_down.weight"] = {{1, 2, 3, 4, 5, 6}, {2, 5}};
  matrix.datasets = {"calibration.txt"};
  matrix.chunk_count = 2;
  matrix.chunk_size = 4;
  WriteImportanceMatrix(matrix, folder / name);
  return ReadFile(folder / name);
}

bool Read(const std::string& bytes) {
  const std::unique_ptr<uint8_t[]> exact(new uint8_t[bytes.size() + (bytes.empty() ? 1 : 0)]);
  std::memcpy(exact.get(), bytes.data(), bytes.size());
  try {
    const ImportanceMatrix matrix = ParseImportanceMatrix(exact.get(), bytes.size(), "fuzz");
    EXPECT_FALSE(matrix.entries.empty());
    for (const auto& [name, entry] : matrix.entries) {
      const std::vector<float> means = matrix.Means(name);
      EXPECT_EQ(means.size(), entry.sums.size());
      for (const float mean : means) EXPECT_TRUE(std::isfinite(mean) && mean >= 0) << mean;
    }
    return true;
  } catch (const Error&) {
    return false;
  }
}

void Mutations(const char* name, uint64_t head) {
  const std::string valid = Valid(name);
  ASSERT_TRUE(Read(valid));
  const int64_t iterations = fuzz::Iterations();
  int64_t accepted = 0;
  for (int64_t i = 0; i < iterations; ++i) {
    SCOPED_TRACE(i);
    accepted += Read(fuzz::Mutator(11, static_cast<uint64_t>(i))(valid, head));
  }
  std::printf("%s: %ld mutated files, %ld still valid\n", name, static_cast<long>(iterations),
              static_cast<long>(accepted));
  EXPECT_LT(accepted, iterations);
}

TEST(ImatrixFuzz, Gguf) { Mutations("x.gguf", 500); }
TEST(ImatrixFuzz, Legacy) { Mutations("x.dat", 60); }

// Old legacy files may end behind the matrices or behind the number of chunks; every other cut is
// refused.
TEST(ImatrixFuzz, EveryTruncationIsRefused) {
  const std::string valid = Valid("x.dat");
  const size_t tail = 4 + 4 + std::strlen("calibration.txt");
  for (size_t n = 0; n < valid.size(); ++n) {
    const bool whole = n + tail == valid.size() || n + tail - 4 == valid.size();
    EXPECT_EQ(Read(valid.substr(0, n)), whole) << n << " bytes";
  }
}

}  // namespace
}  // namespace lapidary
