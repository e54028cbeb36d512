#include "train/doctor/subject.h"

#include <algorithm>
#include <filesystem>

#include "autograd/base/error.h"
#include "autograd/base/file.h"
#include "model/gguf_source.h"
#include "model/load.h"
#include "model/tensor_names.h"
#include "quant/strict_json.h"
#include "train/doctor/checks.h"

namespace lapidary {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kTextLimit = uint64_t{1} << 28;

bool EndsWith(std::string_view text, std::string_view tail) {
  return text.size() >= tail.size() && text.substr(text.size() - tail.size()) == tail;
}

constexpr const char* kTexts[] = {
    "config.json",         "generation_config.json",   "tokenizer.json",
    "chat_template.jinja", "tokenizer_config.json",    "processor_config.json",
    "adapter_config.json", "preprocessor_config.json", "model.safetensors.index.json"};

// Safetensors files that hold something else than the tensors of a model.
bool IsWeights(const std::string& name) {
  return EndsWith(name, ".safetensors") && name != "adapter_model.safetensors" &&
         name != "adapters.safetensors" && name != "qat_scales.safetensors";
}

FolderLayout LayoutOf(const Subject& s) {
  const nlohmann::ordered_json config = s.Json("config.json");
  if (!config.is_object()) return FolderLayout::kPlain;
  if (config.contains("quantization") && config["quantization"].is_object()) {
    return FolderLayout::kMlx;
  }
  for (const SafetensorsFile& file : s.files) {
    const auto format = file.metadata().find("format");
    if (format != file.metadata().end() && format->second == "mlx") return FolderLayout::kMlx;
  }
  if (config.contains("quantization_config") && config["quantization_config"].is_object() &&
      config["quantization_config"].value("quant_method", nlohmann::ordered_json()) ==
          "compressed-tensors") {
    return FolderLayout::kCompressed;
  }
  return FolderLayout::kPlain;
}

void OpenFolder(Subject* s) {
  for (const char* name : kTexts) {
    const std::string path = s->path + "/" + name;
    if (!fs::is_regular_file(path)) continue;
    try {
      s->texts[name] = ReadFile(path, kTextLimit);
    } catch (const Error& error) {
      s->Add("broken-file", error.what(), {name});
    }
  }
  const bool adapter = s->kind == SubjectKind::kAdapter || s->kind == SubjectKind::kMlxAdapter;
  const std::string adapter_file =
      s->kind == SubjectKind::kMlxAdapter ? "adapters.safetensors" : "adapter_model.safetensors";
  for (const auto& entry : fs::directory_iterator(s->path)) {
    const std::string name = entry.path().filename().string();
    if (adapter ? name == adapter_file : IsWeights(name)) {
      s->weight_files.push_back(name);
    }
  }
  std::sort(s->weight_files.begin(), s->weight_files.end());
  for (const std::string& name : s->weight_files) {
    try {
      s->files.push_back(SafetensorsFile::Open(s->path + "/" + name));
    } catch (const Error& error) {
      s->all_read = false;
      s->Add("broken-file", error.what(), {name});
    }
  }
  const auto config = s->texts.find("config.json");
  if (config != s->texts.end()) {
    try {
      s->config = ParseModelConfig(config->second, s->path + "/config.json");
    } catch (const Error& error) {
      s->Add("config", error.what());
    }
  } else if (!adapter) {
    s->Add("config", StrCat(s->path, "/config.json: must exist; got nothing"));
  }
  s->layout = LayoutOf(*s);
  for (const SafetensorsFile& file : s->files) {
    for (const StoredTensor& tensor : file.tensors()) {
      const auto [name, part] = SplitPart(tensor.name, s->layout);
      s->parts.push_back({&tensor, adapter ? name : CanonicalTensorName(name), part});
    }
  }
}

}  // namespace

void Subject::Add(const char* id, std::string text, std::vector<std::string> items,
                  bool repairable) {
  DoctorFinding finding;
  finding.check = &FindDoctorCheck(id);
  finding.text = std::move(text);
  finding.items = std::move(items);
  finding.repairable = repairable;
  findings.push_back(std::move(finding));
}

nlohmann::ordered_json Subject::Json(const std::string& name) const {
  const auto text = texts.find(name);
  if (text == texts.end()) return nullptr;
  try {
    ParseStrictJson(text->second, name);
  } catch (const Error&) {
    return nullptr;
  }
  nlohmann::ordered_json json = nlohmann::ordered_json::parse(text->second, nullptr, false);
  return json.is_object() ? json : nlohmann::ordered_json(nullptr);
}

std::string Subject::Template() const {
  const auto file = texts.find("chat_template.jinja");
  if (file != texts.end()) return file->second;
  const nlohmann::ordered_json config = Json("tokenizer_config.json");
  return config.is_object() && config.contains("chat_template") &&
                 config["chat_template"].is_string()
             ? config["chat_template"].get<std::string>()
             : "";
}

