#include "data/survey.h"

#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "autograd/base/error.h"
#include "autograd/base/random.h"
#include "data/json.h"
#include "data/unicode.h"

namespace lapidary {
namespace {

using Json = nlohmann::ordered_json;

// The script of a letter; null for what is none, or common to all.
const char* ScriptOf(uint32_t c) {
  struct Range {
    uint32_t first, last;
    const char* name;
  };
  static constexpr Range ranges[] = {
      {'A', 'Z', "Latin"},       {'a', 'z', "Latin"},          {0xc0, 0x24f, "Latin"},
      {0x370, 0x3ff, "Greek"},   {0x400, 0x52f, "Cyrillic"},   {0x531, 0x58f, "Armenian"},
      {0x590, 0x5ff, "Hebrew"},  {0x600, 0x77f, "Arabic"},     {0x900, 0x97f, "Devanagari"},
      {0x980, 0x9ff, "Bengali"}, {0xb80, 0xbff, "Tamil"},      {0xc00, 0xc7f, "Telugu"},
      {0xe00, 0xe7f, "Thai"},    {0x10a0, 0x10ff, "Georgian"}, {0x1100, 0x11ff, "Hangul"},
      {0x1e00, 0x1eff, "Latin"}, {0x3040, 0x309f, "Hiragana"}, {0x30a0, 0x30ff, "Katakana"},
      {0x3400, 0x4dbf, "Han"},   {0x4e00, 0x9fff, "Han"},      {0xac00, 0xd7af, "Hangul"},
      {0x20000, 0x2ffff, "Han"}};
  for (const Range& range : ranges) {
    if (c >= range.first && c <= range.last) return range.name;
  }
  return nullptr;
}

// All text of a record that people wrote.
std::string TextOf(const Record& record) {
  std::string text = record.prompt + record.completion + record.rejected_completion;
  for (const Json* list : {&record.messages, &record.rejected}) {
    for (const Json& message : *list) {
      if (!message.is_object() || !message.contains("content")) continue;
      const Json& content = message["content"];
      if (content.is_string()) text += "\n" + content.get<std::string>();
      if (!content.is_array()) continue;
      for (const Json& part : content) {
        if (part.is_object() && part.contains("text") && part["text"].is_string()) {
          text += "\n" + part["text"].get<std::string>();
        }
      }
    }
  }
  return text;
}

// Names a record by everything that makes it: text, roles and media.
uint64_t Identity(const Record& record) {
  std::string all = TextOf(record);
  for (const Json& message : record.messages) {
    if (message.is_object()) all += "\x01" + message.value("role", Json()).dump();
  }
  for (const MediaRef& ref : record.media) {
    all += "\x02" + (ref.source.in_memory ? ref.source.bytes : ref.source.path);
  }
  return HashName(all);
}

// What looks like UTF-8 that was read as Latin-1, or is no text.
const char* EncodingTrouble(const std::string& text) {
  for (const char* sign : {"\xc3\x83\xc2", "\xc3\xa2\xe2\x82\xac", "\xc3\x82\xc2"}) {
    if (text.find(sign) != std::string::npos) return "text that was decoded twice (Ã..., â€...)";
  }
  if (text.find("\xef\xbf\xbd") != std::string::npos) return "replacement characters (U+FFFD)";
  for (const char c : text) {
    const auto byte = static_cast<uint8_t>(c);
    if (byte < 0x20 && c != '\n' && c != '\t' && c != '\r') return "control characters";
  }
  return nullptr;
}

void AddFinding(const SurveyOptions& options, Finding finding, Survey& survey) {
  Survey::Count& count = survey.found[finding.kind];
  const int64_t before = count.errors + count.warnings;
  ++(finding.error ? count.errors : count.warnings);
  if (options.max_findings > 0 && before >= options.max_findings) return;
  survey.findings.push_back(std::move(finding));
}

class Looker {
 public:
  Looker(Survey& survey, const SurveyOptions& options, const std::set<uint64_t>& held_out)
      : survey_(survey), options_(options), held_out_(held_out) {}

  void See(const std::string& where, const Record* record, const BuiltSample& built,
           const std::string& error) {
    where_ = where;
    if (!error.empty()) {
      AddFinding(options_, {where, true, "unusable", error}, survey_);
    } else if (!built.note.empty()) {
      AddFinding(options_, {where, false, "too long", built.note}, survey_);
    }
    if (record == nullptr) return;
    Conversation(*record);
    const std::string text = TextOf(*record);
    Text(*record, text);
    Scripts(text);
    Same(*record);
    if (!built.sample) return;
    survey_.samples += 1 + static_cast<int64_t>(built.more.size());
    int64_t counts[4] = {};  // by TokenType
    const auto add = [&](const Sample& sample) {
      for (const uint8_t type : sample.types) ++counts[type];
    };
    add(*built.sample);
    for (const Sample& sample : built.more) add(sample);
    survey_.text_tokens += counts[kTextToken];
    survey_.image_tokens += counts[kImageToken];
    survey_.video_tokens += counts[kVideoToken];
    survey_.audio_tokens += counts[kAudioToken];
    survey_.lengths.push_back(counts[0] + counts[1] + counts[2] + counts[3]);
    if (counts[kImageToken] > 0) survey_.image_lengths.push_back(counts[kImageToken]);
    if (counts[kVideoToken] > 0) survey_.video_lengths.push_back(counts[kVideoToken]);
    if (counts[kAudioToken] > 0) survey_.audio_lengths.push_back(counts[kAudioToken]);
  }

