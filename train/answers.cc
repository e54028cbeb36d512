#include "train/answers.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>

#include "model/generate.h"
#include "train/evaluate.h"
#include "train/micro_batch.h"

namespace lapidary {
namespace {

using Json = nlohmann::ordered_json;

std::string Trim(const std::string& text) {
  const char* space = " \t\r\n";
  const size_t begin = text.find_first_not_of(space);
  if (begin == std::string::npos) return "";
  return text.substr(begin, text.find_last_not_of(space) - begin + 1);
}

// What is asked and what should come.
struct Exam {
  Sample prompt;
  std::string expected;
  int64_t expected_tokens = 0;
  std::string modality;
  std::string question;
};

bool IsAssistant(const Json& message) {
  const std::string role = message.value("role", "");
  return role == "assistant" || role == "model";
}

// The record without its last answer; none if it has no answer.
std::optional<Record> WithoutAnswer(const Record& record) {
  Record prompt = record;
  if (record.kind == RecordKind::kText) return std::nullopt;
  if (record.kind == RecordKind::kPromptCompletion) {
    prompt.completion.clear();
    return prompt;
  }
  while (!prompt.messages.empty() && !IsAssistant(prompt.messages.back())) {
    prompt.messages.erase(prompt.messages.size() - 1);
  }
  if (prompt.messages.empty()) return std::nullopt;
  prompt.messages.erase(prompt.messages.size() - 1);
  if (prompt.messages.empty()) return std::nullopt;
  if (!prompt.weights.empty()) prompt.weights.resize(prompt.messages.size());
  prompt.prompt_messages = 0;
  return prompt;
}

// The record up to its last answer.
Record UpToAnswer(const Record& record) {
  Record full = record;
  if (record.kind != RecordKind::kMessages) return full;
  while (!full.messages.empty() && !IsAssistant(full.messages.back())) {
    full.messages.erase(full.messages.size() - 1);
  }
  if (!full.weights.empty()) full.weights.resize(full.messages.size());
  return full;
}

std::string LastUserText(const Record& record) {
  if (record.kind != RecordKind::kMessages) return record.prompt;
  std::string text;
  for (const Json& message : record.messages) {
    if (message.value("role", "") != "user" || !message.contains("content")) continue;
    const Json& content = message["content"];
    text.clear();
    if (content.is_string()) text = content.get<std::string>();
    for (const Json& part : content.is_array() ? content : Json::array()) {
      if (part.is_object() && part.contains("text") && part["text"].is_string()) {
        text += part["text"].get<std::string>();
      }
    }
  }
  return Trim(text);
}

class Examiner {
 public:
  Examiner(Bundle& bundle, const AnswerOptions& options)
      : bundle_(bundle),
        options_(options),
        full_(bundle.RequireTokenizer(), FullOptions(options.sample)),
        prompt_(bundle.RequireTokenizer(), PromptOptions(options.sample)) {}

  std::optional<Exam> Make(const Record& record) const {
    const std::optional<Record> asked = WithoutAnswer(record);
    if (!asked) return std::nullopt;
    const BuiltSample full = full_.Build(UpToAnswer(record));
    BuiltSample prompt = prompt_.Build(*asked);
    if (!full.sample || !prompt.sample) return std::nullopt;
    Exam exam;
    exam.prompt = std::move(*prompt.sample);
    const Sample& s = *full.sample;
    size_t common = 0;
    while (common < s.ids.size() && common < exam.prompt.ids.size() &&
           s.ids[common] == exam.prompt.ids[common]) {
      ++common;
    }
    std::vector<int32_t> expected;
    for (size_t i = common; i < s.ids.size(); ++i) {
      if (s.weights[i] > 0) expected.push_back(s.ids[i]);
    }
    if (expected.empty()) return std::nullopt;
    exam.expected_tokens = static_cast<int64_t>(expected.size());
    exam.expected = TextOf(expected);
    exam.modality = ModalityOf(s.images, s.sounds, s.videos);
    exam.question = LastUserText(*asked);
    return exam;
  }

