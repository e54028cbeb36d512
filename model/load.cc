#include "model/load.h"

#include <atomic>
#include <cmath>
#include <cstring>
#include <filesystem>

#include "autograd/base/file.h"
#include "autograd/base/memory_info.h"
#include "autograd/base/parallel.h"
#include "model/gguf_source.h"
#include "model/tensor_names.h"
#include "quant/safetensors.h"
#include "quant/units.h"

namespace lapidary {
namespace {

constexpr uint64_t kCheckFiniteBytes = uint64_t{4} << 30;

bool EndsWith(const std::string& s, const std::string& suffix) {
  return s.size() >= suffix.size() &&
         s.compare(s.size() - suffix.size(), suffix.size(), suffix) == 0;
}

// Buffers that old exports carry and nothing needs.
bool IsIgnored(const std::string& name) {
  return EndsWith(name, "rotary_emb.inv_freq") || EndsWith(name, ".embed_scale") ||
         EndsWith(name, "position_ids") || EndsWith(name, "original_inv_freq");
}

void Classify(const TensorSet& set, CheckpointFiles* files) {
  std::map<std::string, const CatalogTensor*> expected;
  const std::vector<CatalogTensor> catalog = ExpectedTensors(files->config);
  for (const CatalogTensor& t : catalog) expected[t.name] = &t;
  for (const StoredTensor& tensor : set.tensors()) {
    const std::string name = CanonicalTensorName(tensor.name);
    if (name != "lm_head.weight" && !expected.count(name)) {
      if (!IsIgnored(tensor.name)) files->extra.push_back(tensor.name);
      continue;
    }
    LAPIDARY_CHECK(!files->tensors.count(name), set.where(), ": every tensor must occur once; got ",
                   tensor.name, " twice under ", name);
    const std::vector<int64_t> want =
        name == "lm_head.weight"
            ? std::vector<int64_t>{files->config.text.vocab_size, files->config.text.hidden_size}
            : expected[name]->shape;
    const bool scalar = want.size() == 1 && want[0] == 1 && tensor.shape.empty();
    if (tensor.shape != want && !scalar) {
      files->misshapen.push_back(StrCat(set.where(), ": '", tensor.name, "' must be ",
                                        ShapeText(want), "; got ", ShapeText(tensor.shape),
                                        "; try the config.json saved with it"));
      continue;
    }
    if (!tensor.format) {
      files->misshapen.push_back(StrCat(set.where(), ": '", tensor.name,
                                        "' must have a float or known block type; got ",
                                        tensor.dtype));
      continue;
    }
    files->tensors[name] = tensor;
  }
  for (const CatalogTensor& t : catalog) {
    if (files->tensors.count(t.name)) continue;
    const bool bad = std::any_of(
        files->misshapen.begin(), files->misshapen.end(),
        [&](const std::string& line) { return line.find(t.name) != std::string::npos; });
    if (!bad) files->missing.push_back(t.name);
  }
  // A tied head that is stored all the same is dropped; one that differs is kept
  // (gemma4-12b.md 2.3).
  const auto head = files->tensors.find("lm_head.weight");
  const auto embedding = files->tensors.find("model.language_model.embed_tokens.weight");
  if (head != files->tensors.end() && embedding != files->tensors.end()) {
    const StoredTensor &a = head->second, &b = embedding->second;
    if (a.dtype == b.dtype && a.bytes == b.bytes && std::memcmp(a.data, b.data, a.bytes) == 0) {
      files->tensors.erase(head);
    } else if (files->config.text.tie_word_embeddings) {
      files->warnings.push_back(StrCat(set.where(),
                                       ": lm_head.weight differs from the embedding although "
                                       "config.json ties them; it is kept as a head of its own"));
    }
  }
  for (const std::string& w : set.warnings()) files->warnings.push_back(w);
  files->owners.push_back(std::make_shared<TensorSet>(set));
}

class Loader {
 public:
  Loader(const CheckpointFiles& files, const BaseFormat& base, bool check_all)
      : files_(files), base_(base), check_all_(check_all) {
    // A copy in units cannot be evicted as mapped pages can: a file that would fill most of the
    // memory stays as it is. The layout changes no bit of a result.
    if (!base.units) return;
    double bytes = 0;
    for (const auto& [name, t] : files.tensors) {
      if (UnitPieces(t.format->id)) bytes += static_cast<double>(t.bytes);
    }
    units_ = bytes <= 0.75 * static_cast<double>(AvailableMemory().bytes);
  }

