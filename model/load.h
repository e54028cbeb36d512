// Checkpoints in: a Hugging Face folder, or a GGUF file with its mmproj beside it.
#ifndef LAPIDARY_MODEL_LOAD_H_
#define LAPIDARY_MODEL_LOAD_H_

#include <map>
#include <string>
#include <vector>

#include "model/gguf_source.h"
#include "model/quantize_base.h"
#include "model/transformer.h"
#include "quant/tensor_file.h"

namespace lapidary {

// A checkpoint's parts under canonical names, nothing converted yet.
struct CheckpointFiles {
  ModelConfig config;
  std::map<std::string, StoredTensor> tensors;  // by canonical name
  std::vector<std::string>
      extra;  // tensors that the architecture does not have, as spelled in the file
  std::vector<std::string> missing;    // canonical names that no file holds
  std::vector<std::string> misshapen;  // one line each: name, shape, expected shape
  std::vector<std::string> warnings;
  std::vector<std::shared_ptr<const void>> owners;
  std::shared_ptr<const GgufTokenizer> tokenizer;  // of a GGUF; null for a folder
  std::string processor_json;                      // of a GGUF
};

// Opens a folder with config.json and safetensors, or a *.gguf text model (mmproj-*.gguf beside it
// is taken too; its absence is a warning and leaves the model without media). Throws Error only for
// files that cannot be read at all; what is missing or misshapen is listed.
CheckpointFiles OpenCheckpointFiles(const std::string& path);

// Number of elements that are not finite: exact for float formats, block scales for block formats.
int64_t CountNotFinite(const StoredTensor& tensor);

struct LoadedModel {
  Transformer model;
  std::vector<std::string> warnings;               // one line each, for the command to print
  std::shared_ptr<const GgufTokenizer> tokenizer;  // of a GGUF; null for a folder
  std::string processor_json;                      // of a GGUF
};

// Matrices stay memory-mapped in their own format and order, or are quantized or laid out in units
// as `base` says (units of a stored file only if they fill at most three quarters of the available
// memory; the map's pages are dropped as they are copied). Norms, biases and tables of the
// embedders become float32. Throws Error for missing, misshapen or not finite tensors (of files
// above 4 GB only what is copied is looked at; `inspect` looks at everything), and for a GGUF file,
// which has its formats, if `base` names one.
LoadedModel LoadModel(const std::string& path, const BaseFormat& base = {});

}  // namespace lapidary

#endif  // LAPIDARY_MODEL_LOAD_H_
