// A model with all that stands beside it: tokenizer, media settings, generation settings, and what
// the user should be warned of. What every command that runs a model opens first.
#ifndef LAPIDARY_TRAIN_BUNDLE_H_
#define LAPIDARY_TRAIN_BUNDLE_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "data/media_config.h"
#include "data/tokenizer.h"
#include "model/quantize_base.h"
#include "model/transformer.h"

namespace lapidary {

// generation_config.json.
struct GenerationDefaults {
  std::vector<int32_t>
      stop_ids;  // its eos ids, and <eos>, <turn|>, <|tool_response> of the tokenizer
  std::vector<int32_t>
      suppress_ids;  // suppress_tokens; without the file: the ends of images and sounds
  bool do_sample = true;
  double temperature = 1.0;
  int64_t top_k = 64;
  double top_p = 0.95;
};

struct Bundle {
  std::string path;
  Transformer model;
  std::unique_ptr<Tokenizer> tokenizer;  // null if the folder holds none: fine for given token ids
  MediaConfig media;
  GenerationDefaults generation;
  std::vector<std::string> warnings;  // one line each

  // The tokenizer, or Error saying which file is missing.
  const Tokenizer& RequireTokenizer() const;
};

// `path`: a Hugging Face folder or a *.gguf text model with its mmproj beside it. `adapter`: a PEFT
// folder to attach for evaluation, or "". `base`: how the matrices are kept (folders only).
Bundle OpenBundle(const std::string& path, const std::string& adapter = "",
                  const BaseFormat& base = {});

// The tokenizer alone, of either kind of model. Throws Error if there is none.
std::unique_ptr<Tokenizer> OpenTokenizer(const std::string& path);

}  // namespace lapidary

#endif  // LAPIDARY_TRAIN_BUNDLE_H_
