// Importance matrices: files of llama.cpp and ours, what is refused; and quantizing with one,
// against ggml's bytes.
#include "quant/imatrix.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>
#include <cstring>

#include "autograd/base/error.h"
#include "autograd/base/file.h"
#include "autograd/base/parallel.h"
#include "autograd/base/random.h"
#include "autograd/kernels/isa.h"
#include "quant/format.h"
#include "quant/gguf.h"
#include "quant/safetensors.h"
#include "tests/golden.h"
#include "tests/message_of.h"
#include "tests/quant/temp_folder.h"

namespace lapidary {
namespace {

std::vector<const Format*> WeightedFormats() {
  std::vector<const Format*> formats;
  for (const Format* format : AllFormats()) {
    if (format->quantize_weighted) formats.push_back(format);
  }
  return formats;
}

// ---- quantizing

TEST(ImatrixGolden, BlocksAreGgmls) {
  int cases = 0;
  for (const std::string& path : golden::Find("imatrix/blocks.safetensors")) {
    const TensorSet set = OpenCheckpoint(path);
    for (const StoredTensor& input : set.tensors()) {
      if (!input.name.ends_with(".input")) continue;
      const std::string name = input.name.substr(0, input.name.size() - 6);
      const std::vector<float> values = input.ReadAll();
      const std::vector<float> importance = set.Get(name + ".importance").ReadAll();
      for (const Format* format : WeightedFormats()) {
        const StoredTensor& want = set.Get(StrCat(name, ".", format->name));
        for (const Isa isa : {Isa::kScalar, SupportedIsas().front()}) {
          SetIsa(isa);
          std::vector<uint8_t> ours(want.bytes);
          ASSERT_EQ(FormatBytes(*format, input.cols()) * input.rows(),
                    static_cast<int64_t>(ours.size()));
          QuantizeRowsWeighted(*format, values.data(), importance.data(), input.rows(),
                               input.cols(), ours.data());
          int64_t wrong = 0;
          for (size_t i = 0; i < ours.size(); ++i) wrong += ours[i] != want.data[i];
          EXPECT_EQ(wrong, 0) << path << " " << name << " " << format->name;
          ++cases;
        }
      }
    }
  }
  std::printf("%d cases\n", cases);
  EXPECT_GT(cases, 0) << "no case of golden/imatrix ran";
}

TEST(Weighted, WhichFormatsTakeHeed) {
  std::string names;
  for (const Format* format : WeightedFormats()) names += StrCat(" ", format->name);
  EXPECT_EQ(names, " Q4_0 Q4_1 Q5_0 Q5_1 Q2_K Q3_K Q4_K Q5_K Q6_K IQ4_NL IQ4_XS");
}

// The rest is quantized as without.
TEST(Weighted, OthersIgnoreIt) {
  const std::vector<float> x(256, 0.5f), importance(256, 2.0f);
  for (const char* name : {"Q8_0", "MXFP4", "BF16"}) {
    const Format& format = GetFormat(name);
    std::vector<uint8_t> with(static_cast<size_t>(FormatBytes(format, 256))), without(with.size());
    QuantizeRowsWeighted(format, x.data(), importance.data(), 1, 256, with.data());
    QuantizeRows(format, GetScaleRule(format), x.data(), 1, 256, without.data());
    EXPECT_EQ(with, without) << name;
  }
}

// What it is for: errors in columns that matter become smaller, and no thread count changes bytes.
TEST(Weighted, LowersTheWeightedError) {
  constexpr int64_t kRows = 64, kCols = 512;
  std::vector<float> x(kRows * kCols), importance(kCols);
  for (size_t i = 0; i < x.size(); ++i) x[i] = 0.02f * RandomNormal({7, 0, 0}, i);
  for (size_t i = 0; i < importance.size(); ++i)
    importance[i] = std::exp(3 * RandomNormal({8, 0, 0}, i));
  const int before = Threads();
  for (const Format* format : WeightedFormats()) {
    const auto error = [&](const std::vector<uint8_t>& bytes) {
      std::vector<float> y(x.size());
      DequantizeRows(*format, bytes.data(), kRows, kCols, y.data());
      double sum = 0;
      for (size_t i = 0; i < x.size(); ++i) {
        const double e = static_cast<double>(y[i]) - static_cast<double>(x[i]);
        sum += static_cast<double>(importance[i % kCols]) * e * e;
      }
      return sum;
    };
    std::vector<uint8_t> plain(static_cast<size_t>(FormatBytes(*format, kCols) * kRows)),
        weighted(plain.size()), again(plain.size());
    QuantizeRows(*format, GetScaleRule(*format), x.data(), kRows, kCols, plain.data());
    SetThreads(1);
    QuantizeRowsWeighted(*format, x.data(), importance.data(), kRows, kCols, weighted.data());
    SetThreads(3);
    QuantizeRowsWeighted(*format, x.data(), importance.data(), kRows, kCols, again.data());
    SetThreads(before);
    EXPECT_EQ(weighted, again) << format->name;
    const double share = error(weighted) / error(plain);
    std::printf("%s: weighted error %.3f of that without an importance matrix\n", format->name,
                share);
    EXPECT_LT(share, 0.95) << format->name;
  }
}

// ---- files

ImportanceMatrix Small() {
  ImportanceMatrix matrix;
  matrix.entries["blk.0.attn_q.weight"] = {{0, 1.5f, 6}, {3}};
  matrix.entries["blk.0.experts.weight"] = {{1, 2, 3, 4}, {2, 0}};
  matrix.datasets = {"a.txt", "b.jsonl"};
  matrix.chunk_count = 2;
  matrix.chunk_size = 2;
  return matrix;
}

void ExpectSame(const ImportanceMatrix& a, const ImportanceMatrix& b) {
  EXPECT_EQ(a.datasets, b.datasets);
  EXPECT_EQ(a.chunk_count, b.chunk_count);
  EXPECT_EQ(a.chunk_size, b.chunk_size);
  EXPECT_EQ(a.legacy, b.legacy);
  ASSERT_EQ(a.entries.size(), b.entries.size());
  for (const auto& [name, entry] : a.entries) {
    ASSERT_TRUE(b.entries.count(name)) << name;
    EXPECT_EQ(entry.sums, b.entries.at(name).sums) << name;
    EXPECT_EQ(entry.counts, b.entries.at(name).counts) << name;
  }
}

TEST(Imatrix, Means) {
  const ImportanceMatrix matrix = Small();
  EXPECT_EQ(matrix.Means("blk.0.attn_q.weight"), (std::vector<float>{0, 0.5f, 2}));
  EXPECT_EQ(matrix.Means("blk.0.experts.weight"), (std::vector<float>{0.5f, 1, 1, 1}));
  EXPECT_TRUE(matrix.Means("blk.1.attn_q.weight").empty());
}

TEST(Imatrix, RoundTrips) {
  const TempFolder folder;
  const ImportanceMatrix matrix = Small();
  WriteImportanceMatrix(matrix, folder / "a.gguf");
  ExpectSame(matrix, ReadImportanceMatrix(folder / "a.gguf"));
  WriteImportanceMatrix(matrix, folder / "a.dat");
  const ImportanceMatrix legacy = ReadImportanceMatrix(folder / "a.dat");
  EXPECT_TRUE(legacy.legacy);
  EXPECT_EQ(legacy.datasets, (std::vector<std::string>{"b.jsonl"}));
  EXPECT_EQ(legacy.chunk_count, 2);
  // Three tokens are two chunks of two.
  EXPECT_EQ(legacy.entries.at("blk.0.attn_q.weight").counts, (std::vector<int64_t>{2}));
  EXPECT_EQ(legacy.entries.at("blk.0.attn_q.weight").sums, (std::vector<float>{0, 1, 4}));
  for (const auto& [name, entry] : matrix.entries)
    EXPECT_EQ(legacy.Means(name), matrix.Means(name)) << name;
  WriteImportanceMatrix(legacy, folder / "b.dat");
  EXPECT_EQ(ReadFile(folder / "a.dat"), ReadFile(folder / "b.dat"));
  EXPECT_NE(MessageOf([&] { WriteImportanceMatrix(legacy, folder / "b.gguf"); }).find("*.dat"),
            std::string::npos);
}

// Read and written again, a file of llama-imatrix is the same to the last byte.
TEST(ImatrixGolden, FilesAreLlamaCpps) {
  int cases = 0;
  const TempFolder folder;
  for (const std::string& path : golden::Find("imatrix/llama.gguf")) {
    const ImportanceMatrix matrix = ReadImportanceMatrix(path);
    EXPECT_FALSE(matrix.legacy);
    EXPECT_GT(matrix.chunk_count, 0);
    WriteImportanceMatrix(matrix, folder / "again.gguf");
    EXPECT_EQ(ReadFile(path), ReadFile(folder / "again.gguf")) << path;
    std::printf("%s: %zu matrices, %ld chunks\n", path.c_str(), matrix.entries.size(),
                static_cast<long>(matrix.chunk_count));
    ++cases;
  }
  EXPECT_GT(cases, 0) << "no file of golden/imatrix was read";
}

TEST(Imatrix, RefusesWhatItCannotBe) {
  const TempFolder folder;
  const auto gguf = [&](const std::vector<std::pair<std::string, float>>& tensors) {
    std::vector<TensorSpec> specs;
    for (const auto& [name, value] : tensors) specs.push_back({name, "F32", {1}});
    GgufWriter writer(folder / "x.gguf", {{"general.type", GgufValue::String("imatrix")}}, specs);
    for (const auto& [name, value] : tensors) writer.Append(&value, 4);
    writer.Commit();
    return MessageOf([&] { ReadImportanceMatrix(folder / "x.gguf"); });
  };
  EXPECT_EQ(gguf({{"a.in_sum2", 1}, {"a.counts", 2}}), "no error");
  EXPECT_NE(gguf({{"a.weight", 1}}).find("must hold an importance matrix"), std::string::npos);
  EXPECT_NE(gguf({{"a.in_sum2", 1}}).find("sums for each count"), std::string::npos);
  EXPECT_NE(gguf({{"a.counts", 1}}).find("sums for each count"), std::string::npos);
  EXPECT_NE(gguf({{"a.in_sum2", -1}, {"a.counts", 2}}).find("not negative"), std::string::npos);
  EXPECT_NE(gguf({{"a.in_sum2", NAN}, {"a.counts", 2}}).find("finite"), std::string::npos);
  EXPECT_NE(gguf({{"a.in_sum2", 1}, {"a.counts", 1.5f}}).find("whole"), std::string::npos);
  EXPECT_NE(gguf({{"a.in_sum2", 1}, {"a.counts", -1}}).find("whole"), std::string::npos);

  const auto legacy = [&](std::string bytes) {
    WriteFile(folder / "x.dat", bytes);
    return MessageOf([&] { ReadImportanceMatrix(folder / "x.dat"); });
  };
  const std::string one("\1\0\0\0\1\0\0\0a\1\0\0\0\1\0\0\0\0\0\x80\x3f", 21);
  EXPECT_EQ(legacy(one), "no error");  // old files end without their chunks
  EXPECT_NE(legacy("").find("must be an importance matrix"), std::string::npos);
  EXPECT_NE(legacy("no matrix").find("must be an importance matrix"), std::string::npos);
  EXPECT_NE(legacy(one.substr(0, 20)).find("needs 4"), std::string::npos);
  EXPECT_NE(legacy(std::string("\2", 1) + one.substr(1) + one.substr(4)).find("twice"),
            std::string::npos);
  EXPECT_NE(MessageOf([] { WriteImportanceMatrix({}, "x.gguf"); }).find("got none"),
            std::string::npos);
}

}  // namespace
}  // namespace lapidary
