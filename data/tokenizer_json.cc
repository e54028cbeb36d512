// tokenizer.json to a TokenizerSpec. The vocabulary and the merges (a million strings) go straight
// into the spec; the rest is small and becomes JSON values first.
#include <nlohmann/json.hpp>
#include <utility>

#include "autograd/base/error.h"
#include "data/json.h"
#include "data/json_builder.h"
#include "data/tokenizer.h"
#include "data/unicode.h"

namespace lapidary {
namespace {

using Json = nlohmann::ordered_json;

// Larger ids would make a small file allocate much memory.
constexpr uint64_t kMaxId = (1 << 24) - 1;

// SAX handler: model.vocab and model.merges are taken out of the document on the way.
class TokenizerSax {
 public:
  explicit TokenizerSax(TokenizerSpec& spec) : spec_(spec) {}

  JsonBuilder builder;
  std::string error;
  std::vector<std::pair<std::string, uint64_t>> vocab;

  bool null() { return InDocument("null") && builder.Value(nullptr); }
  bool boolean(bool v) { return InDocument("a boolean") && builder.Value(v); }
  bool number_integer(int64_t v) { return InDocument("a negative number") && builder.Value(v); }
  bool number_unsigned(uint64_t v) {
    if (place_ != kVocab) return InDocument("a number") && builder.Value(v);
    if (v > kMaxId) return Fail(StrCat("model.vocab: an id must be below 2^24; got ", v));
    vocab.emplace_back(std::move(key_), v);
    return true;
  }
  bool number_float(double v, const std::string& text) {
    return InDocument("a float") && builder.Float(v, text);
  }
  bool string(std::string& v) {
    if (place_ == kMergePair) {
      if (parts_ == 2) return Fail("model.merges: a merge must have two parts; got more");
      (parts_ == 0 ? left_ : right_) = std::move(v);
      ++parts_;
      return true;
    }
    if (place_ == kMerges) {  // the older spelling "left right"
      const size_t space = v.find(' ');
      if (space == std::string::npos || v.find(' ', space + 1) != std::string::npos) {
        return Fail(StrCat("model.merges: a merge must be 'left right'; got '", v, "'"));
      }
      spec_.merges.emplace_back(v.substr(0, space), v.substr(space + 1));
      return true;
    }
    return InDocument("a string") && builder.Value(std::move(v));
  }
  bool binary(std::vector<uint8_t>&) { return false; }
  bool start_object(size_t) {
    if (place_ == kDocument && builder.depth() == 2 && path_[1] == "model" && path_[2] == "vocab") {
      if (!builder.Value(Json::object())) return false;
      place_ = kVocab;
      return true;
    }
    return InDocument("an object") && builder.Start(Json::object());
  }
  bool key(std::string& v) {
    if (place_ == kVocab) {
      key_ = std::move(v);
      return true;
    }
    if (builder.depth() < 3) path_[builder.depth()] = v;
    return builder.Key(std::move(v));
  }
  bool end_object() {
    if (place_ == kVocab) {
      place_ = kDocument;
      return true;
    }
    return builder.End();
  }
  bool start_array(size_t) {
    if (place_ == kMerges) {
      place_ = kMergePair;
      parts_ = 0;
      return true;
    }
    if (place_ == kDocument && builder.depth() == 2 && path_[1] == "model" &&
        path_[2] == "merges") {
      if (!builder.Value(Json::array())) return false;
      place_ = kMerges;
      return true;
    }
    return InDocument("an array") && builder.Start(Json::array());
  }
  bool end_array() {
    if (place_ == kMergePair) {
      if (parts_ != 2)
        return Fail(StrCat("model.merges: a merge must have two parts; got ", parts_));
      spec_.merges.emplace_back(std::move(left_), std::move(right_));
      place_ = kMerges;
      return true;
    }
    if (place_ == kMerges) {
      place_ = kDocument;
      return true;
    }
    return builder.End();
  }
  bool parse_error(size_t position, const std::string&, const nlohmann::detail::exception&) {
    return Fail(StrCat("must be JSON; got an error at byte ", position));
  }

 private:
  enum Place { kDocument, kVocab, kMerges, kMergePair };

  bool Fail(std::string message) {
    if (error.empty()) error = std::move(message);
    return false;
  }
  bool InDocument(const char* got) {
    if (place_ == kDocument) return true;
    return Fail(StrCat(place_ == kVocab ? "model.vocab: a token must have a number"
                                        : "model.merges: a merge must be two strings",
                       "; got ", got));
  }

