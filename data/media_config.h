// How a checkpoint wants its media cut: patch sizes, token budgets, audio frames, video sampling.
// Read from processor_config.json (or preprocessor_config.json) and config.json; defaults are those
// of Gemma 4 12B (gemma4-12b.md 1.6). Plain values, thread-safe.
#ifndef LAPIDARY_DATA_MEDIA_CONFIG_H_
#define LAPIDARY_DATA_MEDIA_CONFIG_H_

#include <cstdint>
#include <string>
#include <string_view>

namespace lapidary {

// Who brings pictures to whole patches.
enum class ImageResize {
  kHuggingFace,  // "hf": to the largest size within the budget, small pictures grow (gemma4-12b.md
                 // 4.2, 4.3)
  kLlamaCpp,     // "llama.cpp": each side to the nearest multiple of a patch, then into 70 to 1,120
                 // tokens, black at the edges (formats.md 2.6); what its servers show the model
};

// Images, and the frames of a video.
struct ImageProcessorConfig {
  int64_t patch_size = 16;          // pixels, edge of a teacher patch
  int64_t pooling_kernel_size = 3;  // teacher patches per soft token and axis
  int64_t max_soft_tokens = 280;    // default budget: soft tokens an image may take
  // uint8 -> float32: images multiply by `rescale_factor` rounded to float32; videos divide by 255
  // (they also "normalize", with mean 0 and std 1, which folds the factor into the std). The two
  // differ in the last bit for half of the values.
  double rescale_factor = 0.00392156862745098;
  bool divide = false;
  ImageResize resize = ImageResize::kHuggingFace;

  int64_t model_patch() const {
    return patch_size * pooling_kernel_size;
  }  // pixels, edge of a soft token
  int64_t features() const { return 3 * model_patch() * model_patch(); }  // floats in a row
};

struct AudioProcessorConfig {
  int64_t sampling_rate = 16000;          // Hz
  int64_t audio_samples_per_token = 640;  // floats in a row
  int64_t audio_seq_length =
      750;  // documented limit (30 s) in tokens; advisory, see AudioLimit in audio.h
};

struct VideoProcessorConfig {
  ImageProcessorConfig frame = {.max_soft_tokens = 70, .divide = true};
  int64_t num_frames = 32;  // sampled per video
};

struct MediaConfig {
  ImageProcessorConfig image;
  AudioProcessorConfig audio;
  VideoProcessorConfig video;
};

// Parses the text of a processor_config.json (sections image_processor, video_processor,
// feature_extractor) or of a preprocessor_config.json (the same keys at the top level), and of a
// config.json (vision_config.patch_size, vision_config.pooling_kernel_size,
// audio_config.audio_samples_per_token / audio_embed_dim). Either may be empty: what is absent
// comes from the other, then from the defaults. `name` goes into messages. Throws Error on broken
// JSON, values out of range, settings this pipeline does not carry out (another resample filter, a
// mean other than 0), and on a processor file that contradicts config.json.
MediaConfig ParseMediaConfig(std::string_view processor_json, std::string_view config_json,
                             const std::string& name);

// ParseMediaConfig on the files of a checkpoint folder; files that are absent count as empty.
MediaConfig LoadMediaConfig(const std::string& folder);

// Pictures as "hf" or "llama.cpp" (image_resize of a configuration) has them: the size, and the
// values, which llama.cpp divides by 255. Frames of clips stay as Hugging Face has them. Throws
// Error for another word.
void UseImageResize(const std::string& word, MediaConfig* config);

// `budget`, or what 0 stands for: the checkpoint's own; with kLlamaCpp the 1,120 tokens that it
// allows (a budget is its --image-max-tokens then). Throws Error as CheckBudget does.
int64_t ImageBudget(const ImageProcessorConfig& config, int64_t budget);

// Throws Error unless `budget` is one of 70, 140, 280, 560, 1120 or the checkpoint's own
// config.max_soft_tokens (Hugging Face knows only the five; small models may name another one in
// their processor file).
void CheckBudget(const ImageProcessorConfig& config, int64_t budget);

}  // namespace lapidary

#endif  // LAPIDARY_DATA_MEDIA_CONFIG_H_