  Param LoadParam(const std::string& name) {
    const StoredTensor& t = files_.tensors.at(name);
    Param p;
    p.name = name;
    Shape shape;
    shape.rank = static_cast<int>(t.shape.size());
    for (int i = 0; i < shape.rank; ++i) shape.dims[i] = t.shape[i];
    p.value = Tensor(shape);
    for (int64_t row = 0; row < t.rows(); ++row)
      t.ReadRows(row, 1, p.value.data() + row * t.cols());
    for (int64_t i = 0; i < p.value.size(); ++i) {
      LAPIDARY_CHECK(std::isfinite(p.value.data()[i]), name, ": values must be finite; got ",
                     p.value.data()[i], " at element ", i);
    }
    return p;
  }

  Weight LoadWeight(const std::string& name) {
    const StoredTensor& t = files_.tensors.at(name);
    const Format* format = BaseTensorFormat(
        base_, files_.config, files_.tensors.count("lm_head.weight") > 0, name, t.cols());
    if (format && format != t.format) {
      Weight quantized = QuantizeWeight(name, t, *format);
      if (base_.units && WantsUnits(quantized.view)) LayOutInUnits(&quantized);
      return quantized;
    }
    if (check_all_) {
      const int64_t bad = CountNotFinite(t);
      LAPIDARY_CHECK(bad == 0, name, ": values must be finite; got ", bad,
                     " that are not; try `lapidary inspect`");
      DropMappedPages(t.data, t.bytes);  // they come back when the model runs
    }
    Weight w;
    w.name = name;
    const int64_t element = t.format->block_size == 1 ? t.format->block_bytes : 2;
    const bool aligned = reinterpret_cast<uintptr_t>(t.data) % static_cast<uintptr_t>(element) == 0;
    w.view = {t.format->id, t.rows(), t.cols(), t.data, FormatBytes(*t.format, t.cols())};
    w.owner = std::make_shared<std::vector<std::shared_ptr<const void>>>(files_.owners);
    if (!aligned) {  // legal in old safetensors files; kernels read whole elements
      auto copy = std::make_shared<std::vector<uint64_t>>((t.bytes + 7) / 8);
      std::memcpy(copy->data(), t.data, t.bytes);
      w.view.data = copy->data();
      w.owner = copy;
    }
    if (units_ && WantsUnits(w.view)) {
      OwnedUnits units =
          MakeUnits(w.view, [&t](int64_t row, int64_t count) { t.DropRows(row, count); });
      w.view = units.view;
      w.owner = std::move(units.owner);
    }
    return w;
  }

  Linear LoadLinear(const std::string& path, bool bias = false) {
    Linear l;
    l.path = path;
    l.w = LoadWeight(path + ".weight");
    if (bias) l.bias = std::make_unique<Param>(LoadParam(path + ".bias"));
    return l;
  }

