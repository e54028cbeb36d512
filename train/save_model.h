// A fully fine-tuned model from memory to a Hugging Face folder.
#ifndef LAPIDARY_TRAIN_SAVE_MODEL_H_
#define LAPIDARY_TRAIN_SAVE_MODEL_H_

#include <string>
#include <vector>

#include "model/transformer.h"

namespace lapidary {

// Writes config.json and model.safetensors into `folder`, which must exist; dtype "BF16" (rounded
// to nearest even) or "F32" for every tensor. Tensors that are not trained keep their values.
// Beside them, tokenizer, template, processor and generation settings are copied from `source`
// where it is a folder that has them. `projected`: fake-quantized matrices are written as their
// values on the grid. Throws Error if something cannot be written.
void SaveModelFolder(Transformer& model, const std::string& folder, const std::string& dtype,
                     const std::string& source, bool projected = false);

// Writes parameters, by their names, into one safetensors file of `dtype`. Throws Error if it
// cannot be written.
void SaveParams(const std::vector<Param*>& params, const std::string& path,
                const std::string& dtype);

}  // namespace lapidary

#endif  // LAPIDARY_TRAIN_SAVE_MODEL_H_
