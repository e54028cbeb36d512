// An adapter knows its base by its weights: another one is warned of, the same one under another
// name or in other shards is not, and adapters without the record are left in peace.
#include "model/base_fingerprint.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "quant/adapter.h"
#include "tests/train/tiny_run.h"
#include "train/bundle.h"
#include "train/export/export.h"

namespace lapidary {
namespace {

namespace fs = std::filesystem;

const tiny::RunPlace& Place() {
  static const tiny::RunPlace place;
  return place;
}
std::string At(const std::string& name) { return Place().path() + "/" + name; }

std::string FingerprintOf(const std::string& path) {
  return BaseFingerprint(OpenCheckpointFiles(path));
}

// The base with one byte of its weights file changed.
std::string ChangedBase(const std::string& name, int64_t from_end) {
  const std::string folder = At(name);
  fs::copy(At("base"), folder, fs::copy_options::recursive);
  const std::string file = folder + "/model.safetensors";
  std::string bytes = ReadFile(file, uint64_t{1} << 32);
  bytes[bytes.size() - static_cast<size_t>(from_end)] ^= 1;
  WriteFile(file, bytes);
  return folder;
}

std::string Trained() {
  static const std::string folder = [] {
    Train(Place().Config("run", {"max_steps=2", "save_steps=1"}), {});
    return At("run");
  }();
  return folder;
}

std::vector<std::string> Mentions(const std::vector<std::string>& warnings) {
  std::vector<std::string> found;
  for (const std::string& w : warnings) {
    if (w.find("another base") != std::string::npos) found.push_back(w);
  }
  return found;
}

TEST(BaseFingerprint, IsOfTheWeightsAlone) {
  const std::string own = FingerprintOf(At("base"));
  EXPECT_EQ(own.size(), 32u);
  fs::copy(At("base"), At("moved"), fs::copy_options::recursive);
  EXPECT_EQ(FingerprintOf(At("moved")), own);
  ExportRequest request;
  request.model = At("base");
  request.outputs = {{"safetensors", At("shards")}};
  request.options.max_shard_bytes = 1 << 20;
  Export(request);
  ASSERT_FALSE(fs::exists(At("shards/model.safetensors")));  // several files
  EXPECT_EQ(FingerprintOf(At("shards")), own);
  EXPECT_NE(FingerprintOf(ChangedBase("last-byte", 2)), own);
}

TEST(BaseFingerprint, IsWrittenWithTheAdapter) {
  const Adapter adapter = OpenAdapter(Trained());
  ASSERT_TRUE(adapter.config.base_fingerprint.has_value());
  EXPECT_EQ(*adapter.config.base_fingerprint, FingerprintOf(At("base")));
  // PEFT would warn of a key that it does not know.
  EXPECT_EQ(ReadFile(Trained() + "/adapter_config.json").find("fingerprint"), std::string::npos);
  // Exported as an adapter it is still there.
  ExportRequest request;
  request.model = At("base");
  request.adapters = {{Trained(), 1}};
  request.outputs = {{"peft", At("peft")}};
  Export(request);
  EXPECT_EQ(OpenAdapter(At("peft")).config.base_fingerprint, adapter.config.base_fingerprint);
}

TEST(BaseFingerprint, AnotherBaseIsWarnedOfEverywhere) {
  const std::string other = ChangedBase("other", 2), adapter = Trained();
  EXPECT_TRUE(Mentions(OpenBundle(At("base"), adapter).warnings).empty());
  const std::vector<std::string> opened = Mentions(OpenBundle(other, adapter).warnings);
  ASSERT_EQ(opened.size(), 1u);
  EXPECT_EQ(opened[0].find('\n'), std::string::npos);
  EXPECT_NE(opened[0].find(At("base")), std::string::npos) << opened[0];

  const auto exported = [&](const std::string& base, const std::string& name) {
    ExportRequest request;
    request.model = base;
    request.adapters = {{adapter, 1}};
    request.outputs = {{"gguf:q8_0", At(name)}};
    return Mentions(Export(request).warnings).size();
  };
  EXPECT_EQ(exported(At("base"), "own.gguf"), 0u);
  EXPECT_EQ(exported(other, "other.gguf"), 1u);

  // A run that goes on.
  const auto resumed = [&](const std::string& base) {
    const std::string out = "again-" + fs::path(base).filename().string();
    fs::copy(adapter, At(out), fs::copy_options::recursive);
    const TrainConfig config =
        Place().Config(out, {"max_steps=3", "resume_from_checkpoint=\"latest\"",
                             StrCat("model_name_or_path=\"", base, "\"")});
    return Mentions(Train(config, {}).warnings).size();
  };
  EXPECT_EQ(resumed(At("base")), 0u);
  EXPECT_EQ(resumed(other), 1u);
}

TEST(BaseFingerprint, AdaptersWithoutOneAreLeftInPeace) {
  const std::string folder = At("from-peft");
  fs::copy(Trained(), folder, fs::copy_options::recursive);
  std::vector<NamedTensor> tensors;
  AdapterConfig config;
  {
    const Adapter adapter = OpenAdapter(folder);
    config = adapter.config;
    for (const StoredTensor& t : adapter.tensors.tensors())
      tensors.push_back({t.name, t.shape, t.ReadAll()});
  }
  config.base_fingerprint.reset();
  WriteAdapter(folder, config, tensors);
  EXPECT_FALSE(OpenAdapter(folder).config.base_fingerprint.has_value());
  EXPECT_TRUE(Mentions(OpenBundle(At("last-byte"), folder).warnings).empty());
}

}  // namespace
}  // namespace lapidary
