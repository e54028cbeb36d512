// The GGUF reader on mutated files: every input is read or refused with an Error, nothing else
// happens.
#include <gtest/gtest.h>

#include <cstdio>
#include <cstring>
#include <memory>

#include "autograd/base/error.h"
#include "quant/gguf.h"
#include "tests/fuzz/mutate.h"
#include "tests/quant/temp_folder.h"

namespace lapidary {
namespace {

std::string Valid() {
  const TempFolder folder;
  const GgufKeys keys = {{"general.architecture", GgufValue::String("gemma4")},
                         {"a.count", GgufValue::U32(3)},
                         {"a.kv", GgufValue::I32s({2, 2, 1})},
                         {"a.pattern", GgufValue::Bools({1, 0, 1})},
                         {"a.eps", GgufValue::F32(1e-6)},
                         {"a.big", {GgufType::kU64, false, {1}, {}, {}}},
                         {"a.tokens", GgufValue::Strings({"<pad>", "", "b"})},
                         {"a.means", GgufValue::F32s({0, 1, 2})}};
  GgufWriter writer(folder / "x.gguf", keys,
                    {{"n", "F32", {3}},
                     {"w", "Q4_0", {2, 32}},
                     {"p", "BF16", {2, 3, 4}},
                     {"e", "Q6_K", {1, 256}},
                     {"s", "F32", {1}}});
  const std::string data(12 + 36 + 48 + 210 + 4, '\x3c');
  writer.Append(data.data(), data.size());
  writer.Commit();
  return ReadFile(folder / "x.gguf");
}

bool Read(const std::string& bytes) {
  const std::unique_ptr<uint8_t[]> exact(new uint8_t[bytes.size() + (bytes.empty() ? 1 : 0)]);
  std::memcpy(exact.get(), bytes.data(), bytes.size());
  try {
    const GgufFile file = GgufFile::Parse(exact.get(), bytes.size(), "fuzz");
    for (const StoredTensor& tensor : file.tensors().tensors()) {
      uint64_t sum = 0;
      for (uint64_t i = 0; i < tensor.bytes; ++i) sum += tensor.data[i];
      EXPECT_LE(sum, tensor.bytes * 255);
      if (tensor.format) {
        EXPECT_EQ(static_cast<int64_t>(tensor.ReadAll().size()), tensor.elements());
      }
    }
    return true;
  } catch (const Error&) {
    return false;
  }
}

// The zeros after the last tensor may be missing; every other cut is refused.
TEST(GgufFuzz, EveryTruncationIsRefused) {
  const std::string valid = Valid();
  ASSERT_TRUE(Read(valid));
  for (size_t n = 0; n + 28 < valid.size(); ++n)
    EXPECT_FALSE(Read(valid.substr(0, n))) << n << " bytes";
}

TEST(GgufFuzz, Mutations) {
  const std::string valid = Valid();
  const int64_t iterations = fuzz::Iterations();
  int64_t accepted = 0;
  for (int64_t i = 0; i < iterations; ++i) {
    SCOPED_TRACE(i);
    accepted += Read(fuzz::Mutator(3, static_cast<uint64_t>(i))(valid, 600));
  }
  std::printf("%ld mutated files, %ld still valid\n", static_cast<long>(iterations),
              static_cast<long>(accepted));
  EXPECT_LT(accepted, iterations);
}

}  // namespace
}  // namespace lapidary
