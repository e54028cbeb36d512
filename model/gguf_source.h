// A GGUF text model and its mmproj as if they were a Hugging Face checkpoint: config.json, tensors
// under canonical names, tokenizer (formats.md 2.3 to 2.6). What our exporter writes, and what
// llama.cpp's converter and quantizer make of Gemma 4, can be evaluated.
#ifndef LAPIDARY_MODEL_GGUF_SOURCE_H_
#define LAPIDARY_MODEL_GGUF_SOURCE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "quant/tensor_file.h"

namespace lapidary {

// The tokenizer's tables, plain; the command fills data/'s TokenizerSpec from them.
struct GgufTokenizer {
  std::vector<std::string> tokens;  // by id
  std::vector<std::string> merges;  // "left right", rank order; a space inside a part is U+0120
  std::vector<int32_t>
      token_types;  // 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte
  int32_t bos_id = 2, eos_id = 1, unk_id = 3, pad_id = 0;
  std::vector<int32_t> suppress_tokens;
  std::string chat_template;
};

struct GgufSource {
  std::string config_json;     // as ParseModelConfig reads it
  std::string processor_json;  // as processor_config.json: token budgets and frames, where the
                               // mmproj names them
  TensorSet tensors;  // canonical names; tensors that had to be permuted live in memory, the rest
                      // in the maps
  GgufTokenizer tokenizer;
  std::vector<std::string> warnings;
};

// The mmproj of a text model: `mmproj-<same name>` beside it, else the only mmproj*.gguf of the
// folder; empty if there is none.
std::string FindMmproj(const std::string& text_path);

// `text_path` a *.gguf of architecture gemma4. The mmproj is FindMmproj's; without one: a warning,
// and a configuration without vision and audio. Throws Error for another architecture, missing keys
// or tensors.
GgufSource OpenGgufSource(const std::string& text_path);

}  // namespace lapidary

#endif  // LAPIDARY_MODEL_GGUF_SOURCE_H_