  TokenizerSpec& spec_;
  Place place_ = kDocument;
  std::string path_[3];  // keys on the way to the current value, by depth
  std::string key_, left_, right_;
  int parts_ = 0;
};

// One member of an object, or null.
const Json& Member(const Json& object, const char* key) {
  static const Json null;
  const auto found = object.find(key);
  return found == object.end() ? null : *found;
}

std::string TypeOf(const Json& stage) {
  if (!stage.is_object()) return DumpJson(stage).substr(0, 40);
  const Json& type = Member(stage, "type");
  return type.is_string() ? type.get<std::string>() : "no type";
}

std::string StringMember(const Json& object, const char* key, const std::string& where) {
  const Json& value = Member(object, key);
  LAPIDARY_CHECK(value.is_string(), where, ": ", key, " must be a string; got ",
                 DumpJson(value).substr(0, 40));
  return value.get<std::string>();
}

bool Flag(const Json& object, const char* key, bool otherwise, const std::string& where) {
  const Json& value = Member(object, key);
  if (value.is_null()) return otherwise;
  LAPIDARY_CHECK(value.is_boolean(), where, ": ", key, " must be true or false; got ",
                 DumpJson(value).substr(0, 40));
  return value.get<bool>();
}

int32_t Id(const Json& value, const std::string& where) {
  LAPIDARY_CHECK(value.is_number_unsigned() && value.get<uint64_t>() <= kMaxId, where,
                 ": an id must be a number below 2^24; got ", DumpJson(value).substr(0, 40));
  return static_cast<int32_t>(value.get<uint64_t>());
}

// The literal of {"String": "..."}.
std::string Pattern(const Json& stage, const std::string& where) {
  const Json& pattern = Member(stage, "pattern");
  LAPIDARY_CHECK(pattern.is_object() && pattern.size() == 1 && pattern.contains("String"), where,
                 ": the pattern must be a plain string; got ", DumpJson(pattern).substr(0, 60));
  return StringMember(pattern, "String", where);
}

// The stages of a pipeline member: none, one, or those of a Sequence.
std::vector<Json> Stages(const Json& stage, const char* list, const std::string& where) {
  if (stage.is_null()) return {};
  LAPIDARY_CHECK(stage.is_object(), where, ": must be an object; got ",
                 DumpJson(stage).substr(0, 40));
  if (TypeOf(stage) != "Sequence") return std::vector<Json>(1, stage);
  const Json& stages = Member(stage, list);
  LAPIDARY_CHECK(stages.is_array(), where, ": a Sequence must have the list ", list);
  return std::vector<Json>(stages.begin(), stages.end());
}

void ReadNormalizer(const Json& root, TokenizerSpec& spec, const std::string& where) {
  spec.replace.clear();
  for (const Json& stage : Stages(root, "normalizers", where)) {
    LAPIDARY_CHECK(TypeOf(stage) == "Replace", where, ": must be Replace of plain strings; got ",
                   TypeOf(stage));
    spec.replace.emplace_back(Pattern(stage, where), StringMember(stage, "content", where));
  }
}

// Gemma's pre-tokenizer splits at spaces, of which the normalizer has left none.
void CheckPreTokenizer(const Json& root, const TokenizerSpec& spec, const std::string& where) {
  for (const Json& stage : Stages(root, "pretokenizers", where)) {
    LAPIDARY_CHECK(TypeOf(stage) == "Split", where,
                   ": must be a Split that the normalizer leaves without effect; got ",
                   TypeOf(stage));
    const std::string pattern = Pattern(stage, where);
    LAPIDARY_CHECK(!Flag(stage, "invert", false, where), where, ": invert must be false; got true");
    bool gone = false;
    for (const auto& [from, to] : spec.replace) {
      gone = (gone || from == pattern) && to.find(pattern) == std::string::npos;
    }
    LAPIDARY_CHECK(gone, where,
                   ": must be a Split that the normalizer leaves without effect; got pattern '",
                   pattern, "'");
  }
}

void ReadDecoder(const Json& root, TokenizerSpec& spec, const std::string& where) {
  spec.decode_replace.clear();
  bool bytes = false;
  for (const Json& stage : Stages(root, "decoders", where)) {
    const std::string type = TypeOf(stage);
    if (type == "Replace" && !bytes) {
      spec.decode_replace.emplace_back(Pattern(stage, where),
                                       StringMember(stage, "content", where));
    } else if (type == "ByteFallback" && !bytes) {
      bytes = true;
    } else {
      LAPIDARY_CHECK(type == "Fuse" && bytes, where,
                     ": must be Replace ..., ByteFallback, Fuse; got ", type);
    }
  }
  LAPIDARY_CHECK(bytes, where, ": must be Replace ..., ByteFallback, Fuse; got no ByteFallback");
}

void ReadPostProcessor(const Json& root, TokenizerSpec& spec, const std::string& where) {
  if (root.is_null()) return;
  LAPIDARY_CHECK(TypeOf(root) == "TemplateProcessing", where, ": must be TemplateProcessing; got ",
                 TypeOf(root));
  const Json& single = Member(root, "single");
  LAPIDARY_CHECK(single.is_array(), where, ": single must be a list; got ",
                 DumpJson(single).substr(0, 40));
  bool text = false;
  for (const Json& piece : single) {
    if (piece.is_object() && piece.contains("Sequence")) {
      LAPIDARY_CHECK(!text, where, ": single must name the text once; got it twice");
      text = true;
      continue;
    }
    LAPIDARY_CHECK(piece.is_object() && Member(piece, "SpecialToken").is_object(), where,
                   ": single must hold Sequence and SpecialToken; got ",
                   DumpJson(piece).substr(0, 60));
    const std::string name = StringMember(Member(piece, "SpecialToken"), "id", where);
    const Json& table = Member(root, "special_tokens");
    const Json& entry = table.is_object() ? Member(table, name.c_str()) : table;
    LAPIDARY_CHECK(entry.is_object() && Member(entry, "ids").is_array(), where,
                   ": special_tokens must list the ids of '", name, "'");
    for (const Json& id : Member(entry, "ids")) {
      (text ? spec.suffix : spec.prefix).push_back(Id(id, where));
    }
  }
  LAPIDARY_CHECK(text, where, ": single must name the text; got none");
}

void ReadModel(const Json& model, TokenizerSpec& spec, const std::string& where) {
  LAPIDARY_CHECK(model.is_object(), where, ": must be an object; got ",
                 DumpJson(model).substr(0, 40));
  const Json& type = Member(model, "type");  // absent in the oldest files
  LAPIDARY_CHECK(type.is_null() || type == "BPE", where, ": type must be BPE; got ", TypeOf(model));
  const Json& dropout = Member(model, "dropout");
  LAPIDARY_CHECK(dropout.is_null() || (dropout.is_number() && dropout.get<double>() == 0), where,
                 ": dropout must be null; got ", DumpJson(dropout).substr(0, 40));
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    const Json& value = Member(model, key);
    LAPIDARY_CHECK(value.is_null() || value == "", where, ": ", key, " must be null; got ",
                   DumpJson(value).substr(0, 40));
  }
  LAPIDARY_CHECK(!Flag(model, "ignore_merges", false, where), where,
                 ": ignore_merges must be false; got true");
  spec.byte_fallback = Flag(model, "byte_fallback", false, where);
  spec.fuse_unk = Flag(model, "fuse_unk", false, where);
  spec.unk.reset();
  if (!Member(model, "unk_token").is_null()) spec.unk = StringMember(model, "unk_token", where);
}

void ReadAdded(const Json& list, TokenizerSpec& spec, const std::string& where) {
  if (list.is_null()) return;
  LAPIDARY_CHECK(list.is_array(), where, ": must be a list; got ", DumpJson(list).substr(0, 40));
  for (const Json& entry : list) {
    LAPIDARY_CHECK(entry.is_object(), where, ": an entry must be an object; got ",
                   DumpJson(entry).substr(0, 40));
    AddedToken added;
    added.id = Id(Member(entry, "id"), where);
    added.content = StringMember(entry, "content", where);
    for (const char* key : {"single_word", "lstrip", "rstrip"}) {
      LAPIDARY_CHECK(!Flag(entry, key, false, where), where, ": '", added.content, "': ", key,
                     " must be false; got true");
    }
    added.special = Flag(entry, "special", false, where);
    added.normalized = Flag(entry, "normalized", !added.special, where);
    if (!added.content.empty()) spec.added.push_back(std::move(added));
  }
}

}  // namespace

