// Checks of the small files beside the weights: chat template, stop ids, tokenizer, processor,
// settings that readers of older versions look for.
#include <algorithm>

#include "autograd/base/error.h"
#include "data/chat_template.h"
#include "train/doctor/subject.h"

namespace lapidary {
namespace {

using OrderedJson = nlohmann::ordered_json;

bool Has(const OrderedJson& list, int64_t id) {
  if (list.is_number_integer()) return list.get<int64_t>() == id;
  if (!list.is_array()) return false;
  return std::any_of(list.begin(), list.end(), [&](const OrderedJson& v) {
    return v.is_number_integer() && v.get<int64_t>() == id;
  });
}

std::string Text(const std::vector<std::string>& list) {
  std::string text;
  for (const std::string& item : list) text += (text.empty() ? "" : ", ") + item;
  return text;
}

void CheckTemplate(Subject* s) {
  const std::string used = s->Template();
  const OrderedJson tokenizer = s->Json("tokenizer_config.json");
  const bool file = s->texts.count("chat_template.jinja") > 0;
  if (file && tokenizer.is_object() && tokenizer.contains("chat_template") &&
      tokenizer["chat_template"] != used) {
    s->Add("template-twice",
           "chat_template.jinja and the chat_template of tokenizer_config.json differ", {}, true);
  }
  if (!used.empty()) {
    if (const auto warning = CheckTemplateRevision(used)) s->Add("template", *warning, {}, true);
    return;
  }
  const OrderedJson generation = s->Json("generation_config.json");
  const auto turn = s->tokenizer ? s->tokenizer->Find("<turn|>") : std::nullopt;
  if (turn && generation.is_object() && generation.contains("eos_token_id") &&
      Has(generation["eos_token_id"], *turn)) {
    s->Add("template", "an instruction-tuned checkpoint (it stops at <turn|>) without a template",
           {}, true);
  }
}

void CheckGeneration(Subject* s) {
  if (!s->tokenizer) return;
  const OrderedJson generation = s->Json("generation_config.json");
  const bool chat = !s->Template().empty();
  std::vector<std::string> lacking;
  for (const char* name : {"<eos>", "<turn|>", "<|tool_response>"}) {
    const auto id = s->tokenizer->Find(name);
    if (!id || (!chat && std::string_view(name) != "<eos>")) continue;
    const bool there = generation.is_object() && generation.contains("eos_token_id") &&
                       Has(generation["eos_token_id"], *id);
    if (!there) lacking.push_back(StrCat(name, " (", *id, ")"));
  }
  if (!lacking.empty()) {
    s->Add("stop-ids",
           StrCat("generation_config.json ", generation.is_object() ? "has no " : "is absent: no ",
                  Text(lacking), " among eos_token_id"),
           lacking, true);
  }
  if (!s->config) return;
  std::vector<std::string> speak;
  for (const auto& [id, media] : {std::pair{s->config->eoi_token_id, s->config->has_vision},
                                  std::pair{s->config->eoa_token_id, s->config->has_audio}}) {
    const bool there = generation.is_object() && generation.contains("suppress_tokens") &&
                       Has(generation["suppress_tokens"], id);
    if (id >= 0 && media && !there) speak.push_back(std::to_string(id));
  }
  if (!speak.empty()) {
    s->Add("suppress-ids",
           StrCat("generation_config.json does not suppress ", Text(speak),
                  ", the ends of pictures and sounds, which are no words"),
           speak, true);
  }
}

void CheckTokenizer(Subject* s) {
  const auto text = s->texts.find("tokenizer.json");
  if (text == s->texts.end()) {
    s->Add("tokenizer", "there is no tokenizer.json");
    return;
  }
  try {
    s->tokenizer =
        std::make_unique<Tokenizer>(ParseTokenizerJson(text->second, s->path + "/tokenizer.json"));
  } catch (const Error& error) {
    s->Add("tokenizer", error.what());
    return;
  }
  if (!s->config) return;
  const ModelConfig& config = *s->config;
  if (s->tokenizer->size() > config.text.vocab_size) {
    s->Add("tokenizer", StrCat("tokenizer.json has ", s->tokenizer->size(), " ids, the embedding ",
                               config.text.vocab_size, " rows"));
  }
  std::vector<std::string> wrong;
  for (const auto& [name, id] :
       {std::pair{"<|image|>", config.image_token_id},
        std::pair{"<|audio|>", config.audio_token_id},
        std::pair{"<|video|>", config.video_token_id}, std::pair{"<|image>", config.boi_token_id},
        std::pair{"<image|>", config.eoi_token_id}, std::pair{"<|audio>", config.boa_token_id},
        std::pair{"<audio|>", config.eoa_token_id}}) {
    const auto found = s->tokenizer->Find(name);
    if (id < 0 || (found && *found == id)) continue;
    wrong.push_back(StrCat(name, " is ", id, " in config.json and ",
                           found ? std::to_string(*found) : "absent", " in tokenizer.json"));
  }
  if (!wrong.empty()) s->Add("tokenizer", wrong[0], wrong);
}

// The template writes <bos> itself; a post-processor that adds one makes two.
void CheckBos(Subject* s) {
  if (!s->tokenizer || s->Template().find("bos_token") == std::string::npos) return;
  const auto bos = s->tokenizer->Find("<bos>");
  const auto& prefix = s->tokenizer->prefix();
  if (bos && std::find(prefix.begin(), prefix.end(), *bos) != prefix.end()) {
    s->Add("double-bos",
           "the post_processor of tokenizer.json adds <bos>, and so does the chat template", {},
           true);
  }
}

void CheckProcessor(Subject* s) {
  if (!s->config || (!s->config->has_vision && !s->config->has_audio)) return;
  if (s->texts.count("processor_config.json") || s->texts.count("preprocessor_config.json")) return;
  s->Add("processor", "the model takes pictures or sounds, and there is no processor_config.json",
         {}, true);
}

void CheckFlatKeys(Subject* s) {
  if (!s->config) return;
  const OrderedJson config = s->Json("config.json");
  const OrderedJson& text = config.contains("text_config") ? config["text_config"] : config;
  const bool full = std::any_of(s->config->text.layers.begin(), s->config->text.layers.end(),
                                [](const LayerConfig& l) { return l.full_attention; });
  if (!full || !text.is_object()) return;
  std::vector<std::string> lacking;
  for (const char* key :
       {"head_dim", "num_key_value_heads", "global_head_dim", "num_global_key_value_heads"}) {
    if (!text.contains(key) || text[key].is_null()) lacking.push_back(key);
  }
  if (!lacking.empty()) {
    s->Add("flat-keys",
           StrCat("config.json says it with per_layer_config alone; absent: ", Text(lacking)),
           lacking, true);
  }
}

}  // namespace

void ExamineSides(Subject* s) {
  CheckTokenizer(s);
  CheckTemplate(s);
  CheckGeneration(s);
  CheckBos(s);
  CheckProcessor(s);
  CheckFlatKeys(s);
}

}  // namespace lapidary