 private:
  const CheckpointFiles& files_;
  const BaseFormat& base_;
  const bool check_all_;
  bool units_ = false;
};

Layer LoadLayer(Loader& loader, const CheckpointFiles& files, int64_t i) {
  const std::string prefix = StrCat("model.language_model.layers.", i, ".");
  Layer layer;
  layer.config = files.config.text.layers[i];
  layer.inv_freq = RopeInverseFrequencies(files.config.text, layer.config);
  layer.input_layernorm = loader.LoadParam(prefix + "input_layernorm.weight");
  layer.post_attention_layernorm = loader.LoadParam(prefix + "post_attention_layernorm.weight");
  layer.pre_feedforward_layernorm = loader.LoadParam(prefix + "pre_feedforward_layernorm.weight");
  layer.post_feedforward_layernorm = loader.LoadParam(prefix + "post_feedforward_layernorm.weight");
  layer.q_proj = loader.LoadLinear(prefix + "self_attn.q_proj");
  layer.k_proj = loader.LoadLinear(prefix + "self_attn.k_proj");
  if (!layer.config.k_is_v) layer.v_proj = loader.LoadLinear(prefix + "self_attn.v_proj");
  layer.o_proj = loader.LoadLinear(prefix + "self_attn.o_proj");
  layer.q_norm = loader.LoadParam(prefix + "self_attn.q_norm.weight");
  layer.k_norm = loader.LoadParam(prefix + "self_attn.k_norm.weight");
  layer.gate_proj = loader.LoadLinear(prefix + "mlp.gate_proj");
  layer.up_proj = loader.LoadLinear(prefix + "mlp.up_proj");
  layer.down_proj = loader.LoadLinear(prefix + "mlp.down_proj");
  layer.layer_scalar = loader.LoadParam(prefix + "layer_scalar").value.data()[0];
  return layer;
}

}  // namespace

CheckpointFiles OpenCheckpointFiles(const std::string& path) {
  CheckpointFiles files;
  if (EndsWith(path, ".gguf")) {
    GgufSource source = OpenGgufSource(path);
    files.config = ParseModelConfig(source.config_json, path);
    files.warnings = source.warnings;
    files.tokenizer = std::make_shared<GgufTokenizer>(std::move(source.tokenizer));
    files.processor_json = source.processor_json;
    Classify(source.tensors, &files);
    return files;
  }
  LAPIDARY_CHECK(
      std::filesystem::is_directory(path), path,
      ": a model must be a folder with config.json and safetensors, or a .gguf file; got ",
      std::filesystem::exists(path) ? "another file" : "nothing");
  const std::string config = path + "/config.json";
  LAPIDARY_CHECK(std::filesystem::exists(config), config,
                 ": must exist; got nothing; try the folder that holds the checkpoint");
  files.config = ParseModelConfig(ReadFile(config, 1 << 26), config);
  Classify(OpenCheckpoint(path), &files);
  return files;
}

int64_t CountNotFinite(const StoredTensor& tensor) {
  std::atomic<int64_t> bad{0};
  const int64_t rows = tensor.rows(), cols = tensor.cols();
  const auto count16 = [&](uint16_t exponent) {
    const int64_t n = rows * cols;
    ParallelFor(
        n,
        [&](Range r) {
          int64_t found = 0;
          for (int64_t i = r.begin; i < r.end; ++i) {
            uint16_t bits;
            std::memcpy(&bits, tensor.data + 2 * i, 2);
            found += (bits & exponent) == exponent;
          }
          bad += found;
        },
        1 << 16);
  };
  switch (tensor.format->id) {
    case kFormatBF16:
      count16(0x7f80);
      return bad;
    case kFormatF16:
      count16(0x7c00);
      return bad;
    default:
      break;
  }
  ParallelFor(rows, [&](Range r) {
    std::vector<float> row(cols);
    int64_t found = 0;
    for (int64_t i = r.begin; i < r.end; ++i) {
      tensor.ReadRows(i, 1, row.data());
      for (float v : row) found += !std::isfinite(v);
    }
    bad += found;
  });
  return bad;
}

LoadedModel LoadModel(const std::string& path, const BaseFormat& base) {
  CheckBaseFormat(base, path);
  LAPIDARY_CHECK(base.as_stored() || !EndsWith(path, ".gguf"), path,
                 ": a GGUF file must be taken in the formats it has; got base_format '", base.mix,
                 "', embedding_format '", base.embedding, "'; try the Hugging Face folder");
  const CheckpointFiles files = OpenCheckpointFiles(path);
  LAPIDARY_CHECK(files.misshapen.empty(), files.misshapen.front());
  LAPIDARY_CHECK(files.missing.empty(), path, ": must hold ", files.missing.front(),
                 "; got nothing (", files.missing.size(),
                 " tensors are missing); try `lapidary inspect`");
  LoadedModel loaded;
  loaded.warnings = files.warnings;
  loaded.tokenizer = files.tokenizer;
  loaded.processor_json = files.processor_json;
  if (!files.extra.empty()) {
    loaded.warnings.push_back(
        StrCat(path, ": ", files.extra.size(),
               " tensors are not of this architecture and are ignored; the first is ",
               files.extra.front()));
  }
  uint64_t bytes = 0;
  for (const auto& [name, tensor] : files.tensors) bytes += tensor.bytes;
  Loader loader(files, base, bytes <= kCheckFiniteBytes);
  Transformer& model = loaded.model;
  model.config = files.config;
  model.embed_tokens = loader.LoadWeight("model.language_model.embed_tokens.weight");
  if (files.tensors.count("lm_head.weight"))
    model.lm_head = std::make_unique<Weight>(loader.LoadWeight("lm_head.weight"));
  model.norm = loader.LoadParam("model.language_model.norm.weight");
  for (int64_t i = 0; i < model.config.num_layers(); ++i)
    model.layers.push_back(LoadLayer(loader, files, i));
  if (model.config.has_vision) {
    const std::string v = "model.vision_embedder.";
    auto vision = std::make_unique<VisionEmbedder>();
    vision->patch_ln1_weight = loader.LoadParam(v + "patch_ln1.weight");
    vision->patch_ln1_bias = loader.LoadParam(v + "patch_ln1.bias");
    vision->patch_dense = loader.LoadLinear(v + "patch_dense", /*bias=*/true);
    vision->patch_ln2_weight = loader.LoadParam(v + "patch_ln2.weight");
    vision->patch_ln2_bias = loader.LoadParam(v + "patch_ln2.bias");
    vision->pos_embedding = loader.LoadParam(v + "pos_embedding");
    vision->pos_norm_weight = loader.LoadParam(v + "pos_norm.weight");
    vision->pos_norm_bias = loader.LoadParam(v + "pos_norm.bias");
    vision->projection = loader.LoadLinear("model.embed_vision.embedding_projection");
    model.vision = std::move(vision);
  }
  if (model.config.has_audio) {
    model.audio = std::make_unique<AudioEmbedder>();
    model.audio->projection = loader.LoadLinear("model.embed_audio.embedding_projection");
  }
  return loaded;
}

}  // namespace lapidary