 private:
  void Warn(const char* kind, const std::string& message) {
    AddFinding(options_, {where_, false, kind, where_ + ": " + message}, survey_);
  }

  void Conversation(const Record& record) {
    static const std::set<std::string> known = {"system",    "developer", "user",
                                                "assistant", "tool",      "model"};
    std::string before;
    int64_t index = 0;
    for (const Json& message : record.messages) {
      const std::string at = StrCat("messages[", index++, "]");
      const std::string role =
          message.is_object() && message.contains("role") && message["role"].is_string()
              ? message["role"].get<std::string>()
              : "";
      if (!known.contains(role)) {
        Warn("role", StrCat(at,
                            ": role must be one of system, developer, user, assistant, tool; "
                            "got '",
                            role, "'"));
      }
      if (role == "user" && before == "user") {
        Warn("order", at + ": a user's message must be answered before the next; got two in a row");
      }
      if (role == "tool" && before != "assistant" && before != "tool") {
        Warn("order", at + ": a tool's message must follow a call; got it behind '" + before + "'");
      }
      if ((role == "assistant" || role == "model") && index == 1) {
        Warn("order", at + ": a conversation must begin with a question; got an answer");
      }
      if (role == "assistant" && IsEmpty(message)) {
        ++survey_.empty_answers;
        Warn("empty answer", at + ": an answer must have text; got none");
      }
      before = role;
    }
    if (record.kind == RecordKind::kMessages && before == "user") {
      Warn("order", "a conversation must end with an answer; got a question at its end");
    }
  }

  static bool IsEmpty(const Json& message) {
    if (message.contains("tool_calls") && !message["tool_calls"].empty()) return false;
    if (!message.contains("content") || message["content"].is_null()) return true;
    const Json& content = message["content"];
    if (content.is_string()) {
      return PythonStrip(content.get_ref<const std::string&>()).empty();
    }
    return content.empty();
  }

  void Text(const Record& record, const std::string& text) {
    if (record.kind != RecordKind::kMessages && record.kind != RecordKind::kPreference &&
        record.completion.empty()) {
      ++survey_.empty_answers;
      Warn("empty answer", "a completion must have text; got none");
    }
    for (const char* tag : {"<image>", "<audio>", "<video>"}) {
      if (text.find(tag) == std::string::npos) continue;
      Warn("tag", StrCat("a ", tag, " tag must have a file in its column; got it as text"));
    }
    if (const char* trouble = EncodingTrouble(text)) {
      Warn("encoding", StrCat("text must be clean UTF-8; got ", trouble));
    }
  }

  void Scripts(const std::string& text) {
    for (size_t i = 0; i < text.size();) {
      const CodePoint c = DecodeUtf8(text.data() + i, text.size() - i);
      i += c.length;
      if (const char* script = ScriptOf(c.value)) ++survey_.scripts[script];
    }
  }

  void Same(const Record& record) {
    const uint64_t identity = Identity(record);
    if (const auto [first, fresh] = seen_.try_emplace(identity, where_); !fresh) {
      ++survey_.duplicates;
      Warn("duplicate", "a record should stand once; got the same as " + first->second);
    }
    if (!held_out_.contains(identity)) return;
    ++survey_.leaks;
    AddFinding(
        options_,
        {where_, true, "leak", where_ + ": must not stand in the held-out data; got it in both"},
        survey_);
  }

