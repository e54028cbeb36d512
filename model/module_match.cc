#include "model/module_match.h"

#include "autograd/base/error.h"
#include "model/tensor_names.h"

namespace lapidary {
namespace {

std::string LinearsPattern(bool with_embedders, bool text_only) {
  const std::string text = std::string(text_only ? "" : R"(language_model\.)") +
                           R"(layers\.\d+\.(self_attn\.(q|k|v|o)_proj|mlp\.(gate|up|down)_proj))";
  if (!with_embedders || text_only) return R"(model\.)" + text;
  return R"(model\.()" + text +
         R"(|embed_vision\.patch_dense|embed_vision\.multimodal_embedder\.embedding_projection|embed_audio\.embedding_projection))";
}

bool EndsWith(const std::string& s, const std::string& suffix) {
  return s.size() >= suffix.size() &&
         s.compare(s.size() - suffix.size(), suffix.size(), suffix) == 0;
}

}  // namespace

ModulePattern ResolveModuleWords(const ModulePattern& pattern, bool text_only) {
  if (pattern.names.size() != 1) return pattern;
  const std::string& word = pattern.names[0];
  if (word == "all-linear") return {true, {LinearsPattern(true, text_only)}};
  if (word == "text-linear") return {true, {LinearsPattern(false, text_only)}};
  return pattern;
}

ModuleMatcher::ModuleMatcher(const ModulePattern& pattern, const std::string& field, bool text_only)
    : pattern_(pattern), field_(field), text_only_(text_only) {
  if (!pattern_.is_regex) return;
  try {
    regex_ = std::regex(pattern_.names.at(0), std::regex::ECMAScript);
  } catch (const std::regex_error& error) {
    throw Error(StrCat(field_, " must be a regular expression; got '", pattern_.names[0],
                       "': ", error.what()));
  }
}

bool ModuleMatcher::Matches(const std::string& canonical) {
  bool any = false;
  for (const std::string& path : {InMemoryModulePath(canonical, text_only_), canonical}) {
    if (pattern_.is_regex) {
      if (std::regex_match(path, regex_)) used_.insert(pattern_.names[0]), any = true;
      continue;
    }
    for (const std::string& name : pattern_.names) {
      if (path == name || EndsWith(path, "." + name)) used_.insert(name), any = true;
    }
  }
  return any;
}

void ModuleMatcher::CheckAllUsed() const {
  // "lora: target_modules" -> "lora", "target_modules"
  const size_t colon = field_.find(": ");
  for (const std::string& name : pattern_.names) {
    LAPIDARY_CHECK(used_.count(name), field_.substr(0, colon), ": every entry of ",
                   field_.substr(colon + 2), " must match a module; got '", name,
                   "', which matches none; try all-linear, text-linear, or ",
                   pattern_.is_regex
                       ? "a list of names such as [\"q_proj\"]: a text is a regular expression "
                         "for whole paths"
                       : "a name such as q_proj");
  }
}

}  // namespace lapidary
