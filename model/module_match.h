// Which modules a pattern of a configuration means: PEFT's matching, held against a module's path
// as PEFT sees it in memory and as the checkpoint spells it.
#ifndef LAPIDARY_MODEL_MODULE_MATCH_H_
#define LAPIDARY_MODEL_MODULE_MATCH_H_

#include <regex>
#include <set>
#include <string>

#include "quant/adapter.h"

namespace lapidary {

// The words "all-linear" (every Linear, the three of the embedders included) and "text-linear"
// (those of the text stack) as regular expressions; anything else comes back as it is.
ModulePattern ResolveModuleWords(const ModulePattern& pattern, bool text_only);

// A regular expression must match a whole path, a name a whole path or its end. Remembers which
// entries matched something.
class ModuleMatcher {
 public:
  // `field` begins messages: "lora: target_modules". Throws Error if it is no regular expression.
  ModuleMatcher(const ModulePattern& pattern, const std::string& field, bool text_only);
  bool Matches(const std::string& canonical);
  // Throws Error naming an entry that matched nothing.
  void CheckAllUsed() const;

 private:
  const ModulePattern pattern_;
  const std::string field_;
  const bool text_only_;
  std::regex regex_;
  std::set<std::string> used_;
};

}  // namespace lapidary

#endif  // LAPIDARY_MODEL_MODULE_MATCH_H_
