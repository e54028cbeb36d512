// PEFT folders: the configuration as PEFT writes it, patterns and scales, and refusals.
#include "quant/adapter.h"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "autograd/base/error.h"
#include "autograd/base/file.h"
#include "quant/safetensors.h"
#include "tests/golden.h"
#include "tests/quant/temp_folder.h"

namespace lapidary {
namespace {

std::string Refusal(const std::string& text) {
  try {
    ParseAdapterConfig(text, "adapter_config.json");
    return "";
  } catch (const Error& e) {
    return e.what();
  }
}

// Every PEFT folder of the goldens: read, and written again as PEFT would (the same JSON, key for
// key).
TEST(AdapterGolden, ConfigurationsAreWrittenAsPeftWritesThem) {
  std::vector<std::string> folders;
  for (const std::string& model : golden::FindFolders("model")) {
    for (const auto& entry : std::filesystem::recursive_directory_iterator(model)) {
      if (entry.path().filename() == "adapter_config.json")
        folders.push_back(entry.path().parent_path().string());
    }
  }
  for (const std::string& folder : golden::Find("gguf/lora")) folders.push_back(folder);
  for (const std::string& folder : folders) {
    const Adapter adapter = OpenAdapter(folder);
    const std::string text = ReadFile(folder + "/adapter_config.json");
    nlohmann::json theirs = nlohmann::json::parse(text);
    const nlohmann::json ours = nlohmann::json::parse(AdapterConfigText(adapter.config));
    theirs["peft_version"] = ours["peft_version"];
    EXPECT_EQ(ours, theirs) << folder;
    std::printf("%s: %zu tensors, r %ld, %s\n", folder.c_str(), adapter.tensors.tensors().size(),
                static_cast<long>(adapter.config.r),
                text == AdapterConfigText(adapter.config) ? "same bytes" : "same values");
  }
  EXPECT_FALSE(folders.empty()) << "no PEFT folder in the golden roots";
}

TEST(Adapter, FolderRoundTrip) {
  const TempFolder folder;
  AdapterConfig config;
  config.r = 4;
  config.lora_alpha = 7.5;
  config.lora_dropout = 0.05;
  config.use_rslora = config.use_dora = true;
  config.target_modules = {false, {"q_proj", "v_proj"}};
  config.exclude_modules = {true, {".*embed.*"}};
  config.modules_to_save = {"m"};
  config.layers_to_transform = {0, 3};
  config.layers_pattern = {"layers"};
  config.rank_pattern = {{"z", 2}, {"a", 3}};
  config.alpha_pattern = {{"z", 2.5}, {"a", 3}};
  config.base_model_name_or_path = "google/gemma";
  const std::vector<NamedTensor> tensors = {
      {"base_model.model.q.lora_A.weight", {1, 2}, {1, 2.0001f}}};
  WriteAdapter(folder / "sub/adapter", config, tensors);
  Adapter back = OpenAdapter(folder / "sub/adapter");
  EXPECT_EQ(back.config, config);
  EXPECT_EQ(back.tensors.Get(tensors[0].name).ReadAll(), tensors[0].values);
  EXPECT_EQ(back.tensors.Get(tensors[0].name).dtype, "F32");
  WriteAdapter(folder / "sub/adapter", config, tensors, "BF16");
  EXPECT_EQ(OpenAdapter(folder / "sub/adapter").tensors.Get(tensors[0].name).dtype, "BF16");
  EXPECT_THROW(WriteAdapter(folder / "sub/adapter", config, tensors, "F16"), Error);
}

TEST(Adapter, PatternsAndScales) {
  AdapterConfig config;
  config.r = 8;
  config.lora_alpha = 16;
  config.rank_pattern = {{"layers\\.0\\..*", 2}, {"q_proj", 4}};
  config.alpha_pattern = {{"q_proj", 1}};
  const std::string q0 = "model.language_model.layers.0.self_attn.q_proj",
                    q1 = "model.language_model.layers.1.self_attn.q_proj";
  EXPECT_EQ(AdapterRank(config, q0), 2);  // the first pattern that matches
  EXPECT_EQ(AdapterRank(config, q1), 4);
  EXPECT_EQ(AdapterRank(config, "model.language_model.layers.1.self_attn.xq_proj"),
            8);  // a whole name, not a part of one
  EXPECT_EQ(AdapterScale(config, q1), 0.25);
  EXPECT_EQ(AdapterScale(config, "k_proj"), 2);
  config.use_rslora = true;
  EXPECT_EQ(AdapterScale(config, q1), 0.5);
  config.rank_pattern = {{"(", 2}};
  EXPECT_THROW(AdapterRank(config, q0), Error);
}

TEST(Adapter, WhatChangesTheMeaningIsRefused) {
  EXPECT_EQ(
      Refusal(R"({"peft_type":"LORA","r":4,"target_modules":["a"],"some_new_field":{"x":1}})"), "");
  EXPECT_EQ(
      Refusal(R"({"r":4,"lora_bias":false,"layer_replication":null,"trainable_token_indices":[]})"),
      "");
  for (const char* field : {R"("lora_bias":true)",
                            R"("fan_in_fan_out":true)",
                            R"("layer_replication":[[0,2]])",
                            R"("trainable_token_indices":[1])",
                            R"("target_parameters":["a"])",
                            R"("alora_invocation_tokens":[5])",
                            R"("use_qalora":true)",
                            R"("use_bdlora":{"a":1})",
                            R"("bias":"all")",
                            R"("peft_type":"IA3")",
                            R"("init_lora_weights":"pissa")",
                            R"("r":0)",
                            R"("r":"8")",
                            R"("r":1e99)",
                            R"("lora_dropout":1)",
                            R"("lora_dropout":-0.1)",
                            R"("lora_alpha":"16")",
                            R"("target_modules":3)",
                            R"("target_modules":[3])",
                            R"("rank_pattern":{"a":0})",
                            R"("rank_pattern":[1])",
                            R"("alpha_pattern":{"a":"b"})",
                            R"("layers_to_transform":[-1])",
                            R"("use_dora":1)",
                            R"("base_model_name_or_path":7)",
                            R"("r":4,"r":5)"}) {
    const std::string message = Refusal(std::string("{") + field + "}");
    EXPECT_EQ(message.rfind("adapter_config.json: ", 0), 0u) << field << " gave: " << message;
  }
  EXPECT_NE(Refusal("[]").find("JSON object"), std::string::npos);
  EXPECT_NE(Refusal("").find("must be JSON"), std::string::npos);
}

TEST(Adapter, MissingFilesAreErrors) {
  const TempFolder folder;
  EXPECT_THROW(OpenAdapter(folder.path()), Error);
  WriteFile(folder / "adapter_config.json", "{}");
  EXPECT_THROW(OpenAdapter(folder.path()), Error);
  WriteSafetensors(folder / "adapter_model.safetensors", {});
  EXPECT_THROW(OpenAdapter(folder.path()), Error);
}

}  // namespace
}  // namespace lapidary
