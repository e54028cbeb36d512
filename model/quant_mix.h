// Which block format each matrix of the text model gets when a model is quantized: llama.cpp's
// mixes, tensor by tensor as llama-quantize chooses them (formats.md 3.5).
//
// An importance matrix changes the first eighth of the layers' ffn_down: Q4_1 in q4_0 and Q5_1 in
// q5_0, which would go wrong there without one; and in iq4_nl and iq4_xs it is not kept in Q5_K.
// The exporter (`gguf:q4_k_m`) and the loader (`base_format`) ask here, so that a base that is
// quantized while loading has the bytes of the file that would have been exported.
#ifndef LAPIDARY_MODEL_QUANT_MIX_H_
#define LAPIDARY_MODEL_QUANT_MIX_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "model/config.h"
#include "quant/format.h"

namespace lapidary {

struct QuantMix {
  const char* name = "";    // as users write it: "q4_k_m"
  int64_t file_type = 0;    // general.file_type of a GGUF file
  const char* matrix = "";  // the format of most matrices
  const char* head = "";    // of the head; of the embedding where the head is tied to it
  const char* help = "";    // one line
};

// Every mix, the plain ones (f32, f16, bf16) first.
const std::vector<QuantMix>& QuantMixes();
// By name, upper or lower case; "q3_k", "q4_k" and "q5_k" mean the _m mixes, as in llama.cpp.
// Throws Error "WHERE: rule; got; try" listing the names.
const QuantMix& FindQuantMix(std::string_view name, const std::string& where);

// The format of the matrix `canonical` (model/tensor_names.h) with rows of `cols` elements: the
// head, the embedding or a matrix of a decoder layer. `untied`: the checkpoint has lm_head.weight.
// `head`: a format for the head (tied: the embedding) instead of the mix's, or null. `importance`:
// there is an importance matrix. Rows that are not whole blocks get llama.cpp's fallback format.
// Throws Error for another tensor.
const Format& MixFormat(const QuantMix& mix, const ModelConfig& config, bool untied,
                        const std::string& canonical, int64_t cols, const Format* head = nullptr,
                        bool importance = false);

// llama.cpp's fallback where `cols` is not a multiple of the block: a format of smaller blocks, at
// last F16.
const Format& FormatForRows(const Format& wanted, int64_t cols);

}  // namespace lapidary

#endif  // LAPIDARY_MODEL_QUANT_MIX_H_
