// Random checkpoints of any shape, complete with tokenizer, template and settings, so that
// everything can be tried without the real weights.
#ifndef LAPIDARY_TRAIN_MAKE_MODEL_H_
#define LAPIDARY_TRAIN_MAKE_MODEL_H_

#include <cstdint>
#include <functional>
#include <string>

#include "model/config.h"

namespace lapidary {

struct MakeModelOptions {
  uint64_t seed = 1;
  std::string
      tokenizer_file;  // a tokenizer.json to copy; "": the small one, filled up to the vocabulary
  std::string format = "safetensors";  // or "gguf:MIX" of the export targets
  bool overwrite = false;
  // Only the heads of the weight files are written; the tensors are holes, zeros that take no disk:
  // a base to plan for (train/plan.h), not one to run.
  bool hollow = false;
};

// Writes a model into a folder.
//   "safetensors"  a Hugging Face folder: config.json, model.safetensors (bf16), tokenizer.json,
//                  tokenizer_config.json, chat_template.jinja, generation_config.json,
//                  processor_config.json
//   "gguf:MIX"     model.gguf and mmproj-model.gguf, what `export` makes of that folder, byte for
//                  byte but for general.name; nothing else is written on the way
// Values are a function of (seed, tensor name, element): matrices and tables roughly normal (a sum
// of four uniform numbers), norms 1, with deviations that keep activations near 1 (k_norm is
// 1/sqrt(head width), because scores are not scaled). Chunk by chunk in parallel; resident memory
// is a few chunks of 16 MB and the tokenizer (some 200 MB with 262,144 words). `progress` is told
// bytes done and in all. Throws Error if the folder exists and is not to be overwritten, if the
// tokenizer has more ids than the vocabulary, or the disk is too small.
void MakeModel(const ModelConfig& config, const std::string& folder,
               const MakeModelOptions& options,
               const std::function<void(int64_t, int64_t)>& progress);

// The small tokenizer (2,048 ids) fitted to a configuration: media tokens moved to its ids,
// <unusedN> in all others.
std::string FitSmallTokenizer(const ModelConfig& config);
// processor_config.json as Google ships it, with the sizes of `config`.
std::string StandardProcessorConfig(const ModelConfig& config);
// The canonical chat template of Gemma 4.
std::string CanonicalChatTemplate();

}  // namespace lapidary

#endif  // LAPIDARY_TRAIN_MAKE_MODEL_H_
