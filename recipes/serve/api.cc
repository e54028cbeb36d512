#include "recipes/serve/api.h"

#include <algorithm>
#include <ctime>

#include "autograd/base/error.h"
#include "recipes/serve/reply.h"

namespace lapidary {

using Json = nlohmann::ordered_json;

Json ErrorJson(const ApiError& error) {
  return {{"error",
           {{"message", error.what()},
            {"type", error.type},
            {"param", error.param.empty() ? Json() : Json(error.param)},
            {"code", error.code.empty() ? Json() : Json(error.code)}}}};
}

std::string TokenLabel(const Tokenizer& tokenizer, int32_t id) {
  const int byte = tokenizer.ByteOf(id);
  if (byte < 0) return tokenizer.TokenText(id);
  constexpr char kDigits[] = "0123456789abcdef";
  return StrCat("bytes:\\x", kDigits[byte >> 4], kDigits[byte & 15]);
}

void CheckContext(int64_t prompt, int64_t answer, int64_t max_context) {
  if (prompt + answer <= max_context) return;
  throw ApiError(
      400, "max_tokens",
      StrCat("request: prompt and answer must have at most ", max_context, " tokens together; got ",
             prompt, " and ", answer, "; try a smaller max_tokens, or serve --max-context"),
      "context_length_exceeded");
}

Api::Api(Engine& engine, ApiOptions options)
    : engine_(engine),
      options_(std::move(options)),
      created_(static_cast<int64_t>(std::time(nullptr))) {}

std::string Api::AdapterOf(const std::string& model) const {
  if (model == options_.model) return "";
  const auto& names = options_.adapters;
  if (std::find(names.begin(), names.end(), model) != names.end()) return model;
  std::string list = options_.model;
  for (const std::string& name : names) list += ", " + name;
  throw ApiError(404, "model",
                 StrCat("model: must be one of ", list, "; got '", model.substr(0, 100), "'"),
                 "model_not_found");
}

std::string Api::NewId(const char* prefix) { return StrCat(prefix, created_, "-", ++count_); }

Json Api::Model(const std::string& name) const {
  AdapterOf(name);
  return {{"id", name}, {"object", "model"}, {"created", created_}, {"owned_by", "lapidary"}};
}

Json Api::Models() const {
  Json list = Json::array({Model(options_.model)});
  for (const std::string& name : options_.adapters) list.push_back(Model(name));
  return {{"object", "list"}, {"data", std::move(list)}};
}

}  // namespace lapidary
