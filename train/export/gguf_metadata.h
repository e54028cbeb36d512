// The keys of Gemma 4's GGUF files (formats.md 2.3, 2.5, 2.6), as llama.cpp's converter writes them
// from a Hugging Face folder.
//
// Differences from the converter, all of them (tests compare everything else):
//   general.name                        the folder's name; the converter also reads model cards
//   general.size_label                  always counted; the converter first looks for a size in the
//                                       folder's name
//   tokenizer.ggml.eot_token_id         always written if the vocabulary has <turn|> (formats.md
//                                       2.5); the converter writes none
//   clip.vision.projector.scale_factor  written if pooling_kernel_size is not 3, which is what a
//                                       reader assumes without the key
//   lapidary.image_max_soft_tokens, lapidary.video_max_soft_tokens, lapidary.video_num_frames
//                                       written if the processor's value is not the 12B's (280, 70,
//                                       32): GGUF has no other place for it, llama.cpp ignores it
#ifndef LAPIDARY_TRAIN_EXPORT_GGUF_METADATA_H_
#define LAPIDARY_TRAIN_EXPORT_GGUF_METADATA_H_

#include <cstdint>
#include <string>

#include "model/config.h"
#include "quant/gguf.h"

namespace lapidary {

// Everything of the folder that goes into keys: tokenizer.json, tokenizer_config.json,
// generation_config.json, chat_template.jinja, processor_config.json.
struct GgufMetadata {
  GgufKeys general;    // name, sampling defaults: both files
  GgufKeys tokenizer;  // the text file
  GgufKeys suppress;   // tokenizer.ggml.suppress_tokens, which stands among the model's keys
  GgufValue image_mean, image_std;
  GgufKeys media;  // token budgets and frames that are not the 12B's: the mmproj file
};

// Throws Error if tokenizer.json is missing, broken, has gaps in its ids, or holds more tokens than
// the embedding has rows.
GgufMetadata ReadGgufMetadata(const std::string& folder, const ModelConfig& config);

// All keys of the text file. `parameters` is the number of elements of its tensors, `file_type`
// general.file_type.
GgufKeys TextKeys(const GgufMetadata& metadata, const ModelConfig& config, int64_t parameters,
                  int64_t file_type);
// All keys of the mmproj file.
GgufKeys MmprojKeys(const GgufMetadata& metadata, const ModelConfig& config, int64_t parameters,
                    int64_t file_type);

// "838K", "4.0M", "12B": two digits at least, as gguf-py rounds.
std::string SizeLabel(int64_t parameters);

// The divisors of rope_freqs.weight: 1 for the pairs of a full layer that rotate, 1e30 for the
// rest.
std::vector<float> RopeFrequencyDivisors(const ModelConfig& config);

}  // namespace lapidary

#endif  // LAPIDARY_TRAIN_EXPORT_GGUF_METADATA_H_
