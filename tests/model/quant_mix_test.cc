// Which format each matrix gets: llama-quantize's choices for the 12B, counted and at the places
// where the rules switch; fallbacks of odd rows.
#include "model/quant_mix.h"

#include <gtest/gtest.h>

#include <map>

#include "autograd/base/error.h"
#include "model/tensor_names.h"

namespace lapidary {
namespace {

std::string Layer(int64_t i, const char* name) {
  return StrCat("model.language_model.layers.", i, ".", name, ".weight");
}

std::map<std::string, int> Count(const char* mix) {
  const ModelConfig config = MakeModelConfig("12b", 0);
  std::map<std::string, int> count;
  for (const CatalogTensor& tensor : ExpectedTensors(config)) {
    if (tensor.shape.size() != 2 || tensor.name.rfind("model.language_model.", 0) != 0) continue;
    ++count[MixFormat(FindQuantMix(mix, "test"), config, false, tensor.name, tensor.shape[1]).name];
  }
  return count;
}

using Counts = std::map<std::string, int>;

// q4_k_m: the file that llama.cpp's log shows (formats.md 3.5). The others: llama-quantize run on a
// narrow model with the same 48 layers.
TEST(QuantMix, CountsOfThe12B) {
  EXPECT_EQ(Count("q4_k_m"), (Counts{{"Q4_K", 284}, {"Q6_K", 45}}));
  EXPECT_EQ(Count("q5_k_m"), (Counts{{"Q5_K", 284}, {"Q6_K", 45}}));
  EXPECT_EQ(Count("q4_k_s"), (Counts{{"Q4_K", 318}, {"Q5_K", 10}, {"Q6_K", 1}}));
  EXPECT_EQ(Count("q4_0"), (Counts{{"Q4_0", 328}, {"Q6_K", 1}}));
  EXPECT_EQ(Count("iq4_nl"), (Counts{{"IQ4_NL", 322}, {"Q5_K", 6}, {"Q6_K", 1}}));
  EXPECT_EQ(Count("q8_0"), (Counts{{"Q8_0", 329}}));
  EXPECT_EQ(Count("bf16"), (Counts{{"BF16", 329}}));
  EXPECT_EQ(Count("q3_k_m"), (Counts{{"Q3_K", 192}, {"Q4_K", 131}, {"Q5_K", 5}, {"Q6_K", 1}}));
  EXPECT_EQ(Count("q2_k"), (Counts{{"Q2_K", 192}, {"Q3_K", 136}, {"Q6_K", 1}}));
}

TEST(QuantMix, PlacesWhereTheRulesSwitch) {
  const ModelConfig config = MakeModelConfig("12b", 0);
  const auto format = [&](const char* mix, const std::string& name) {
    return std::string(MixFormat(FindQuantMix(mix, "test"), config, false, name, 3840).name);
  };
  // 40 of 48 layers have attn_v: its eighth is 5 tensors, which ends before layer 5 (full).
  EXPECT_EQ(format("q4_k_m", Layer(4, "self_attn.v_proj")), "Q6_K");
  EXPECT_EQ(format("q4_k_m", Layer(6, "self_attn.v_proj")), "Q4_K");
  EXPECT_EQ(format("q4_k_m", Layer(8, "self_attn.v_proj")), "Q6_K");
  EXPECT_EQ(format("q4_k_m", Layer(5, "mlp.down_proj")), "Q6_K");
  EXPECT_EQ(format("q4_k_m", Layer(6, "mlp.down_proj")), "Q4_K");
  EXPECT_EQ(format("q4_k_m", Layer(8, "mlp.down_proj")), "Q6_K");
  EXPECT_EQ(format("q4_k_m", Layer(41, "mlp.down_proj")), "Q6_K");
  EXPECT_EQ(format("q4_k_s", Layer(5, "mlp.down_proj")), "Q5_K");
  EXPECT_EQ(format("q4_k_s", Layer(6, "mlp.down_proj")), "Q4_K");
  EXPECT_EQ(format("q3_k_m", Layer(2, "mlp.down_proj")), "Q5_K");
  EXPECT_EQ(format("q3_k_m", Layer(3, "mlp.down_proj")), "Q4_K");
}

TEST(QuantMix, AnImportanceMatrixChangesTheFirstEighthOfFfnDown) {
  const ModelConfig config = MakeModelConfig("12b", 0);
  const auto format = [&](const char* mix, const std::string& name, bool importance) {
    return std::string(
        MixFormat(FindQuantMix(mix, "test"), config, false, name, 3840, nullptr, importance).name);
  };
  const std::string last = Layer(5, "mlp.down_proj"), next = Layer(6, "mlp.down_proj");
  const std::string up = Layer(0, "mlp.up_proj");
  for (const auto& [mix, plain, with] : {std::tuple{"q4_0", "Q4_0", "Q4_1"},
                                         {"q5_0", "Q5_0", "Q5_1"},
                                         {"iq4_nl", "Q5_K", "IQ4_NL"},
                                         {"iq4_xs", "Q5_K", "IQ4_XS"},
                                         {"q4_1", "Q4_1", "Q4_1"},
                                         {"q4_k_s", "Q5_K", "Q5_K"},
                                         {"q4_k_m", "Q6_K", "Q6_K"},
                                         {"q3_k_m", "Q4_K", "Q4_K"},
                                         {"q2_k", "Q3_K", "Q3_K"},
                                         {"mxfp4", "MXFP4", "MXFP4"}}) {
    EXPECT_EQ(format(mix, last, false), plain) << mix;
    EXPECT_EQ(format(mix, last, true), with) << mix;
    EXPECT_EQ(format(mix, next, true), format(mix, next, false)) << mix;
    EXPECT_EQ(format(mix, up, true), format(mix, up, false)) << mix;
  }
}

TEST(QuantMix, HeadsAndFallbacks) {
  const ModelConfig config = MakeModelConfig("tiny", 2);
  const QuantMix& mix = FindQuantMix("q4_k_m", "test");
  const std::string embedding = "model.language_model.embed_tokens.weight";
  const auto name = [&](const QuantMix& m, bool untied, const std::string& tensor, int64_t cols,
                        const Format* head = nullptr) {
    return std::string(MixFormat(m, config, untied, tensor, cols, head).name);
  };
  EXPECT_EQ(name(mix, false, embedding, 512), "Q6_K");
  EXPECT_EQ(name(mix, true, embedding, 512), "Q4_K");
  EXPECT_EQ(name(mix, true, "lm_head.weight", 512), "Q6_K");
  EXPECT_EQ(name(mix, false, embedding, 512, &GetFormat("BF16")), "BF16");
  EXPECT_EQ(name(mix, false, embedding, 96), "Q8_0");
  EXPECT_EQ(name(mix, false, embedding, 40), "F16");
  EXPECT_EQ(name(FindQuantMix("q4_0", "test"), false, embedding, 96), "Q8_0");
  const std::string up = Layer(0, "mlp.up_proj");
  EXPECT_EQ(name(mix, false, up, 96), "Q5_0");
  EXPECT_EQ(name(FindQuantMix("q5_k_s", "test"), false, up, 96), "Q5_1");
  EXPECT_EQ(name(FindQuantMix("iq4_xs", "test"), false, Layer(1, "mlp.up_proj"), 96), "IQ4_NL");
  EXPECT_EQ(name(FindQuantMix("q2_k", "test"), false, up, 96), "Q4_0");
  EXPECT_EQ(name(FindQuantMix("q4_0", "test"), false, up, 40), "F16");
  EXPECT_EQ(FindQuantMix("Q4_K", "test").file_type, 15);
  EXPECT_THROW(name(mix, false, "model.language_model.norm.weight", 512), Error);
  EXPECT_THROW(name(mix, false, Layer(2, "mlp.up_proj"), 512), Error);
  try {
    FindQuantMix("q9", "base_format");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(
        std::string(error.what()).rfind("base_format: must be a known quantization; got 'q9'", 0),
        0u)
        << error.what();
  }
}

}  // namespace
}  // namespace lapidary
