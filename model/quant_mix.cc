#include "model/quant_mix.h"

#include <cctype>
#include <optional>

#include "autograd/base/error.h"
#include "model/tensor_names.h"

namespace lapidary {
namespace {

// A matrix of a decoder layer.
struct LayerMatrix {
  int64_t layer = 0;
  std::string_view name;  // "mlp.down_proj"
};

std::optional<LayerMatrix> FindLayerMatrix(std::string_view canonical) {
  constexpr std::string_view kPrefix = "model.language_model.layers.", kSuffix = ".weight";
  if (canonical.substr(0, kPrefix.size()) != kPrefix) return std::nullopt;
  canonical.remove_prefix(kPrefix.size());
  LayerMatrix matrix;
  size_t digits = 0;
  while (digits < canonical.size() && digits < 6 &&
         std::isdigit(static_cast<unsigned char>(canonical[digits]))) {
    matrix.layer = matrix.layer * 10 + (canonical[digits++] - '0');
  }
  if (digits == 0 || canonical.size() < digits + 1 + kSuffix.size() || canonical[digits] != '.')
    return std::nullopt;
  matrix.name = canonical.substr(digits + 1, canonical.size() - digits - 1 - kSuffix.size());
  return matrix;
}

// llama.cpp's "use more bits": the first and last eighth and every third between.
bool MoreBits(int64_t i, int64_t n) { return i < n / 8 || i >= 7 * n / 8 || (i - n / 8) % 3 == 2; }

// The matrices that a mix treats apart; the name of their format, or null.
const char* Exception(const QuantMix& mix, const ModelConfig& config, const LayerMatrix& matrix,
                      bool importance) {
  const std::string_view name = mix.name;
  const int64_t n = config.num_layers(), i = matrix.layer;
  if (matrix.name == "self_attn.v_proj") {
    // Counted among the layers that have one.
    int64_t rank = 0, count = 0;
    for (int64_t l = 0; l < n; ++l) {
      if (config.text.layers[static_cast<size_t>(l)].k_is_v) continue;
      rank += l < i;
      ++count;
    }
    const bool shared = config.text.num_attention_heads /
                            std::max<int64_t>(1, config.text.layers[0].num_key_value_heads) >=
                        4;  // llama.cpp looks at layer 0
    if (name == "q2_k") return shared ? "Q4_K" : "Q3_K";
    if (name == "q3_k_m") return rank < 2 ? "Q5_K" : "Q4_K";
    if (name == "q3_k_l") return "Q5_K";
    if ((name == "iq4_nl" || name == "iq4_xs") && shared) return "Q5_K";
    if ((name == "q4_k_m" || name == "q5_k_m") && MoreBits(rank, count)) return "Q6_K";
    if (name == "q4_k_s" && rank < 4) return "Q5_K";
  } else if (matrix.name == "mlp.down_proj") {
    if (name == "q2_k") return "Q3_K";
    if (name == "q3_k_m") return i < n / 16 ? "Q5_K" : "Q4_K";
    if (name == "q3_k_l") return "Q5_K";
    if ((name == "q4_k_m" || name == "q5_k_m") && MoreBits(i, n)) return "Q6_K";
    const bool early = i < n / 8;
    if (early && (name == "q4_k_s" || (!importance && (name == "iq4_nl" || name == "iq4_xs"))))
      return "Q5_K";
    if (early && importance && name == "q4_0") return "Q4_1";
    if (early && importance && name == "q5_0") return "Q5_1";
  } else if (matrix.name == "self_attn.o_proj") {
    if (name == "q2_k") return "Q3_K";
    if (name == "q3_k_m") return "Q4_K";
    if (name == "q3_k_l") return "Q5_K";
  }
  return nullptr;
}

}  // namespace

const std::vector<QuantMix>& QuantMixes() {
  static const std::vector<QuantMix> mixes = {
      {"f32", 0, "F32", "F32", "float32"},
      {"f16", 1, "F16", "F16", "float16"},
      {"bf16", 32, "BF16", "BF16", "bfloat16: lossless for a bf16 checkpoint"},
      {"q8_0", 7, "Q8_0", "Q8_0", "8 bits"},
      {"q6_k", 18, "Q6_K", "Q6_K", "6 bits"},
      {"q5_k_m", 17, "Q5_K", "Q6_K", "5 bits, a part of attn_v and ffn_down in 6"},
      {"q5_k_s", 16, "Q5_K", "Q6_K", "5 bits"},
      {"q5_0", 8, "Q5_0", "Q6_K", "5 bits, plain blocks"},
      {"q5_1", 9, "Q5_1", "Q6_K", "5 bits and a minimum, plain blocks"},
      {"q4_k_m", 15, "Q4_K", "Q6_K", "4 bits, a part of attn_v and ffn_down in 6"},
      {"q4_k_s", 14, "Q4_K", "Q6_K", "4 bits, the first attn_v and ffn_down in 5"},
      {"q4_0", 2, "Q4_0", "Q6_K", "4 bits, plain blocks: the fastest here"},
      {"q4_1", 3, "Q4_1", "Q6_K", "4 bits and a minimum, plain blocks"},
      {"iq4_nl", 25, "IQ4_NL", "Q6_K", "4 bits, not evenly spaced"},
      {"iq4_xs", 30, "IQ4_XS", "Q6_K", "the same with smaller scales"},
      {"mxfp4", 38, "MXFP4", "Q8_0",
       "4-bit floats (no mix of llama-quantize, which keeps them for experts)"},
      {"q3_k_l", 13, "Q3_K", "Q6_K", "3 bits, attn_v, attn_output and ffn_down in 5"},
      {"q3_k_m", 12, "Q3_K", "Q6_K", "3 bits, attn_v, attn_output and ffn_down in 4 or 5"},
      {"q3_k_s", 11, "Q3_K", "Q6_K", "3 bits"},
      {"q2_k", 10, "Q2_K", "Q6_K", "2 bits, attn_v, attn_output and ffn_down in 3"},
  };
  return mixes;
}

const QuantMix& FindQuantMix(std::string_view name, const std::string& where) {
  std::string lower(name);
  for (char& c : lower) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  if (lower == "q3_k" || lower == "q4_k" || lower == "q5_k") lower += "_m";
  std::string names;
  for (const QuantMix& mix : QuantMixes()) {
    if (lower == mix.name) return mix;
    names += StrCat(" ", mix.name);
  }
  throw Error(StrCat(where, ": must be a known quantization; got '", name, "'; try one of", names));
}

const Format& FormatForRows(const Format& wanted, int64_t cols) {
  if (cols % wanted.block_size == 0) return wanted;
  const std::string_view name = wanted.name;
  const Format* format = &GetFormat(name == "IQ4_XS"                   ? "IQ4_NL"
                                    : name == "Q2_K" || name == "Q3_K" ? "Q4_0"
                                    : name == "Q4_K"                   ? "Q5_0"
                                    : name == "Q5_K"                   ? "Q5_1"
                                    : name == "Q6_K"                   ? "Q8_0"
                                                                       : "F16");
  return cols % format->block_size == 0 ? *format : GetFormat("F16");
}

const Format& MixFormat(const QuantMix& mix, const ModelConfig& config, bool untied,
                        const std::string& canonical, int64_t cols, const Format* head,
                        bool importance) {
  const bool embedding = canonical == "model.language_model.embed_tokens.weight";
  if (canonical == "lm_head.weight" || (embedding && !untied)) {
    if (head) return FormatForRows(*head, cols);
    // Where the rows are not whole blocks of the mix, llama.cpp gives the head Q8_0.
    const bool whole = cols % GetFormat(mix.matrix).block_size == 0;
    return FormatForRows(GetFormat(whole ? mix.head : "Q8_0"), cols);
  }
  const std::optional<LayerMatrix> matrix = FindLayerMatrix(canonical);
  LAPIDARY_CHECK(embedding || (matrix && matrix->layer < config.num_layers()), canonical,
                 ": must be a matrix of the text model; got another tensor");
  const char* exception = matrix ? Exception(mix, config, *matrix, importance) : nullptr;
  return FormatForRows(GetFormat(exception ? exception : mix.matrix), cols);
}

}  // namespace lapidary