TokenizerSpec ParseTokenizerJson(std::string_view bytes, const std::string& where) {
  TokenizerSpec spec;
  TokenizerSax sax(spec);
  if (!Json::sax_parse(bytes.begin(), bytes.end(), &sax)) {
    throw Error(StrCat(where, ": ", sax.error.empty() ? sax.builder.error : sax.error));
  }
  const Json& root = sax.builder.root;
  LAPIDARY_CHECK(root.is_object(), where, ": must be a JSON object; got ",
                 DumpJson(root).substr(0, 40));
  LAPIDARY_CHECK(!sax.vocab.empty(), where, ": model.vocab must list tokens; got none");
  uint64_t largest = 0;
  for (const auto& [token, id] : sax.vocab) largest = std::max(largest, id);
  const uint64_t limit = 2 * sax.vocab.size() + 1024;
  LAPIDARY_CHECK(largest < limit, where, ": ids of ", sax.vocab.size(), " tokens must be below ",
                 limit, "; got ", largest);
  spec.tokens.resize(largest + 1);
  for (auto& [token, id] : sax.vocab) {
    LAPIDARY_CHECK(spec.tokens[id].empty(), where, ": id ", id, " must be one token; got '",
                   spec.tokens[id], "' and '", token, "'");
    spec.tokens[id] = std::move(token);
  }
  ReadModel(Member(root, "model"), spec, where + ": model");
  ReadNormalizer(Member(root, "normalizer"), spec, where + ": normalizer");
  CheckPreTokenizer(Member(root, "pre_tokenizer"), spec, where + ": pre_tokenizer");
  ReadDecoder(Member(root, "decoder"), spec, where + ": decoder");
  ReadPostProcessor(Member(root, "post_processor"), spec, where + ": post_processor");
  ReadAdded(Member(root, "added_tokens"), spec, where + ": added_tokens");
  return spec;
}

}  // namespace lapidary
