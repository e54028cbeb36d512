// Checks of the tensors of a checkpoint folder: Hugging Face's, MLX's and compressed-tensors'.
#include <algorithm>
#include <cstring>
#include <filesystem>

#include "autograd/base/error.h"
#include "model/load.h"
#include "model/tensor_names.h"
#include "quant/q4_grid.h"
#include "train/doctor/subject.h"

namespace lapidary {
namespace {

namespace fs = std::filesystem;
using OrderedJson = nlohmann::ordered_json;

constexpr char kHead[] = "lm_head.weight";
constexpr char kEmbedding[] = "model.language_model.embed_tokens.weight";

std::string Few(const std::vector<std::string>& names) {
  return names.empty() ? "" : StrCat(names[0], names.size() > 1 ? ", ..." : "");
}

// --- shards

void CheckIndex(Subject* s, bool complete) {
  const bool single = s->weight_files.size() == 1 && s->weight_files[0] == "model.safetensors";
  const auto text = s->texts.find("model.safetensors.index.json");
  if (text == s->texts.end()) {
    if (!single && !s->weight_files.empty()) {
      s->Add("shard-index",
             StrCat(s->weight_files.size(), " weight files and no model.safetensors.index.json"),
             s->weight_files, complete);
    }
    return;
  }
  const OrderedJson index = s->Json("model.safetensors.index.json");
  if (!index.is_object() || !index.contains("weight_map") || !index["weight_map"].is_object()) {
    s->Add("shard-index", "model.safetensors.index.json has no weight_map", {}, complete);
    return;
  }
  std::map<std::string, std::string> actual;
  for (const SafetensorsFile& file : s->files) {
    for (const StoredTensor& t : file.tensors()) {
      actual[t.name] = fs::path(file.path()).filename().string();
    }
  }
  std::set<std::string> lost;
  std::vector<std::string> items;
  for (const auto& [tensor, shard] : index["weight_map"].items()) {
    const std::string name = shard.is_string() ? shard.get<std::string>() : shard.dump();
    if (std::find(s->weight_files.begin(), s->weight_files.end(), name) == s->weight_files.end()) {
      if (lost.insert(name).second) items.push_back(StrCat("no file ", name));
    } else if (s->all_read && (!actual.count(tensor) || actual[tensor] != name)) {
      items.push_back(StrCat(tensor, " is not in ", name));
    }
  }
  if (s->all_read) {
    for (const auto& [tensor, file] : actual) {
      if (!index["weight_map"].contains(tensor)) items.push_back(StrCat(tensor, " is not listed"));
    }
  }
  if (!items.empty()) {
    s->Add("shard-index", StrCat("the index does not fit the weight files: ", Few(items)), items,
           complete);
  }
}

// --- names

// Which habit of naming a spelling comes from: the id of its check.
const char* VintageOf(const std::string& name) {
  if (name.rfind("model.embed_vision.", 0) == 0 || name.rfind("model.embed_audio.", 0) == 0) {
    return "names-memory";
  }
  if (name.rfind("model.language_model.model.", 0) == 0) return "names-doubled";
  if (name.rfind("language_model.", 0) == 0 || name.rfind("vision_embedder.", 0) == 0 ||
      name.rfind("embed_vision.", 0) == 0 || name.rfind("embed_audio.", 0) == 0) {
    return "names-mlx";
  }
  return "names-text";
}

void CheckNames(Subject* s, const std::set<std::string>& catalog) {
  std::map<std::string, std::vector<std::string>> odd;
  for (const NamedPart& p : s->parts) {
    if (!catalog.count(p.canonical) && p.canonical != kHead) continue;
    const auto [stem, part] = SplitPart(p.tensor->name, s->layout);
    if (stem == ExpectedSpelling(*s, p.canonical)) continue;
    if (s->config->text_only && stem == p.canonical) continue;  // the loader of a wrapper's text
    if (s->layout == FolderLayout::kMlx && stem == p.canonical) continue;  // mlx-vlm renames them
    odd[VintageOf(stem)].push_back(p.tensor->name);
  }
  for (const auto& [id, names] : odd) {
    const auto [stem, part] = SplitPart(names[0], s->layout);
    s->Add(id.c_str(),
           StrCat(names.size(), " tensors; the first is ", names[0], ", which should be ",
                  ExpectedSpelling(*s, CanonicalTensorName(stem))),
           names, true);
  }
}

// --- which tensors are there

bool IsIgnored(const std::string& name) {
  for (const char* tail :
       {"rotary_emb.inv_freq", ".embed_scale", "position_ids", "original_inv_freq"}) {
    if (name.size() >= std::strlen(tail) &&
        name.compare(name.size() - std::strlen(tail), std::string::npos, tail) == 0) {
      return true;
    }
  }
  return false;
}

// Shape of the matrix that the parts of one canonical name hold; empty if they do not say.
TensorShape LogicalShape(const std::vector<const NamedPart*>& parts, FolderLayout layout) {
  const StoredTensor *main = nullptr, *shape = nullptr, *scales = nullptr;
  for (const NamedPart* p : parts) {
    if (p->part.empty()) main = p->tensor;
    if (p->part == ".weight_shape") shape = p->tensor;
    if (p->part == ".scales") scales = p->tensor;
  }
  if (layout == FolderLayout::kCompressed && shape && shape->bytes == 16 && shape->data) {
    int64_t sizes[2];
    std::memcpy(sizes, shape->data, sizeof(sizes));
    return {sizes[0], sizes[1]};
  }
  if (!main || (layout == FolderLayout::kMlx && scales)) return {};
  return main->shape;
}

// What a quantized matrix lacks of its parts; "" if nothing.
std::string LackingPart(const std::vector<const NamedPart*>& parts, FolderLayout layout) {
  std::set<std::string> have;
  for (const NamedPart* p : parts) have.insert(p->part);
  if (layout == FolderLayout::kMlx && (have.count(".scales") || have.count(".biases"))) {
    for (const char* part : {"", ".scales", ".biases"}) {
      if (!have.count(part)) return *part ? part : ".weight";
    }
  }
  if (layout == FolderLayout::kCompressed && !have.count("")) {
    for (const char* part : {".weight_packed", ".weight_scale", ".weight_shape"}) {
      if (!have.count(part)) return part;
    }
  }
  return "";
}

// True if every tensor of the catalog is there.
bool CheckCatalog(Subject* s, const std::vector<CatalogTensor>& catalog,
                  const std::set<std::string>& names) {
  std::map<std::string, std::vector<const NamedPart*>> groups;
  std::vector<std::string> extra, misshapen, missing, missing_media;
  for (const NamedPart& p : s->parts) {
    if (names.count(p.canonical) || p.canonical == kHead) {
      groups[p.canonical].push_back(&p);
    } else if (!IsIgnored(p.tensor->name)) {
      extra.push_back(p.tensor->name);
    }
  }
  for (const CatalogTensor& t : catalog) {
    const auto group = groups.find(t.name);
    const std::string lacking = group == groups.end() ? "" : LackingPart(group->second, s->layout);
    if (group == groups.end() || !lacking.empty()) {
      (IsMediaTensor(t.name) ? missing_media : missing)
          .push_back(lacking.empty() ? t.name : StrCat(t.name, " without ", lacking));
      continue;
    }
    const TensorShape shape = LogicalShape(group->second, s->layout);
    const bool scalar = shape.empty() && t.shape == TensorShape{1};
    const bool unsaid = shape.empty() && group->second.size() > 1;
    if (shape != t.shape && !scalar && !unsaid) {
      misshapen.push_back(
          StrCat(t.name, " is ", ShapeText(shape), ", config.json says ", ShapeText(t.shape)));
    }
  }
  if (s->all_read) {
    if (!missing.empty()) {
      s->Add("missing-tensors",
             StrCat(missing.size(), " of ", catalog.size(), " tensors: ", Few(missing)), missing);
    }
    if (!missing_media.empty()) {
      s->Add("missing-media", StrCat(missing_media.size(), " tensors: ", Few(missing_media)),
             missing_media);
    }
  }
  if (!misshapen.empty()) s->Add("shape", misshapen[0], misshapen);
  if (!extra.empty()) {
    s->Add("extra-tensors", StrCat(extra.size(), " tensors: ", Few(extra)), extra, true);
  }
  return missing.empty() && missing_media.empty();
}

void CheckHead(Subject* s) {
  const StoredTensor *head = nullptr, *embedding = nullptr;
  for (const NamedPart& p : s->parts) {
    if (!p.part.empty()) continue;
    if (p.canonical == kHead) head = p.tensor;
    if (p.canonical == kEmbedding) embedding = p.tensor;
  }
  if (!head || !s->config->text.tie_word_embeddings) return;
  const bool same = embedding && head->dtype == embedding->dtype &&
                    head->bytes == embedding->bytes && head->data && embedding->data &&
                    std::memcmp(head->data, embedding->data, head->bytes) == 0;
  if (same) {
    s->Add("stored-head", StrCat(head->name, " repeats the embedding, ", head->bytes, " bytes"),
           {head->name}, true);
  } else {
    s->Add("untied-head",
           StrCat(head->name, " is not the embedding, though config.json ties the two"),
           {head->name});
  }
}

// --- numbers

std::string ConfigDtype(const OrderedJson& config) {
  for (const char* key : {"dtype", "torch_dtype"}) {
    if (config.contains(key) && config[key].is_string()) return config[key].get<std::string>();
  }
  return "";
}

void CheckDtypes(Subject* s, const std::vector<CatalogTensor>& catalog) {
  if (s->layout != FolderLayout::kPlain) return;
  std::set<std::string> matrices = {kEmbedding};
  for (const CatalogTensor& t : catalog) {
    if (t.linear) matrices.insert(t.name);
  }
  std::map<std::string, int64_t> elements;
  for (const NamedPart& p : s->parts) {
    if (matrices.count(p.canonical)) elements[p.tensor->dtype] += p.tensor->elements();
  }
  if (elements.empty()) return;
  std::vector<std::string> items;
  std::string most;
  int64_t best = -1;
  for (const auto& [dtype, count] : elements) {
    items.push_back(StrCat(dtype, ": ", count, " values"));
    if (count > best) best = count, most = dtype;
  }
  const std::map<std::string, std::string> words = {
      {"BF16", "bfloat16"}, {"F16", "float16"}, {"F32", "float32"}};
  const std::string said = ConfigDtype(s->Json("config.json"));
  const auto word = words.find(most);
  if (elements.size() > 1) {
    s->Add("dtype",
           StrCat("the matrices have ", elements.size(), " types: ", items[0], ", ", items[1]),
           items);
  } else if (word == words.end()) {
    s->Add("dtype", StrCat("the matrices are ", most, ", which is no type to train or serve in"),
           items);
  } else if (!said.empty() && said != word->second) {
    s->Add("dtype", StrCat("config.json says ", said, ", the matrices are ", word->second),
           {word->second}, true);
  }
}

// A QAT checkpoint has every matrix on its grid. 64 rows of each tell.
void CheckGrid(Subject* s, const std::vector<CatalogTensor>& catalog) {
  if (s->layout != FolderLayout::kPlain) return;
  std::map<std::string, const StoredTensor*> found;
  for (const NamedPart& p : s->parts) found[p.canonical] = p.tensor;
  std::vector<std::string> off;
  int64_t on = 0;
  for (const CatalogTensor& t : catalog) {
    const auto it = found.find(t.name);
    if (!t.linear || IsMediaTensor(t.name) || it == found.end()) continue;
    const StoredTensor* tensor = it->second;
    if (!tensor->format || !tensor->data || tensor->shape != t.shape || tensor->cols() % 32 != 0) {
      continue;
    }
    StoredTensor few = *tensor;
    few.shape[0] = std::min<int64_t>(64, tensor->rows());
    few.bytes =
        tensor->bytes / static_cast<uint64_t>(tensor->rows()) * static_cast<uint64_t>(few.shape[0]);
    const Q4Survey survey = SurveyQ4(few);
    if (survey.blocks == survey.zero) continue;
    if (survey.share() >= 0.9) {
      ++on;
    } else {
      off.push_back(StrCat(t.name, ": ", static_cast<int>(100 * survey.share()), " %"));
    }
  }
  if (on > 0 && !off.empty()) {
    s->Add("off-grid",
           StrCat(off.size(), " matrices have left the 4-bit grid that ", on,
                  " others lie on: ", Few(off)),
           off);
  }
}

}  // namespace

void ExamineFolder(Subject* s) {
  if (s->weight_files.empty()) {
    s->Add("missing-tensors", "the folder has no *.safetensors file");
    return;
  }
  bool complete = s->all_read;
  if (s->config) {
    const std::vector<CatalogTensor> catalog = ExpectedTensors(*s->config);
    std::set<std::string> names;
    for (const CatalogTensor& t : catalog) names.insert(t.name);
    CheckNames(s, names);
    complete = CheckCatalog(s, catalog, names) && complete;
    CheckHead(s);
    CheckDtypes(s, catalog);
    CheckGrid(s, catalog);
  }
  CheckIndex(s, complete);
  std::vector<const StoredTensor*> tensors;
  for (const NamedPart& p : s->parts) tensors.push_back(p.tensor);
  CheckFinite(s, tensors);
}

}  // namespace lapidary