  Survey& survey_;
  const SurveyOptions& options_;
  const std::set<uint64_t>& held_out_;
  std::map<uint64_t, std::string> seen_;
  std::string where_;
};

}  // namespace

int64_t Survey::errors() const {
  int64_t sum = 0;
  for (const auto& [kind, count] : found) sum += count.errors;
  return sum;
}

int64_t Survey::warnings() const {
  int64_t sum = 0;
  for (const auto& [kind, count] : found) sum += count.warnings;
  return sum;
}

Survey SurveyDataset(const Dataset& dataset, const Dataset* held_out, const SampleBuilder& builder,
                     const SurveyOptions& options) {
  Survey survey;
  std::set<uint64_t> held;
  for (int64_t i = 0; held_out != nullptr && i < held_out->size(); ++i) {
    try {
      held.insert(Identity(held_out->Read(i)));
    } catch (const Error& e) {
      AddFinding(options, {held_out->Where(i), true, "unusable", e.what()}, survey);
    }
  }
  Looker looker(survey, options, held);
  survey.report = InspectDataset(
      dataset, builder, options.limit, 100,
      [&](int64_t index, const Record* record, const BuiltSample& built, const std::string& error) {
        looker.See(dataset.Where(index), record, built, error);
      });
  survey.steps = (survey.samples + options.batch_size - 1) / options.batch_size;
  if (options.tokens_per_s > 0) {
    survey.seconds = static_cast<double>(survey.report.tokens) / options.tokens_per_s;
  }
  return survey;
}

Json SurveyJson(const Survey& survey) {
  Json out = ReportJson(survey.report);
  out["tokens_by_kind"] = {{"text", survey.text_tokens},
                           {"image", survey.image_tokens},
                           {"video", survey.video_tokens},
                           {"audio", survey.audio_tokens}};
  const auto lengths = [](std::vector<int64_t> list) -> Json {
    if (list.empty()) return nullptr;
    std::sort(list.begin(), list.end());
    return {{"records", list.size()},
            {"min", list.front()},
            {"median", list[list.size() / 2]},
            {"max", list.back()}};
  };
  out["soft_tokens_of_a_record"] = {{"image", lengths(survey.image_lengths)},
                                    {"video", lengths(survey.video_lengths)},
                                    {"audio", lengths(survey.audio_lengths)}};
  out["trained_share"] = static_cast<double>(survey.report.trained) /
                         static_cast<double>(std::max<int64_t>(1, survey.report.tokens));
  out["epoch"] = {{"steps", survey.steps}};
  if (survey.seconds > 0) out["epoch"]["seconds"] = survey.seconds;
  out["scripts"] = survey.scripts;
  out["duplicates"] = survey.duplicates;
  out["leaks"] = survey.leaks;
  out["empty_answers"] = survey.empty_answers;
  out["found"] = Json::object();
  for (const auto& [kind, count] : survey.found) {
    out["found"][kind] = {{"errors", count.errors}, {"warnings", count.warnings}};
  }
  out["findings"] = Json::array();
  for (const Finding& finding : survey.findings) {
    out["findings"].push_back({{"where", finding.where},
                               {"level", finding.error ? "error" : "warning"},
                               {"kind", finding.kind},
                               {"message", finding.message}});
  }
  return out;
}

std::string FoundText(const Survey& survey) {
  std::map<std::string, int64_t> listed;
  for (const Finding& finding : survey.findings) ++listed[finding.kind];
  std::string out;
  const auto counted = [](int64_t n, const char* what) {
    return StrCat(n, " ", what, n == 1 ? "" : "s");
  };
  for (const auto& [kind, count] : survey.found) {
    out += kind + ": ";
    if (count.errors > 0) out += counted(count.errors, "error");
    if (count.errors > 0 && count.warnings > 0) out += ", ";
    if (count.warnings > 0) out += counted(count.warnings, "warning");
    const int64_t shown = listed[kind];
    if (shown < count.errors + count.warnings) out += StrCat(", the first ", shown, " listed");
    out += "\n";
  }
  return out;
}

std::string EpochText(const Survey& survey) {
  std::string out = StrCat(survey.steps, " steps");
  if (survey.seconds > 0) {
    char hours[40];
    std::snprintf(hours, sizeof hours, "%.2f", survey.seconds / 3600);
    out += StrCat(", about ", hours, " hours");
  }
  return out + StrCat(", ",
                      survey.report.trained * 100 / std::max<int64_t>(1, survey.report.tokens),
                      " % of the tokens trained");
}

std::string SurveyText(const Survey& survey) {
  std::string out = ReportText(survey.report);
  out += StrCat("by kind   ", survey.text_tokens, " text, ", survey.image_tokens, " image, ",
                survey.video_tokens, " video, ", survey.audio_tokens, " audio tokens\nscripts   ");
  std::vector<std::pair<int64_t, std::string>> scripts;
  int64_t letters = 0;
  for (const auto& [name, count] : survey.scripts) {
    scripts.emplace_back(-count, name);
    letters += count;
  }
  std::sort(scripts.begin(), scripts.end());
  for (size_t i = 0; i < scripts.size(); ++i) {
    out += StrCat(i > 0 ? ", " : "", scripts[i].second, " ",
                  (-scripts[i].first * 1000 / std::max<int64_t>(1, letters) + 5) / 10, " %");
  }
  if (scripts.empty()) out += "none";
  return out + StrCat("\nalso      ", survey.duplicates, " duplicates, ", survey.empty_answers,
                      " empty answers, ", survey.leaks, " in the held-out data too\nepoch     ",
                      EpochText(survey), "\n");
}

}  // namespace lapidary
