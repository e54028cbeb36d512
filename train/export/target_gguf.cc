// GGUF models for llama.cpp (formats.md 2): text model, mmproj, parts, Modelfile.
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <regex>

#include "autograd/base/error.h"
#include "model/gguf_source.h"
#include "model/quant_mix.h"
#include "train/export/gguf_metadata.h"
#include "train/export/targets.h"

namespace lapidary {
namespace {

namespace fs = std::filesystem;

// The mmproj beside a text file (formats.md 2.6): as llama.cpp's converter writes it for the plain
// types; block formats have one in bf16, but Q8_0, which the converter writes itself, goes into the
// projections too.
struct MmprojKind {
  int64_t file_type;
  const char* projection;  // mm.*.input_projection.weight
  const char* patch;       // v.patch_embd.weight, never quantized
};
MmprojKind MmprojOf(std::string_view mix) {
  if (mix == "f32") return {0, "F32", "F32"};
  if (mix == "f16") return {1, "F16", "F16"};
  if (mix == "q8_0") return {7, "Q8_0", "F32"};
  return {32, "BF16", "F32"};
}

// llama-quantize's --tensor-type: patterns searched in the GGUF name, the first match wins.
class TypeOverrides {
 public:
  explicit TypeOverrides(const std::vector<std::pair<std::string, std::string>>& rows) {
    for (const auto& [pattern, type] : rows) {
      try {
        rows_.push_back({pattern, std::regex(pattern), &GetFormat(type), 0});
      } catch (const std::regex_error&) {
        throw Error(StrCat("export: --tensor-type must start with a regular expression; got '",
                           pattern, "'; try attn_v=q8_0"));
      }
    }
  }
  const Format* Find(const std::string& name) {
    for (Row& row : rows_) {
      if (!std::regex_search(name, row.regex)) continue;
      ++row.matches;
      return row.format;
    }
    return nullptr;
  }
  void CheckUsed() const {
    for (const Row& row : rows_) {
      LAPIDARY_CHECK(row.matches > 0, "export: --tensor-type '", row.pattern,
                     "' must match a matrix that no earlier pattern takes; got none; try a GGUF "
                     "name like blk.3.ffn_down");
    }
  }

 private:
  struct Row {
    std::string pattern;
    std::regex regex;
    const Format* format;
    int matches;
  };
  std::vector<Row> rows_;
};

// The format that the matrix was trained on, if the mix is the one that the run trained for.
const Format* TrainedFormat(const PlanInput& input, const QuantMix& mix, const std::string& name) {
  const auto found = input.trained.find(name);
  if (found == input.trained.end()) return nullptr;
  const Format& matrix = GetFormat(mix.matrix);
  for (const auto& [unused, format] : input.trained) {
    if (format == &matrix) return found->second;
  }
  return nullptr;
}

int64_t Parameters(const PlannedFile& file) {
  int64_t count = 0;
  for (const TensorSpec& tensor : file.manifest.tensors)
    count += ElementCount(tensor.shape, tensor.name);
  return count;
}

void AddRopeFrequencies(const ModelConfig& config, PlannedFile* file) {
  // Only full layers use it, and llama.cpp refuses a file with a tensor that it does not use.
  const bool any_full = std::any_of(config.text.layers.begin(), config.text.layers.end(),
                                    [](const LayerConfig& layer) { return layer.full_attention; });
  if (!any_full) return;
  const std::vector<float> divisors = RopeFrequencyDivisors(config);
  const uint8_t* bytes = reinterpret_cast<const uint8_t*>(divisors.data());
  const std::vector<uint8_t> copy(bytes, bytes + divisors.size() * sizeof(float));
  file->Add({"rope_freqs.weight", "F32", {static_cast<int64_t>(divisors.size())}},
            {"", {}, GgufLayout::kSame, [copy] { return copy; }});
}

void SetKey(GgufKeys& keys, const std::string& key, GgufValue value) {
  for (auto& [name, old] : keys) {
    if (name == key) {
      old = std::move(value);
      return;
    }
  }
  keys.emplace_back(key, std::move(value));
}

// Keys of the GGUF that is the base: what it was called and what its tokenizer is stays, what
// belongs to its quantization goes.
GgufKeys TakenKeys(const std::string& path, int64_t file_type) {
  GgufKeys keys;
  const GgufFile file = GgufFile::Open(path);
  for (const auto& [key, value] : file.keys()) {
    const bool of_the_file =
        key.rfind("split.", 0) == 0 || key.rfind("quantize.", 0) == 0 || key == "general.alignment";
    if (!of_the_file) keys.emplace_back(key, value);
  }
  SetKey(keys, "general.file_type", GgufValue::U32(file_type));
  SetKey(keys, "general.quantization_version", GgufValue::U32(2));
  return keys;
}

// What the matrices of one file take from the importance matrix, and what it lacks.
class ImportanceUse {
 public:
  explicit ImportanceUse(const ExportOptions& options) : options_(options) {}

