// Every case of golden/quant: our bytes and our values must equal ggml's to the last bit, with the
// plain and with the best instruction set.
#include <gtest/gtest.h>

#include <cstdio>
#include <cstring>
#include <filesystem>

#include "autograd/kernels/isa.h"
#include "quant/format.h"
#include "quant/safetensors.h"
#include "tests/golden.h"

namespace lapidary {
namespace {

int64_t DifferentBytes(const uint8_t* a, const uint8_t* b, uint64_t n) {
  int64_t count = 0;
  for (uint64_t i = 0; i < n; ++i) count += a[i] != b[i];
  return count;
}

int CheckFile(const std::string& path, const Format& format) {
  const TensorSet set = OpenCheckpoint(path);
  int cases = 0;
  for (const StoredTensor& input : set.tensors()) {
    const size_t dot = input.name.rfind(".input");
    if (dot == std::string::npos || dot + 6 != input.name.size()) continue;
    const std::string name = input.name.substr(0, dot);
    const StoredTensor& bytes = set.Get(name + ".bytes");
    const StoredTensor& dequant = set.Get(name + ".dequant");
    const std::vector<float> values = input.ReadAll();
    const int64_t rows = input.rows(), cols = input.cols();
    std::vector<uint8_t> ours(static_cast<size_t>(rows * FormatBytes(format, cols)));
    EXPECT_EQ(ours.size(), bytes.bytes) << path << " " << name;
    if (ours.size() != bytes.bytes) continue;
    QuantizeRows(format, GetScaleRule(format), values.data(), rows, cols, ours.data());
    std::vector<float> back(values.size());
    DequantizeRows(format, bytes.data, rows, cols, back.data());
    const int64_t wrong_bytes = DifferentBytes(ours.data(), bytes.data, bytes.bytes);
    const int64_t wrong_values =
        DifferentBytes(reinterpret_cast<const uint8_t*>(back.data()), dequant.data, dequant.bytes);
    std::printf("%s %s: %ld of %lu bytes differ, %ld of %lu value bytes differ\n", format.name,
                name.c_str(), static_cast<long>(wrong_bytes),
                static_cast<unsigned long>(bytes.bytes), static_cast<long>(wrong_values),
                static_cast<unsigned long>(dequant.bytes));
    EXPECT_EQ(dequant.bytes, back.size() * 4) << path << " " << name;
    EXPECT_EQ(wrong_bytes, 0) << path << " " << name;
    EXPECT_EQ(wrong_values, 0) << path << " " << name;
    ++cases;
  }
  return cases;
}

TEST(FormatGolden, BytesAndValuesAreExact) {
  int cases = 0;
  for (const std::string& folder : golden::Find("quant")) {
    for (const auto& entry : std::filesystem::directory_iterator(folder)) {
      if (entry.path().extension() != ".safetensors") continue;
      const Format* format = FindFormat(entry.path().stem().string());
      ASSERT_TRUE(format) << entry.path() << ": no such row in the format table";
      for (const Isa isa : {Isa::kScalar, SupportedIsas().front()}) {
        SetIsa(isa);
        cases += CheckFile(entry.path().string(), *format);
      }
    }
  }
  std::printf("%d cases\n", cases);
  EXPECT_GT(cases, 0) << "no case of golden/quant ran";
}

}  // namespace
}  // namespace lapidary