  std::string Ask(const Exam& exam) {
    Sample sample = exam.prompt;
    const MicroBatch micro = MakeMicroBatch(MakeBatch(sample));
    GenerateOptions generate;
    generate.max_new_tokens = options_.max_new_tokens > 0
                                  ? options_.max_new_tokens
                                  : exam.expected_tokens + options_.extra_tokens;
    generate.compute = options_.compute;
    generate.image_mask = options_.image_mask;
    generate.activations = options_.activations;
    if (options_.activations) generate.prefill_chunk = options_.activations->chunk;
    generate.stop_ids = bundle_.generation.stop_ids;
    generate.suppress_ids = bundle_.generation.suppress_ids;
    return TextOf(Generate(bundle_.model, micro.input, generate, {}).ids);
  }

 private:
  static SampleOptions FullOptions(SampleOptions options) {
    options.max_length = 0;
    options.require_targets = false;
    return options;
  }
  static SampleOptions PromptOptions(SampleOptions options) {
    options = FullOptions(options);
    options.add_eos = false;
    options.chat.add_generation_prompt = true;
    return options;
  }

  // Text without the ids that end an answer.
  std::string TextOf(std::vector<int32_t> ids) const {
    const std::vector<int32_t>& stops = bundle_.generation.stop_ids;
    while (!ids.empty() && std::find(stops.begin(), stops.end(), ids.back()) != stops.end()) {
      ids.pop_back();
    }
    return Trim(bundle_.tokenizer->Decode(ids));
  }

  Bundle& bundle_;
  const AnswerOptions& options_;
  const SampleBuilder full_, prompt_;
};

std::vector<MediaKind> Kinds(const Record& record) {
  std::vector<MediaKind> kinds;
  for (const MediaRef& media : record.media) kinds.push_back(media.kind);
  return kinds;
}

// The first record after `index`, going round, with the same kinds of media and another answer.
std::optional<Record> Partner(const Examiner& examiner, const Dataset& dataset, int64_t index,
                              const Record& record, const std::string& expected) {
  const std::vector<MediaKind> kinds = Kinds(record);
  for (int64_t step = 1; step < dataset.size(); ++step) {
    Record other = dataset.Read((index + step) % dataset.size());
    if (Kinds(other) != kinds) continue;
    const std::optional<Exam> exam = examiner.Make(other);
    if (exam && exam->expected != expected) return other;
  }
  return std::nullopt;
}

}  // namespace

AnswerResult EvaluateAnswers(Bundle& bundle, const Dataset& dataset, const AnswerOptions& options) {
  Examiner examiner(bundle, options);
  AnswerResult result;
  const int64_t total =
      options.max_records > 0 ? std::min(options.max_records, dataset.size()) : dataset.size();
  for (int64_t i = 0; i < total; ++i) {
    const int64_t index = i * dataset.size() / total;
    const Record record = dataset.Read(index);
    if (options.on_record) options.on_record(i, total);
    if (options.swap_media && record.media.empty()) continue;
    std::optional<Exam> exam = examiner.Make(record);
    if (!exam) {
      ++result.without_answer;
      continue;
    }
    Answer answer = {
        dataset.Where(index), exam->modality, exam->question, exam->expected, "", false, index};
    if (options.swap_media) {
      const std::optional<Record> other = Partner(examiner, dataset, index, record, exam->expected);
      if (!other) continue;
      Record swapped = record;
      for (size_t m = 0; m < swapped.media.size(); ++m) {
        swapped.media[m].source = other->media[m].source;
      }
      exam = examiner.Make(swapped);
      if (!exam) continue;
    }
    answer.got = examiner.Ask(*exam);
    answer.correct = answer.got == answer.expected;
    for (AnswerResult::Share* share : {&result.all, &result.by_modality[answer.modality]}) {
      ++share->total;
      share->correct += answer.correct;
    }
    result.answers.push_back(std::move(answer));
  }
  if (options.on_record) options.on_record(total, total);
  return result;
}

Json AnswersJson(const AnswerResult& result, bool with_answers) {
  const auto share = [](const AnswerResult::Share& s) {
    return Json{{"accuracy", s.Value()}, {"correct", s.correct}, {"total", s.total}};
  };
  Json json = share(result.all);
  Json parts = Json::object();
  for (const auto& [name, s] : result.by_modality) parts[name] = share(s);
  json["by_modality"] = parts;
  if (!with_answers) return json;
  Json rows = Json::array();
  for (const Answer& a : result.answers) {
    rows.push_back({{"where", a.where},
                    {"modality", a.modality},
                    {"question", a.question},
                    {"expected", a.expected},
                    {"got", a.got},
                    {"correct", a.correct}});
  }
  json["answers"] = rows;
  return json;
}

}  // namespace lapidary
