#include "train/save_model.h"

#include <algorithm>
#include <filesystem>
#include <map>

#include "autograd/base/file.h"
#include "autograd/base/float16.h"
#include "model/qat.h"
#include "model/tensor_names.h"
#include "quant/safetensors.h"

namespace lapidary {
namespace {

// Values of one tensor: a Param, frozen bytes, or the scalar of a layer.
struct Source {
  const Param* param = nullptr;
  const Weight* weight = nullptr;
  float scalar = 0;
  bool projected = false;  // `weight` as fake quantization has it
};

std::map<std::string, Source> Collect(Transformer& model, bool projected) {
  std::map<std::string, Source> sources;
  const auto add = [&](const Weight& weight) { sources[weight.name] = {.weight = &weight}; };
  add(model.embed_tokens);
  if (model.lm_head) add(*model.lm_head);
  ForEachLinear(model, [&](Linear& linear) { add(linear.w); });
  ForEachParam(model, [&](Param& param) { sources[param.name] = {.param = &param}; });
  // Values on their grid, if `projected`.
  if (projected) {
    ForEachQatWeight(model, [&](Weight& weight, Linear*) {
      if (weight.Map()) sources[weight.name] = {.weight = &weight, .projected = true};
    });
  }
  for (size_t i = 0; i < model.layers.size(); ++i) {
    sources[StrCat("model.language_model.layers.", i, ".layer_scalar")] = {
        .scalar = model.layers[i].layer_scalar};
  }
  return sources;
}

void Append(SafetensorsWriter& writer, const float* values, int64_t n, bool bf16) {
  if (!bf16) {
    writer.Append(values, static_cast<uint64_t>(n) * 4);
    return;
  }
  std::vector<uint16_t> rounded(static_cast<size_t>(n));
  std::transform(values, values + n, rounded.begin(), Bf16FromF32);
  writer.Append(rounded.data(), rounded.size() * 2);
}

constexpr int64_t kChunk = 1 << 20;  // values converted at a time

void AppendTensor(SafetensorsWriter& writer, const Source& source, bool bf16) {
  if (source.param) {
    const Tensor& value = source.param->value;
    for (int64_t i = 0; i < value.size(); i += kChunk) {
      Append(writer, value.data() + i, std::min(kChunk, value.size() - i), bf16);
    }
  } else if (source.weight) {
    const WeightView view = source.projected ? source.weight->Current() : source.weight->Plain();
    const int64_t rows = std::max<int64_t>(1, kChunk / view.cols);
    std::vector<float> values;
    for (int64_t row = 0; row < view.rows; row += rows) {
      const int64_t count = std::min(rows, view.rows - row);
      values.resize(static_cast<size_t>(count * view.cols));
      DequantizeRows(view, row, count, values.data());
      Append(writer, values.data(), count * view.cols, bf16);
      // A pass over a large base must stay small in memory.
      if (view.data && view.layout == WeightLayout::kRows) {
        DropMappedPages(static_cast<const uint8_t*>(view.data) + row * view.row_bytes,
                        static_cast<uint64_t>(count * view.row_bytes));
      }
    }
  } else {
    Append(writer, &source.scalar, 1, bf16);
  }
}

constexpr const char* kSideFiles[] = {
    "tokenizer.json",         "tokenizer_config.json", "special_tokens_map.json",
    "chat_template.jinja",    "processor_config.json", "preprocessor_config.json",
    "generation_config.json",
};

}  // namespace

void SaveModelFolder(Transformer& model, const std::string& folder, const std::string& dtype,
                     const std::string& source, bool projected) {
  const std::map<std::string, Source> sources = Collect(model, projected);
  std::vector<TensorSpec> specs;
  const auto declare = [&](const std::string& name, const std::vector<int64_t>& shape) {
    LAPIDARY_CHECK(sources.contains(name), folder, ": the model must hold ", name, "; got nothing");
    specs.push_back({name, dtype, shape});
  };
  for (const CatalogTensor& tensor : ExpectedTensors(model.config)) {
    declare(tensor.name, tensor.shape);
  }
  if (model.lm_head) declare("lm_head.weight", {model.lm_head->rows(), model.lm_head->cols()});
  SafetensorsWriter writer(folder + "/model.safetensors", specs);
  for (const TensorSpec& spec : writer.order()) {
    AppendTensor(writer, sources.at(spec.name), dtype == "BF16");
  }
  writer.Commit();
  for (const char* name : kSideFiles) {
    const std::string from = source + "/" + name;
    if (std::filesystem::is_regular_file(from)) WriteFile(folder + "/" + name, ReadFile(from));
  }
  WriteFile(folder + "/config.json", model.config.json);
}

void SaveParams(const std::vector<Param*>& params, const std::string& path,
                const std::string& dtype) {
  std::map<std::string, const Param*> by_name;
  std::vector<TensorSpec> specs;
  for (const Param* param : params) {
    const Shape& shape = param->value.shape();
    specs.push_back({param->name, dtype, {shape.dims, shape.dims + shape.rank}});
    by_name[param->name] = param;
  }
  SafetensorsWriter writer(path, specs);
  for (const TensorSpec& spec : writer.order()) {
    AppendTensor(writer, {.param = by_name.at(spec.name)}, dtype == "BF16");
  }
  writer.Commit();
}

}  // namespace lapidary
