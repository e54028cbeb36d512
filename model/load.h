// Checkpoints in: a Hugging Face folder, or a GGUF file with its mmproj beside it.
#ifndef LAPIDARY_MODEL_LOAD_H_
#define LAPIDARY_MODEL_LOAD_H_

#include <string>
#include <vector>

#include "model/transformer.h"

namespace lapidary {

struct LoadedModel {
  Transformer model;
  std::string path;                   // as given
  std::vector<std::string> warnings;  // one line each, for the command to print
};

// `path`: a folder with config.json and safetensors, or a *.gguf text model (mmproj-*.gguf beside it is taken too; its absence is a warning
// and leaves the model without media). Matrices stay memory-mapped in their own format; norms, biases and tables of the embedders become float32.
// Throws Error for missing, misshapen or not finite tensors (the latter only of what is copied; `inspect` checks everything).
LoadedModel LoadModel(const std::string& path);

}  // namespace lapidary

#endif  // LAPIDARY_MODEL_LOAD_H_
