// Importance matrices end to end: measured as llama-imatrix measures, and exports with one as
// llama-quantize makes them.
#include "train/imatrix.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>
#include <cstring>
#include <nlohmann/json.hpp>

#include "autograd/base/file.h"
#include "autograd/base/parallel.h"
#include "autograd/base/sha256.h"
#include "quant/gguf.h"
#include "tests/train/golden_export.h"
#include "train/bundle.h"
#include "train/export/export.h"
#include "train/export/targets.h"

namespace lapidary {
namespace {

using nlohmann::json;

class Imatrix : public GoldenExport {
 protected:
  // The golden/imatrix beside each golden/gguf.
  static std::vector<std::string> Roots() {
    std::vector<std::string> roots;
    for (const std::string& folder : golden::Find("imatrix"))
      roots.push_back(folder.substr(0, folder.rfind('/')));
    return roots;
  }
  static ImportanceMatrix Measured(Bundle& bundle, const std::string& root, Compute compute,
                                   int64_t max_tokens = 2048) {
    const json golden = json::parse(ReadFile(root + "/imatrix/quantized.json"));
    ImportanceOptions options;
    options.compute = compute;
    options.chunk_size = golden.at("ctx");
    std::vector<std::vector<int32_t>> chunks =
        TextChunks(bundle.RequireTokenizer(), ReadFile(root + "/imatrix/text.txt"),
                   options.chunk_size, 0, false, "text.txt");
    return MeasureImportance(bundle.model, TokenBatches(std::move(chunks), max_tokens), options);
  }
  ExportRequest Request(const std::string& mix, const std::string& root) {
    ExportRequest request;
    request.model = root + "/gguf/hf";
    request.outputs = {{"gguf:" + mix, out_ / (mix + ".gguf")}};
    request.options.imatrix = std::make_shared<const ImportanceMatrix>(
        ReadImportanceMatrix(root + "/imatrix/llama.gguf"));
    request.options.imatrix_path = "llama.gguf";
    request.overwrite = true;
    return request;
  }
};

// The largest relative difference of a column's sum; 1 where the matrices do not match.
double Difference(const ImportanceMatrix& a, const ImportanceMatrix& b) {
  if (a.entries.size() != b.entries.size()) return 1;
  double worst = 0;
  for (const auto& [name, entry] : a.entries) {
    const auto found = b.entries.find(name);
    if (found == b.entries.end() || found->second.counts != entry.counts ||
        found->second.sums.size() != entry.sums.size())
      return 1;
    for (size_t i = 0; i < entry.sums.size(); ++i) {
      const double x = static_cast<double>(entry.sums[i]);
      const double y = static_cast<double>(found->second.sums[i]);
      worst = std::max(worst, std::fabs(x - y) / std::max(std::fabs(y), 1e-30));
    }
  }
  return worst;
}

TEST_F(Imatrix, MeasuresAsLlamaImatrix) {
  int cases = 0;
  for (const std::string& root : Roots()) {
    Bundle bundle = OpenBundle(root + "/gguf/hf");
    const ImportanceMatrix want = ReadImportanceMatrix(root + "/imatrix/llama.gguf");
    const ImportanceMatrix exact = Measured(bundle, root, Compute::kFloat32);
    const double float32 = Difference(exact, want);
    const double bfloat16 = Difference(Measured(bundle, root, Compute::kBfloat16), want);
    std::printf("%s: %.2g in float32 (limit 1e-5), %.2g in bfloat16 (limit 0.05)\n", root.c_str(),
                float32, bfloat16);
    EXPECT_LE(float32, 1e-5);
    EXPECT_LE(bfloat16, 0.05);
    EXPECT_EQ(exact.chunk_count, want.chunk_count);
    EXPECT_EQ(exact.chunk_size, want.chunk_size);
    // The comparison sees a sum that is one part in ten thousand off, and a missing matrix.
    ImportanceMatrix planted = exact;
    planted.entries.begin()->second.sums[3] *= 1.0001f;
    EXPECT_GT(Difference(planted, want), 5e-5);
    planted.entries.erase(planted.entries.begin());
    EXPECT_EQ(Difference(planted, want), 1);
    ++cases;
  }
  EXPECT_GT(cases, 0) << "no golden/imatrix";
}

TEST_F(Imatrix, SameBitsForAnyThreadsAndBatches) {
  Bundle bundle = OpenBundle(model_);
  const std::string root = Roots().at(0);
  const int before = Threads();
  SetThreads(1);
  const ImportanceMatrix one = Measured(bundle, root, Compute::kFloat32);
  SetThreads(3);
  EXPECT_EQ(Difference(one, Measured(bundle, root, Compute::kFloat32)), 0);
  // Documents of a pass do not see each other.
  EXPECT_LE(Difference(one, Measured(bundle, root, Compute::kFloat32, 1)), 1e-6);
  SetThreads(before);
}

TEST_F(Imatrix, AnAdapterIsSeen) {
  Bundle plain = OpenBundle(model_), adapted = OpenBundle(model_, adapter_);
  const std::string root = Roots().at(0);
  const ImportanceMatrix a = Measured(plain, root, Compute::kFloat32);
  const ImportanceMatrix b = Measured(adapted, root, Compute::kFloat32);
  EXPECT_EQ(a.entries.size(), b.entries.size());
  EXPECT_GT(Difference(a, b), 1e-3);
}

// Every block tensor has the bytes of llama-quantize --imatrix; so do the keys that it adds.
TEST_F(Imatrix, ExportsAreLlamaQuantizes) {
  int cases = 0;
  for (const std::string& root : Roots()) {
    const json golden = json::parse(ReadFile(root + "/imatrix/quantized.json"));
    for (const auto& [mix, tensors] : golden.at("mixes").items()) {
      const ExportReport report = Export(Request(mix, root));
      const GgufFile file = GgufFile::Open(out_ / (mix + ".gguf"));
      EXPECT_EQ(file.GetString("quantize.imatrix.file"), "llama.gguf");
      EXPECT_EQ(file.GetString("quantize.imatrix.dataset"), "text.txt");
      EXPECT_EQ(file.GetInt("quantize.imatrix.entries_count"),
                golden.at("keys").at("quantize.imatrix.entries_count").get<int64_t>());
      EXPECT_EQ(file.GetInt("quantize.imatrix.chunks_count"),
                golden.at("keys").at("quantize.imatrix.chunks_count").get<int64_t>());
      size_t blocks = 0;
      for (const StoredTensor& tensor : file.tensors().tensors()) {
        if (tensor.dtype == "F32" || tensor.dtype == "F16") continue;
        ++blocks;
        ASSERT_TRUE(tensors.contains(tensor.name)) << mix << " " << tensor.name;
        const std::string_view bytes(reinterpret_cast<const char*>(tensor.data), tensor.bytes);
        EXPECT_EQ(StrCat(tensor.dtype, " ", Sha256Hex(bytes).substr(0, 16)),
                  tensors.at(tensor.name).get<std::string>())
            << mix << " " << tensor.name;
      }
      EXPECT_EQ(blocks, tensors.size()) << mix;
      const bool heeds = mix != "q8_0";
      EXPECT_EQ(std::any_of(
                    report.warnings.begin(), report.warnings.end(),
                    [](const std::string& w) { return w.find("takes heed") != std::string::npos; }),
                !heeds)
          << mix;
      ++cases;
    }
  }
  std::printf("%d mixes\n", cases);
  EXPECT_GT(cases, 0) << "no golden/imatrix";
}

TEST_F(Imatrix, SaysWhatTheMatrixLacks) {
  const std::string root = Roots().at(0);
  ImportanceMatrix matrix = ReadImportanceMatrix(root + "/imatrix/llama.gguf");
  matrix.entries.erase("blk.1.ffn_up.weight");
  ExportRequest request = Request("q5_0", root);
  request.options.imatrix = std::make_shared<const ImportanceMatrix>(matrix);
  const ExportReport report = Export(request);
  ASSERT_FALSE(report.warnings.empty());
  EXPECT_NE(report.warnings.back().find("1 matrices have no importance in llama.gguf"),
            std::string::npos)
      << report.warnings.back();
  EXPECT_NE(report.warnings.back().find("blk.1.ffn_up.weight"), std::string::npos);
  // Without its weights the tensor is what an export without a matrix holds, the next one is not.
  ExportRequest plain = request;
  plain.options.imatrix = nullptr;
  plain.outputs[0].path = out_ / "plain.gguf";
  Export(plain);
  const GgufFile a = GgufFile::Open(out_ / "q5_0.gguf"), b = GgufFile::Open(out_ / "plain.gguf");
  const auto same = [&](const char* name) {
    const StoredTensor &x = a.tensors().Get(name), &y = b.tensors().Get(name);
    return x.bytes == y.bytes && std::memcmp(x.data, y.data, x.bytes) == 0;
  };
  EXPECT_TRUE(same("blk.1.ffn_up.weight"));
  EXPECT_FALSE(same("blk.1.ffn_gate.weight"));
  EXPECT_EQ(b.Find("quantize.imatrix.file"), nullptr);

  matrix.entries["blk.1.ffn_up.weight"] = {{1, 2, 3}, {1}};
  request.options.imatrix = std::make_shared<const ImportanceMatrix>(matrix);
  try {
    Export(request);
    ADD_FAILURE() << "a matrix of another model was taken";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("importance matrix of this model"), std::string::npos)
        << error.what();
  }
}

TEST_F(Imatrix, CutsTextsAsLlamaImatrix) {
  Bundle bundle = OpenBundle(model_);
  const Tokenizer& tokenizer = bundle.RequireTokenizer();
  const std::string text = "one two three four five six seven eight nine ten\n";
  std::vector<int32_t> all = tokenizer.Encode(text.substr(0, text.size() - 1));
  const int32_t bos = tokenizer.Require("<bos>");
  all.insert(all.begin(), bos);
  const auto chunks = TextChunks(tokenizer, text, 5, 0, false, "x");
  ASSERT_EQ(chunks.size(), all.size() / 5);
  for (size_t i = 0; i < chunks.size(); ++i) {
    EXPECT_EQ(chunks[i][0], bos);
    EXPECT_TRUE(std::equal(chunks[i].begin() + 1, chunks[i].end(), all.begin() + 5 * i + 1));
  }
  EXPECT_EQ(TextChunks(tokenizer, text, 5, 1, false, "x").size(), 1u);
  EXPECT_LT(TextChunks(tokenizer, "<|turn><|turn>", 3, 0, true, "x").size(),
            TextChunks(tokenizer, "<|turn><|turn>", 3, 0, false, "x").size());
  EXPECT_THROW(TextChunks(tokenizer, text, 4096, 0, false, "x"), Error);
  EXPECT_THROW(MeasureImportance(bundle.model, TokenBatches({}, 8), {}), Error);
}

}  // namespace
}  // namespace lapidary