  // As llama-quantize: weighted if the format takes heed and the matrix has this name. The
  // embedding is in no importance matrix that llama.cpp or we make, unless it was asked for.
  RowEncoding Encoding(const Format& format, const std::string& name, int64_t cols) {
    if (!options_.imatrix || !format.quantize_weighted) return FormatEncoding(format, cols);
    std::vector<float> importance = options_.imatrix->Means(name);
    const bool embedding = name == "token_embd.weight";
    if (importance.empty()) {
      if (!embedding && name != "output.weight" && missing_++ == 0) example_ = name;
      return FormatEncoding(format, cols);
    }
    if (embedding && static_cast<int64_t>(importance.size()) != cols)
      return FormatEncoding(format, cols);
    LAPIDARY_CHECK(static_cast<int64_t>(importance.size()) == cols, options_.imatrix_path, ": '",
                   name, "' must have a weight for each of ", cols, " columns; got ",
                   importance.size(), "; try the importance matrix of this model");
    ++used_;
    return WeightedEncoding(format, std::move(importance));
  }

  void Finish(OutputPlan* plan) const {
    if (!options_.imatrix) return;
    if (missing_ > 0) {
      plan->warnings.push_back(StrCat(
          plan->path, ": ", missing_, " matrices have no importance in ", options_.imatrix_path,
          " and are quantized without it, as by llama.cpp: ", example_));
    } else if (used_ == 0) {
      plan->warnings.push_back(StrCat(plan->path, ": no matrix takes heed of ",
                                      options_.imatrix_path, "; ", plan->format,
                                      " is the same without"));
    }
  }

  // What llama-quantize records; texts of at most 127 bytes, as there.
  void AddKeys(GgufKeys* keys) const {
    if (!options_.imatrix) return;
    const ImportanceMatrix& matrix = *options_.imatrix;
    SetKey(*keys, "quantize.imatrix.file",
           GgufValue::String(options_.imatrix_path.substr(0, kLongest)));
    if (!matrix.datasets.empty()) {
      SetKey(*keys, "quantize.imatrix.dataset",
             GgufValue::String(matrix.datasets[0].substr(0, kLongest)));
    }
    SetKey(*keys, "quantize.imatrix.entries_count",
           GgufValue::U32(static_cast<int64_t>(matrix.entries.size())));
    if (matrix.chunk_count > 0)
      SetKey(*keys, "quantize.imatrix.chunks_count", GgufValue::U32(matrix.chunk_count));
  }