std::pair<std::string, std::string> SplitPart(const std::string& name, FolderLayout layout) {
  const auto cut = [&](std::string_view tail) {
    return name.substr(0, name.size() - tail.size()) + ".weight";
  };
  if (layout == FolderLayout::kMlx) {
    for (const char* tail : {".scales", ".biases"}) {
      if (EndsWith(name, tail)) return {cut(tail), tail};
    }
  }
  if (layout == FolderLayout::kCompressed) {
    for (const char* tail :
         {".weight_packed", ".weight_scale", ".weight_shape", ".weight_zero_point"}) {
      if (EndsWith(name, tail)) return {cut(tail), tail};
    }
  }
  return {name, ""};
}

bool IsMediaTensor(const std::string& canonical) {
  return canonical.find("vision") != std::string::npos ||
         canonical.find("audio") != std::string::npos;
}

std::string ExpectedSpelling(const Subject& subject, const std::string& canonical) {
  constexpr std::string_view kModel = "model.", kLanguage = "model.language_model.";
  const bool language = canonical.rfind(kLanguage, 0) == 0;
  if (subject.layout == FolderLayout::kMlx) {
    if (language) return "language_model.model." + canonical.substr(kLanguage.size());
    return canonical.rfind(kModel, 0) == 0 ? canonical.substr(kModel.size())
                                           : "language_model." + canonical;
  }
  if (subject.config && subject.config->text_only && language) {
    return "model." + canonical.substr(kLanguage.size());
  }
  return canonical;
}

Subject OpenSubject(const std::string& path) {
  Subject s;
  s.path = path;
  while (s.path.size() > 1 && s.path.back() == '/') s.path.pop_back();
  std::error_code ignored;
  LAPIDARY_CHECK(fs::exists(s.path, ignored), s.path,
                 ": must be a checkpoint or adapter folder, or a .gguf file; got nothing");
  if (fs::is_directory(s.path, ignored)) {
    const bool has_config = fs::exists(s.path + "/config.json", ignored);
    const bool adapter = fs::exists(s.path + "/adapter_config.json", ignored) ||
                         fs::exists(s.path + "/adapter_model.safetensors", ignored);
    const bool mlx = fs::exists(s.path + "/adapters.safetensors", ignored) &&
                     !fs::exists(s.path + "/adapter_model.safetensors", ignored);
    s.kind = has_config ? SubjectKind::kCheckpoint
             : mlx      ? SubjectKind::kMlxAdapter
             : adapter  ? SubjectKind::kAdapter
                        : SubjectKind::kCheckpoint;
    OpenFolder(&s);
    LAPIDARY_CHECK(s.kind != SubjectKind::kCheckpoint || has_config || !s.weight_files.empty(),
                   s.path,
                   ": must hold config.json, adapter_config.json or *.safetensors; got none of "
                   "them; try the folder that holds the model, or the path of a .gguf");
    return s;
  }
  LAPIDARY_CHECK(EndsWith(s.path, ".gguf"), s.path,
                 ": must be a checkpoint or adapter folder, or a .gguf file; got another file");
  s.kind = SubjectKind::kGguf;
  try {
    s.gguf = GgufFile::Open(s.path);
  } catch (const Error& error) {
    s.all_read = false;
    s.Add("broken-file", error.what(), {fs::path(s.path).filename().string()});
    return s;
  }
  const GgufValue* architecture = s.gguf->Find("general.architecture");
  const GgufValue* type = s.gguf->Find("general.type");
  const bool other = architecture && architecture->is_string() && !architecture->is_array &&
                     architecture->strings[0] == "clip";
  const auto& tensors = s.gguf->tensors().tensors();
  const bool lora =
      (type && type->is_string() && !type->is_array && type->strings[0] == "adapter") ||
      std::any_of(tensors.begin(), tensors.end(),
                  [](const StoredTensor& t) { return EndsWith(t.name, ".lora_a"); });
  LAPIDARY_CHECK(!other, s.path,
                 ": must be a text model; got an mmproj; try the text model beside it, which is "
                 "looked at together with its mmproj");
  if (lora) {
    s.kind = SubjectKind::kGgufLora;
    return s;
  }
  s.mmproj_path = FindMmproj(s.path);
  if (!s.mmproj_path.empty()) {
    try {
      s.mmproj = GgufFile::Open(s.mmproj_path);
    } catch (const Error& error) {
      s.all_read = false;
      s.Add("broken-file", error.what(), {fs::path(s.mmproj_path).filename().string()});
    }
  }
  return s;
}

ModelConfig ReadBaseConfig(const std::string& folder) {
  const std::string path = folder + "/config.json";
  LAPIDARY_CHECK(fs::exists(path), path, ": must exist; got nothing");
  return ParseModelConfig(ReadFile(path, 1 << 26), path);
}

void CheckFinite(Subject* subject, const std::vector<const StoredTensor*>& tensors) {
  std::vector<std::string> items;
  for (const StoredTensor* tensor : tensors) {
    if (!tensor->format) continue;
    if (const int64_t bad = CountNotFinite(*tensor)) {
      items.push_back(StrCat(tensor->name, ": ", bad, " of ", tensor->elements()));
    }
    tensor->DropRows(0, tensor->rows());
  }
  if (!items.empty()) {
    subject->Add("not-finite", StrCat(items.size(), " tensors hold NaN or infinity"), items);
  }
}

}  // namespace lapidary
