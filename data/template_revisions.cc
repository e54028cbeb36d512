// Which chat templates are about, told apart by their bytes.
#include <array>

#include "autograd/base/error.h"
#include "autograd/base/sha256.h"
#include "data/chat_template.h"

namespace lapidary {

const char kCanonicalTemplateSha256[] =
    "ae53464bf3be25802b3a5b37def7fd89667067d7577049b3b2d74c4d8de4c6d4";

namespace {

// Known files that are not the canonical one. `sha256` may be a prefix, or empty where only the
// size is known.
struct Revision {
  std::string_view sha256;
  size_t bytes;
  const char* name;
};
constexpr std::array<Revision, 3> kRevisions = {{
    {"", 17466, "Google's first one of 2026-06-03, whose tool loops end wrongly"},
    {"", 18569, "Google's for E2B and E4B, without the empty thought in the generation prompt"},
    {"845f1ee4", 18924, "Unsloth's edit of Google's, which accepts tool arguments as strings"},
}};

}  // namespace

std::optional<std::string> CheckTemplateRevision(std::string_view chat_template) {
  const std::string hash = Sha256Hex(chat_template);
  if (hash == kCanonicalTemplateSha256) return std::nullopt;
  std::string name = "an unknown revision";
  for (const Revision& revision : kRevisions) {
    const bool same_hash = hash.compare(0, revision.sha256.size(), revision.sha256) == 0;
    if (revision.bytes == chat_template.size() && same_hash) {
      name = StrCat(revision.sha256.empty() ? "by its size " : "", revision.name);
    }
  }
  return StrCat("chat template: conversations are rendered with Google's template of 2026-07-09 ",
                "(SHA-256 ", std::string_view(kCanonicalTemplateSha256).substr(0, 8),
                "); the checkpoint brings ", name, " (", chat_template.size(), " bytes, SHA-256 ",
                hash.substr(0, 8), ")");
}

}  // namespace lapidary
