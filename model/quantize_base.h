// A base that is quantized while it is loaded: `base_format` of a training configuration,
// `--base-format` of eval and generate.
#ifndef LAPIDARY_MODEL_QUANTIZE_BASE_H_
#define LAPIDARY_MODEL_QUANTIZE_BASE_H_

#include <string>

#include "model/config.h"
#include "model/linear.h"
#include "quant/tensor_file.h"

namespace lapidary {

// How the base's matrices are kept in memory. Both empty: as stored.
struct BaseFormat {
  // A mix of model/quant_mix.h ("q4_0", "q4_k_m"): every matrix of the decoder layers, the
  // embedding and the head get the format, and the bytes, that `export --out gguf:MIX` would write;
  // so the embedding is Q6_K for mixes of 2 to 6 bits. Norms, biases and the media embedders stay
  // as stored.
  std::string mix;
  // A block or float format for the embedding and the head instead: "bf16", "q8_0", "q4_k".
  std::string embedding;
  // In units (quant/units.h) where the running instruction set has them and they fit in memory:
  // decoding reads them up to twice as fast as rows. They are a copy, which takes seconds to make.
  // Everything else runs as fast from the rows of the mapped file.
  bool units = false;

  bool as_stored() const { return mix.empty() && embedding.empty(); }
};

// Throws Error "WHERE: rule; got; try" unless both names exist. `where` names the setting's origin.
void CheckBaseFormat(const BaseFormat& base, const std::string& where);

// The format that the tensor `canonical` of `cols` columns is to be kept in; null: as stored.
const Format* BaseTensorFormat(const BaseFormat& base, const ModelConfig& config, bool untied,
                               const std::string& canonical, int64_t cols);

// `tensor` in `format`, in memory of its own: chunks of rows in parallel, the source's pages
// dropped as they are consumed, so that the resident memory is the result and a chunk (32 MB). Rule
// "ggml"; the same bytes for any number of threads. Throws Error for values that are not finite or
// beyond the format's range.
Weight QuantizeWeight(const std::string& name, const StoredTensor& tensor, const Format& format);

// Lays a matrix that QuantizeWeight made out in units (quant/units.h), its own pages given back as
// they are copied, so that it is never in memory twice.
void LayOutInUnits(Weight* weight);

}  // namespace lapidary

#endif  // LAPIDARY_MODEL_QUANTIZE_BASE_H_