 private:
  static constexpr size_t kLongest = 127;
  const ExportOptions& options_;
  int missing_ = 0, used_ = 0;
  std::string example_;
};

// The user's own words, and what was merged into what (general.base_model.*, as gguf-py spells it).
void AddModelCard(const PlanInput& input, GgufKeys* keys) {
  if (!input.adapters.empty()) {
    SetKey(*keys, "general.base_model.count", GgufValue::U32(1));
    const auto& named = input.adapters[0].adapter.config.base_model_name_or_path;
    const fs::path base =
        named && !named->empty() ? fs::path(*named) : fs::path(input.path).lexically_normal();
    const std::string name =
        base.has_filename() ? base.filename().string() : base.parent_path().filename().string();
    SetKey(*keys, "general.base_model.0.name", GgufValue::String(name));
  }
  for (const auto& [key, value] : input.options.metadata) {
    constexpr const char* kOurs[] = {"architecture", "type", "file_type", "alignment",
                                     "quantization_version"};
    LAPIDARY_CHECK(std::none_of(std::begin(kOurs), std::end(kOurs),
                                [&](const char* ours) { return key == ours; }),
                   "export: --metadata must be a key that describes the model; got '", key,
                   "'; try name, author, license or tags");
    const bool list = key == "tags" || key == "languages" || key == "datasets";
    if (!list) {
      SetKey(*keys, "general." + key, GgufValue::String(value));
      continue;
    }
    std::vector<std::string> items(1);
    for (const char c : value) {
      if (c == ',') {
        items.emplace_back();
      } else if (c != ' ' || !items.back().empty()) {
        items.back() += c;
      }
    }
    SetKey(*keys, "general." + key, GgufValue::Strings(items));
  }
}

// `file` as it is, or in parts as llama-gguf-split makes them: NAME-00001-of-00003.gguf, the
// model's keys in the first.
void AddParts(OutputPlan& plan, PlannedFile file, uint64_t max_bytes) {
  const FileLayout layout = file.type->layout(file.manifest);
  std::vector<std::vector<size_t>> parts(1);
  uint64_t filled = 0;
  for (size_t i = 0; i < layout.bytes.size(); ++i) {
    if (max_bytes > 0 && filled > 0 && filled + layout.bytes[i] > max_bytes) {
      parts.emplace_back();
      filled = 0;
    }
    parts.back().push_back(i);
    filled += layout.bytes[i];
  }
  if (parts.size() == 1) {
    plan.files.push_back(std::move(file));
    return;
  }
  const int64_t count = static_cast<int64_t>(parts.size());
  const std::string stem = file.path.substr(0, file.path.size() - std::strlen(".gguf"));
  for (size_t p = 0; p < parts.size(); ++p) {
    PlannedFile part{GgufPartPath(stem, static_cast<int64_t>(p) + 1, count), file.type, {}, {}};
    if (p == 0) part.manifest.keys = file.manifest.keys;
    const auto u16 = [](size_t n) {
      return GgufValue{GgufType::kU16, false, {static_cast<int64_t>(n)}, {}, {}};
    };
    SetKey(part.manifest.keys, "split.no", u16(p));
    SetKey(part.manifest.keys, "split.count", u16(parts.size()));
    SetKey(part.manifest.keys, "split.tensors.count",
           GgufValue::I32(static_cast<int64_t>(layout.bytes.size())));
    for (const size_t i : parts[p])
      part.Add(std::move(file.manifest.tensors[i]), std::move(file.tensors[i]));
    plan.files.push_back(std::move(part));
  }
}

// For `ollama create NAME -f`: Ollama renders and parses Gemma 4's turns itself, it does not run
// the Jinja template.
PlannedSide Modelfile(const OutputPlan& plan, const GgufKeys& keys) {
  const fs::path folder = fs::path(plan.path).parent_path();
  std::string text;
  for (const PlannedFile& file : plan.files)
    text += "FROM ./" + fs::path(file.path).filename().string() + "\n";
  text += "TEMPLATE {{ .Prompt }}\nRENDERER gemma4\nPARSER gemma4\n";
  for (const auto& [key, name] : {std::pair{"general.sampling.temp", "temperature"},
                                  {"general.sampling.top_k", "top_k"},
                                  {"general.sampling.top_p", "top_p"}}) {
    for (const auto& [k, value] : keys) {
      if (k != key) continue;
      char number[32];
      std::snprintf(number, sizeof(number), "%g",
                    value.is_int() ? static_cast<double>(value.ints[0]) : value.floats[0]);
      text += StrCat("PARAMETER ", name, " ", number, "\n");
    }
  }
  const std::string stem = fs::path(plan.path).stem().string();
  return {(folder / (stem + ".Modelfile")).string(), "", text};
}

// Drafters for speculative decoding (formats.md 2.7) that stand beside the base: they go on working
// with a tuned model.
std::vector<PlannedSide> Drafters(const PlanInput& input, const std::string& path) {
  const fs::path from =
      fs::is_directory(input.path) ? fs::path(input.path) : fs::absolute(input.path).parent_path();
  const fs::path to = fs::absolute(path).parent_path();
  std::vector<PlannedSide> sides;
  if (fs::weakly_canonical(from) == fs::weakly_canonical(to)) return sides;  // already there
  for (const auto& entry : fs::directory_iterator(from)) {
    const std::string name = entry.path().filename().string();
    if (name.rfind("mtp-", 0) == 0 && entry.path().extension() == ".gguf")
      sides.push_back({(fs::path(path).parent_path() / name).string(), entry.path().string(), ""});
  }
  std::sort(sides.begin(), sides.end(),
            [](const PlannedSide& a, const PlannedSide& b) { return a.path < b.path; });
  return sides;
}

}  // namespace

PlannedFile PlanMmproj(const PlanInput& input, const std::string& path, std::string_view mix) {
  const ModelConfig& config = input.base.config;
  const MmprojKind kind = MmprojOf(mix);
  PlannedFile file{MmprojPath(path), &FindFileType("gguf"), {}, {}};
  for (const auto& [name, tensor] : input.base.tensors) {
    const std::optional<GgufTensorPlace> place = FindGgufPlace(name);
    if (!place || !place->mmproj) continue;
    TensorShape shape = WrittenShape(tensor);
    if (place->layout == GgufLayout::kSwapTables) std::swap(shape[0], shape[1]);
    const char* wanted = tensor.shape.size() != 2               ? "F32"
                         : place->name == "v.patch_embd.weight" ? kind.patch
                                                                : kind.projection;
    const Format& format = FormatForRows(GetFormat(wanted), tensor.cols());
    file.Add({place->name, format.name, shape},
             {name, FormatEncoding(format, tensor.cols()), place->layout, {}});
  }
  if (input.from_gguf()) {
    file.manifest.keys = TakenKeys(FindMmproj(input.path), kind.file_type);
  } else {
    file.manifest.keys =
        MmprojKeys(ReadGgufMetadata(input.path, config), config, Parameters(file), kind.file_type);
  }
  AddModelCard(input, &file.manifest.keys);
  return file;
}

OutputPlan PlanGguf(const PlanInput& input, const ExportTarget& target, const std::string& path) {
  LAPIDARY_CHECK(fs::path(path).extension() == ".gguf",
                 "export: a GGUF file must be named *.gguf; got ", path);
  const QuantMix& mix = FindQuantMix(TargetVariant(target), "export");
  const ModelConfig& config = input.base.config;
  const bool untied = input.base.tensors.count("lm_head.weight") > 0;
  OutputPlan plan{target.name, path, false, {}, Drafters(input, path), {}};
  PlannedFile text{path, &FindFileType("gguf"), {}, {}};
  AddRopeFrequencies(config, &text);
  TypeOverrides overrides(input.options.tensor_types);
  ImportanceUse importance(input.options);
  const bool has_importance = input.options.imatrix != nullptr;
  std::string fallback;  // a tensor whose rows are not whole blocks of the format it should have
  int fallbacks = 0;
  for (const auto& [name, tensor] : input.base.tensors) {
    const std::optional<GgufTensorPlace> place = FindGgufPlace(name);
    LAPIDARY_CHECK(place, "export: '", name, "' must have a place in GGUF; got none");
    if (place->mmproj) continue;
    const Format* format = &GetFormat("F32");
    if (tensor.shape.size() == 2) {
      const Format* asked = overrides.Find(place->name);
      if (!asked) asked = TrainedFormat(input, mix, name);
      format = asked
                   ? &FormatForRows(*asked, tensor.cols())
                   : &MixFormat(mix, config, untied, name, tensor.cols(), nullptr, has_importance);
      const Format& wanted =
          asked ? *asked : MixFormat(mix, config, untied, name, 0, nullptr, has_importance);
      if (format != &wanted && fallbacks++ == 0)
        fallback = StrCat(place->name, " is ", format->name, " instead of ", wanted.name);
    }
    text.Add({place->name, format->name, WrittenShape(tensor)},
             {name, importance.Encoding(*format, place->name, tensor.cols()), place->layout, {}});
  }
  overrides.CheckUsed();
  importance.Finish(&plan);
  if (fallbacks > 0) {
    plan.warnings.push_back(StrCat(path, ": ", fallbacks,
                                   " matrices have rows that are not whole blocks and take "
                                   "another format, as in llama.cpp: ",
                                   fallback));
  }
  if (input.from_gguf()) {
    text.manifest.keys = TakenKeys(input.path, mix.file_type);
  } else {
    text.manifest.keys =
        TextKeys(ReadGgufMetadata(input.path, config), config, Parameters(text), mix.file_type);
  }
  AddModelCard(input, &text.manifest.keys);
  importance.AddKeys(&text.manifest.keys);
  const GgufKeys keys = text.manifest.keys;
  AddParts(plan, std::move(text), input.options.max_shard_bytes);
  LAPIDARY_CHECK(!input.options.modelfile || plan.files.size() == 1,
                 "export: a Modelfile must name one GGUF file; got ", plan.files.size(),
                 " parts; try without --max-shard-size");
  if (config.has_vision || config.has_audio)
    plan.files.push_back(PlanMmproj(input, path, mix.name));
  if (input.options.modelfile) plan.sides.push_back(Modelfile(plan, keys));
  return plan;
}

}  // namespace lapidary
