// The safetensors reader and the adapter configuration on mutated files: every input is read or
// refused with an Error, nothing else happens. Copies are exact-size heap blocks, so that
// AddressSanitizer sees the first byte read outside.
#include <gtest/gtest.h>

#include <cstdio>
#include <cstring>
#include <memory>

#include "autograd/base/error.h"
#include "quant/adapter.h"
#include "quant/safetensors.h"
#include "tests/fuzz/mutate.h"
#include "tests/quant/temp_folder.h"

namespace lapidary {
namespace {

std::string Valid() {
  const TempFolder folder;
  SafetensorsWriter writer(folder / "x.safetensors", {{"w", "BF16", {3, 4}},
                                                      {"v", "F32", {5}},
                                                      {"i", "I64", {2}},
                                                      {"e", "F16", {0, 3}},
                                                      {"s", "F64", {}}});
  const std::string data(24 + 20 + 16 + 8, '\x3c');
  writer.Append(data.data(), data.size());
  writer.Commit();
  return ReadFile(folder / "x.safetensors");
}

// True if it was read; reads every value of it then.
bool Read(const std::string& bytes) {
  const std::unique_ptr<uint8_t[]> exact(new uint8_t[bytes.size() + (bytes.empty() ? 1 : 0)]);
  std::memcpy(exact.get(), bytes.data(), bytes.size());
  try {
    const SafetensorsFile file = SafetensorsFile::Parse(exact.get(), bytes.size(), "fuzz");
    for (const StoredTensor& tensor : file.tensors()) {
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

TEST(SafetensorsFuzz, EveryTruncationIsRefused) {
  const std::string valid = Valid();
  ASSERT_TRUE(Read(valid));
  for (size_t n = 0; n < valid.size(); ++n) EXPECT_FALSE(Read(valid.substr(0, n))) << n << " bytes";
  EXPECT_FALSE(Read(valid + '\0'));
}

TEST(SafetensorsFuzz, Mutations) {
  const std::string valid = Valid();
  const int64_t iterations = fuzz::Iterations();
  int64_t accepted = 0;
  for (int64_t i = 0; i < iterations; ++i) {
    SCOPED_TRACE(i);
    accepted += Read(fuzz::Mutator(1, static_cast<uint64_t>(i))(valid, 320));
  }
  std::printf("%ld mutated files, %ld still valid\n", static_cast<long>(iterations),
              static_cast<long>(accepted));
  EXPECT_LT(accepted, iterations);
}

TEST(AdapterConfigFuzz, Mutations) {
  AdapterConfig config;
  config.target_modules = {true, {".*\\.(q|k)_proj"}};
  config.modules_to_save = {"embed_vision.embedding_projection"};
  config.rank_pattern = {{"layers\\.[0-3]\\..*", 4}, {"mlp", 2}};
  config.alpha_pattern = {{"self_attn.q_proj", 3.5}};
  const std::string valid = AdapterConfigText(config);
  EXPECT_EQ(ParseAdapterConfig(valid, "valid"), config);
  const int64_t iterations = fuzz::Iterations();
  int64_t accepted = 0;
  for (int64_t i = 0; i < iterations; ++i) {
    SCOPED_TRACE(i);
    const std::string text = fuzz::Mutator(2, static_cast<uint64_t>(i))(valid, valid.size());
    try {
      const AdapterConfig parsed = ParseAdapterConfig(text, "fuzz");
      EXPECT_GE(AdapterRank(parsed, "model.language_model.layers.1.self_attn.q_proj"), 1);
      AdapterScale(parsed, "model.language_model.layers.1.mlp.gate_proj");
      ++accepted;
    } catch (const Error&) {
    }
  }
  std::printf("%ld mutated configurations, %ld still valid\n", static_cast<long>(iterations),
              static_cast<long>(accepted));
  EXPECT_LT(accepted, iterations);
}

}  // namespace
}  // namespace lapidary
