// Checks of a GGUF text model and its mmproj.
#include <algorithm>
#include <cstring>
#include <filesystem>

#include "autograd/base/error.h"
#include "data/chat_template.h"
#include "model/load.h"
#include "model/tensor_names.h"
#include "train/doctor/checks.h"
#include "train/doctor/subject.h"

namespace lapidary {
namespace {

// Without these llama.cpp refuses the file, aborts, or runs it with wrong numbers (formats.md 2.3).
constexpr const char* kNeeded[] = {"general.architecture",
                                   "gemma4.block_count",
                                   "gemma4.context_length",
                                   "gemma4.embedding_length",
                                   "gemma4.feed_forward_length",
                                   "gemma4.attention.head_count",
                                   "gemma4.attention.head_count_kv",
                                   "gemma4.attention.layer_norm_rms_epsilon",
                                   "gemma4.attention.key_length",
                                   "gemma4.attention.value_length",
                                   "gemma4.attention.key_length_swa",
                                   "gemma4.attention.value_length_swa",
                                   "gemma4.attention.sliding_window",
                                   "gemma4.attention.sliding_window_pattern",
                                   "gemma4.embedding_length_per_layer_input",
                                   "gemma4.rope.freq_base",
                                   "gemma4.rope.dimension_count_swa",
                                   "tokenizer.ggml.model",
                                   "tokenizer.ggml.tokens",
                                   "tokenizer.ggml.merges"};

const std::vector<std::string>* Tokens(const GgufFile& file) {
  const GgufValue* tokens = file.Find("tokenizer.ggml.tokens");
  return tokens && tokens->is_array && tokens->is_string() ? &tokens->strings : nullptr;
}

int64_t TokenId(const GgufFile& file, const std::string& token) {
  const auto* tokens = Tokens(file);
  if (!tokens) return -1;
  const auto it = std::find(tokens->begin(), tokens->end(), token);
  return it == tokens->end() ? -1 : it - tokens->begin();
}

void CheckKeys(Subject* s) {
  std::vector<std::string> missing;
  for (const char* key : kNeeded) {
    if (!s->gguf->Find(key)) missing.push_back(key);
  }
  if (!missing.empty()) {
    s->Add(
        "gguf-keys",
        StrCat(missing.size(), " keys are absent: ", missing[0], missing.size() > 1 ? ", ..." : ""),
        missing);
  }
}

// Text tensors by number of layers and pattern, without help from the reader of models, which
// refuses what is incomplete.
void CheckTensors(Subject* s) {
  const TensorSet& set = s->gguf->tensors();
  std::vector<std::string> missing;
  const auto need = [&](const std::string& name) {
    if (!set.Find(name)) missing.push_back(name);
  };
  const GgufValue* count = s->gguf->Find("gemma4.block_count");
  const GgufValue* pattern = s->gguf->Find("gemma4.attention.sliding_window_pattern");
  for (const char* name : {"token_embd.weight", "output_norm.weight"}) need(name);
  int64_t layers = count && count->is_int() && !count->is_array ? count->ints[0] : 0;
  layers = std::clamp<int64_t>(layers, 0, 4096);
  bool full = false;
  for (int64_t i = 0; i < layers; ++i) {
    const bool sliding = !pattern || !pattern->is_int() || !pattern->is_array ||
                         i >= static_cast<int64_t>(pattern->ints.size()) ||
                         pattern->ints[static_cast<size_t>(i)] != 0;
    full = full || !sliding;
    for (const char* part :
         {"attn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "attn_q_norm", "attn_k_norm",
          "post_attention_norm", "ffn_norm", "ffn_gate", "ffn_up", "ffn_down", "post_ffw_norm",
          "layer_output_scale"}) {
      if (!sliding && std::string_view(part) == "attn_v") continue;
      need(StrCat("blk.", i, ".", part, ".weight"));
    }
  }
  if (full) need("rope_freqs.weight");
  if (!missing.empty()) {
    s->Add("missing-tensors",
           StrCat(missing.size(), " tensors: ", missing[0], missing.size() > 1 ? ", ..." : ""),
           missing);
  }
  if (!s->mmproj) {
    if (s->mmproj_path.empty()) s->Add("mmproj", "no mmproj-*.gguf lies beside it");
    return;
  }
  std::vector<std::string> media;
  const auto flag = [&](const char* key) {
    const GgufValue* value = s->mmproj->Find(key);
    return value && value->is_int() && !value->is_array && value->ints[0] != 0;
  };
  const auto want = [&](const char* name) {
    if (!s->mmproj->tensors().Find(name)) media.push_back(name);
  };
  const bool vision = flag("clip.has_vision_encoder"), audio = flag("clip.has_audio_encoder");
  if (!vision) media.push_back("pictures (clip.has_vision_encoder)");
  if (!audio) media.push_back("sounds (clip.has_audio_encoder)");
  if (vision) {
    for (const char* name : {"v.patch_embd.weight", "v.patch_embd.bias", "v.patch_norm.1.weight",
                             "v.patch_norm.1.bias", "v.patch_norm.2.weight", "v.patch_norm.2.bias",
                             "v.patch_norm.3.weight", "v.patch_norm.3.bias",
                             "v.position_embd.weight", "mm.input_projection.weight"}) {
      want(name);
    }
  }
  if (audio) want("mm.a.input_projection.weight");
  if (!media.empty()) {
    s->Add("missing-media",
           StrCat(std::filesystem::path(s->mmproj_path).filename().string(), " lacks ", media[0],
                  media.size() > 1 ? ", ..." : ""),
           media);
  }
}

void CheckDtypes(Subject* s) {
  std::vector<std::string> items;
  for (const StoredTensor& t : s->gguf->tensors().tensors()) {
    if (t.shape.size() <= 1 && t.dtype != "F32") items.push_back(StrCat(t.name, ": ", t.dtype));
  }
  if (!items.empty()) {
    s->Add("dtype", StrCat("vectors must be F32: ", items[0], items.size() > 1 ? ", ..." : ""),
           items);
  }
}

void CheckTokenizer(Subject* s) {
  const GgufFile& file = *s->gguf;
  const auto* tokens = Tokens(file);
  const StoredTensor* embedding = file.tensors().Find("token_embd.weight");
  if (tokens && embedding && static_cast<int64_t>(tokens->size()) != embedding->rows()) {
    s->Add("tokenizer", StrCat("tokenizer.ggml.tokens has ", tokens->size(),
                               " entries, the embedding ", embedding->rows(), " rows"));
  }
  const GgufValue* types = file.Find("tokenizer.ggml.token_type");
  if (!tokens || !types || !types->is_array || !types->is_int() ||
      types->size() != tokens->size()) {
    return;
  }
  std::vector<std::string> wrong;
  for (const char* name : {"<|channel>", "<channel|>", "<|tool_call>", "<tool_call|>",
                           "<|tool_response>", "<tool_response|>", "<|\"|>"}) {
    const int64_t id = TokenId(file, name);
    if (id >= 0 && types->ints[static_cast<size_t>(id)] != 4) {
      wrong.push_back(StrCat(name, ": ", types->ints[static_cast<size_t>(id)]));
    }
  }
  if (!wrong.empty()) {
    s->Add(
        "token-types",
        StrCat(wrong.size(), " markers of thoughts and tools are not user-defined (4): ", wrong[0]),
        wrong, true);
  }
}

void CheckGeneration(Subject* s) {
  const GgufFile& file = *s->gguf;
  if (!Tokens(file)) return;
  const GgufValue* eos = file.Find("tokenizer.ggml.eos_token_id");
  const int64_t id = eos && eos->is_int() && !eos->is_array ? eos->ints[0] : -1;
  const int64_t end = TokenId(file, "<eos>"), turn = TokenId(file, "<turn|>");
  if (end >= 0 && (id < 0 || (id != end && id != turn))) {
    s->Add("stop-ids",
           StrCat("tokenizer.ggml.eos_token_id is ", id < 0 ? "absent" : std::to_string(id),
                  ", which is neither <eos> nor <turn|>"),
           {std::to_string(end)}, true);
  }
  const GgufValue* suppress = file.Find("tokenizer.ggml.suppress_tokens");
  const bool typed = suppress && suppress->is_array && suppress->type == GgufType::kI32;
  std::vector<std::string> speak;
  for (const char* name : {"<audio|>", "<image|>"}) {
    const int64_t end_id = TokenId(file, name);
    if (end_id < 0) continue;
    const bool there = typed && std::find(suppress->ints.begin(), suppress->ints.end(), end_id) !=
                                    suppress->ints.end();
    if (!there) speak.push_back(std::to_string(end_id));
  }
  if (suppress && !typed) {
    s->Add("suppress-ids",
           StrCat("tokenizer.ggml.suppress_tokens must be an array of int32; got ",
                  GgufTypeName(suppress->type)),
           speak, true);
  } else if (!speak.empty()) {
    s->Add("suppress-ids", "tokenizer.ggml.suppress_tokens lacks the ends of pictures and sounds",
           speak, true);
  }
  const GgufValue* chat = file.Find("tokenizer.chat_template");
  if (chat && chat->is_string() && !chat->is_array) {
    if (const auto warning = CheckTemplateRevision(chat->strings[0])) {
      s->Add("template", *warning, {}, true);
    }
  } else if (turn >= 0 && id == turn) {
    s->Add("template", "the model stops at <turn|> and brings no tokenizer.chat_template", {},
           true);
  }
}

void CheckHead(Subject* s) {
  const StoredTensor* head = s->gguf->tensors().Find("output.weight");
  const StoredTensor* embedding = s->gguf->tensors().Find("token_embd.weight");
  if (head && embedding && head->dtype == embedding->dtype && head->bytes == embedding->bytes &&
      std::memcmp(head->data, embedding->data, head->bytes) == 0) {
    s->Add("stored-head",
           StrCat("output.weight repeats token_embd.weight, ", head->bytes, " bytes"), {head->name},
           true);
  }
}

}  // namespace

void ExamineGguf(Subject* s) {
  if (!s->gguf) return;
  CheckKeys(s);
  CheckTensors(s);
  CheckDtypes(s);
  CheckTokenizer(s);
  CheckGeneration(s);
  CheckHead(s);
  // Shapes as the reader of models sees them, where nothing above explains why it would refuse.
  const bool whole =
      std::none_of(s->findings.begin(), s->findings.end(),
                   [](const DoctorFinding& f) { return f.check->severity == Severity::kError; });
  if (whole) {
    try {
      const CheckpointFiles files = OpenCheckpointFiles(s->path);
      if (!files.misshapen.empty()) s->Add("shape", files.misshapen[0], files.misshapen);
      if (!files.extra.empty()) {
        s->Add("extra-tensors", StrCat(files.extra.size(), " tensors: ", files.extra[0]),
               files.extra);
      }
    } catch (const Error& error) {
      s->Add("config", error.what());
    }
  }
  std::vector<const StoredTensor*> tensors;
  for (const StoredTensor& t : s->gguf->tensors().tensors()) tensors.push_back(&t);
  if (s->mmproj) {
    for (const StoredTensor& t : s->mmproj->tensors().tensors()) tensors.push_back(&t);
  }
  CheckFinite(s, tensors);
}

}  // namespace lapidary
