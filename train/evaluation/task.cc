#include "train/evaluation/task.h"

#include <algorithm>
#include <functional>
#include <nlohmann/json.hpp>
#include <numeric>

#include "autograd/base/error.h"
#include "autograd/base/file.h"
#include "autograd/base/random.h"
#include "data/json.h"
#include "data/unicode.h"
#include "train/config.h"
#include "train/evaluation/metrics.h"

namespace lapidary {
namespace {

using Json = nlohmann::ordered_json;
using Texts = std::vector<std::string>;

constexpr uint64_t kShuffleStream = 0x7461736b;
constexpr size_t kMostOptions = 26;  // letters

std::string Letter(size_t index) { return std::string(1, static_cast<char>('A' + index)); }

std::string Show(const Json& value) { return DumpJson(value).substr(0, 60); }

// --- reading the file ---

class TaskReader {
 public:
  TaskReader(const Json& object, std::string where, std::string prefix = "")
      : object_(object), where_(std::move(where)), prefix_(std::move(prefix)) {}

  void Text(const char* key, std::string& field) {
    if (const Json* v = Find(key)) {
      if (!v->is_string()) Bad(key, "a string", *v);
      field = v->get<std::string>();
    }
  }
  void Flag(const char* key, bool& field) {
    if (const Json* v = Find(key)) {
      if (!v->is_boolean()) Bad(key, "true or false", *v);
      field = v->get<bool>();
    }
  }
  void Count(const char* key, int64_t& field, int64_t low, int64_t high) {
    if (const Json* v = Find(key)) {
      const bool fits = v->is_number_integer() && *v >= low && *v <= high;
      if (!fits) Bad(key, StrCat("an integer from ", low, " to ", high), *v);
      field = v->get<int64_t>();
    }
  }
  // A string or a list of strings.
  void List(const char* key, Texts& field) {
    const Json* v = Find(key);
    if (v == nullptr) return;
    field.clear();
    for (const Json& item : v->is_array() ? *v : Json::array({*v})) {
      if (!item.is_string()) Bad(key, "a string or a list of strings", *v);
      field.push_back(item.get<std::string>());
    }
  }
  const Json* Find(const char* key) {
    known_.push_back(key);
    const auto it = object_.find(key);
    return it == object_.end() ? nullptr : &*it;
  }
  void Finish() const {
    for (const auto& [key, value] : object_.items()) {
      if (std::find(known_.begin(), known_.end(), key) != known_.end()) continue;
      const std::string near = NearestName(key, known_);
      throw Error(StrCat(where_, ": keys must be known; got '", prefix_, key, "'",
                         near.empty() ? "; try recipes/configs/eval/README.md for the list"
                                      : StrCat("; try '", prefix_, near, "'")));
    }
  }
  [[noreturn]] void Bad(const std::string& key, const std::string& rule, const Json& value) const {
    throw Error(StrCat(where_, ": '", prefix_, key, "' must be ", rule, "; got ", Show(value)));
  }

 private:
  const Json& object_;
  std::string where_, prefix_;
  Texts known_;
};

void ReadExtract(const Json* list, TaskReader& reader, const std::string& where, EvalTask& task) {
  if (list == nullptr) return;
  if (!list->is_array()) reader.Bad("extract", "a list of rules", *list);
  for (const Json& item : *list) {
    ExtractRule rule;
    if (item.is_string()) {
      rule.pattern = item.get<std::string>();
    } else {
      if (!item.is_object()) reader.Bad("extract", "a list of patterns or rules", item);
      TaskReader part(item, where, "extract.");
      part.Text("pattern", rule.pattern);
      part.Count("group", rule.group, 0, 99);
      std::string take = "first";
      part.Text("take", take);
      if (take != "first" && take != "last") part.Bad("take", "\"first\" or \"last\"", Json(take));
      rule.last = take == "last";
      part.Flag("ignore_case", rule.ignore_case);
      part.Text("as", rule.as);
      part.Finish();
    }
    if (rule.pattern.empty()) reader.Bad("extract", "rules with a pattern", item);
    task.extract.push_back(std::move(rule));
  }
}

void CheckTask(const EvalTask& task, const std::string& where) {
  LAPIDARY_CHECK(!task.name.empty() && !task.prompt.empty(), where,
                 ": 'name' and 'prompt' must be given; got none");
  const int answers = !task.answer.empty() + !task.answers.empty() + !task.answer_letter.empty() +
                      !task.answer_index.empty() + (task.answer_option >= 0);
  LAPIDARY_CHECK(answers == (task.ifeval ? 0 : 1), where, ": ",
                 task.ifeval ? "instruction following takes no answer"
                             : "one of 'answer', 'answers', 'answer_letter', 'answer_index' and "
                               "'answer_option' must be given",
                 "; got ", answers);
  const bool by_option =
      !task.answer_letter.empty() || !task.answer_index.empty() || task.answer_option >= 0;
  LAPIDARY_CHECK(!by_option || !task.options.empty(), where,
                 ": an answer that names an option must come with 'options'; got none");
  LAPIDARY_CHECK(!task.choices || (by_option && task.metrics.empty() && task.extract.empty()),
                 where,
                 ": kind \"choices\" must have an answer that names an option, and neither "
                 "'metrics' nor 'extract'; got something else");
  LAPIDARY_CHECK(task.choices || task.ifeval || !task.metrics.empty(), where,
                 ": 'metrics' must name a scorer; got none; try \"exact_match\"");
  LAPIDARY_CHECK(task.shots == 0 || !task.shot_answer.empty(), where,
                 ": 'shots' must come with 'shot_answer'; got none");
  for (const std::string& name : task.metrics) {
    try {
      FindMetric(name);
    } catch (const Error& error) {
      throw Error(StrCat(where, ": 'metrics': ", error.what()));
    }
  }
  const AnswerExtractor patterns(task);  // compiles them
}

// --- rendering ---

using Lookup = std::function<std::string(const std::string& name)>;

// `text` with {name} replaced; {{ and }} are braces.
std::string Render(const std::string& text, const Lookup& lookup, const std::string& where) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if ((text[i] == '{' || text[i] == '}') && i + 1 < text.size() && text[i + 1] == text[i]) {
      out += text[i++];
    } else if (text[i] == '{') {
      const size_t end = text.find('}', i);
      LAPIDARY_CHECK(end != std::string::npos, where, ": a template's '{' must be closed; got '",
                     text.substr(i, 20), "'; try '{{' for a brace");
      out += lookup(text.substr(i + 1, end - i - 1));
      i = end;
    } else {
      out += text[i];
    }
  }
  return out;
}

const Json& Column(const Json& row, const std::string& name, const std::string& where) {
  const auto it = row.find(name);
  if (it != row.end()) return *it;
  Texts names;
  for (const auto& [key, value] : row.items()) names.push_back(key);
  const std::string near = NearestName(name, names);
  std::string all;
  for (const std::string& key : names) all += (all.empty() ? "" : ", ") + key;
  throw Error(StrCat(where, ": must have the column '", name, "'; got ", all.substr(0, 200),
                     near.empty() ? "" : StrCat("; try '", near, "'")));
}

// ['a', "b's"]: a Python list of strings as text, which some data sets hold.
std::vector<std::string> PythonList(const std::string& text, const std::string& where) {
  Texts items;
  size_t i = text.find('[');
  const auto bad = [&]() {
    throw Error(StrCat(where, ": options must be a list; got '", text.substr(0, 60), "'"));
  };
  if (i == std::string::npos) bad();
  for (++i; i < text.size();) {
    const char c = text[i];
    if (c == ']') return items;
    if (c != '\'' && c != '"') {
      if (std::string(" ,\n\t").find(c) == std::string::npos) bad();
      ++i;
      continue;
    }
    std::string item;
    for (++i; i < text.size() && text[i] != c; ++i) {
      if (text[i] != '\\' || i + 1 >= text.size()) {
        item += text[i];
        continue;
      }
      const char next = text[++i];
      item += next == 'n' ? '\n' : next == 't' ? '\t' : next;
      if (std::string("nt\\'\"").find(next) == std::string::npos)
        item.insert(item.size() - 1, "\\");
    }
    if (i >= text.size()) bad();
    ++i;
    items.push_back(item);
  }
  bad();
  return items;
}

Texts OptionsOf(const EvalTask& task, const Json& row, const std::string& where) {
  Texts options;
  if (task.options.size() == 1) {
    const Json& list = Column(row, task.options[0], where);
    if (list.is_string()) return PythonList(list.get<std::string>(), where);
    if (list.is_null()) return options;
    LAPIDARY_CHECK(list.is_array(), where, ": '", task.options[0], "' must be a list; got ",
                   Show(list));
    for (const Json& item : list) options.push_back(PythonStr(item));
  } else {
    for (const std::string& name : task.options)
      options.push_back(std::string(PythonStrip(PythonStr(Column(row, name, where)))));
  }
  LAPIDARY_CHECK(options.size() <= kMostOptions, where, ": there must be at most ", kMostOptions,
                 " options; got ", options.size());
  return options;
}

// The places of n options after shuffling: Fisher and Yates, a function of seed and record.
std::vector<size_t> Shuffled(size_t n, uint64_t seed, const std::string& where) {
  std::vector<size_t> order(n);
  std::iota(order.begin(), order.end(), size_t{0});
  uint64_t hash = 0xcbf29ce484222325u;
  for (const char c : where.substr(where.rfind(':') + 1))
    hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  for (size_t i = n; i > 1; --i) {
    const uint64_t word = RandomBits({seed, hash, kShuffleStream}, i)[0];
    std::swap(order[i - 1], order[static_cast<size_t>((word * i) >> 32)]);
  }
  return order;
}

void AddMedia(const Json& row, const Texts& columns, const char* type, const std::string& where,
              Json& parts) {
  for (const std::string& name : columns) {
    const Json& value = Column(row, name, where);
    if (value.is_null()) continue;
    for (const Json& medium : value.is_array() ? value : Json::array({value}))
      parts.push_back({{"type", type}, {type, medium}});
  }
}

// A row with its options shuffled and its templates filled.
class Rendered {
 public:
  Rendered(const EvalTask& task, const Json& row, const std::string& where, uint64_t seed)
      : task_(task), row_(row), where_(where) {
    if (task.options.empty()) return;
    const Texts plain = OptionsOf(task, row, where);
    std::vector<size_t> order(plain.size());
    std::iota(order.begin(), order.end(), size_t{0});
    if (task.shuffle_options) order = Shuffled(plain.size(), seed, where);
    int64_t given = task.answer_option;
    if (!task.answer_index.empty()) {
      const Json& index = Column(row, task.answer_index, where);
      LAPIDARY_CHECK(index.is_number_integer(), where, ": '", task.answer_index,
                     "' must be the number of an option; got ", Show(index));
      given = index.get<int64_t>();
    }
    if (!task.answer_letter.empty()) {
      const std::string letter(PythonStrip(Fill(task.answer_letter)));
      given = letter.size() == 1 ? letter[0] - 'A' : -1;
    }
    for (size_t place = 0; place < order.size(); ++place) {
      options.push_back(plain[order[place]]);
      if (static_cast<int64_t>(order[place]) == given) right = static_cast<int64_t>(place);
    }
    const bool named = !task.answer_letter.empty() || !task.answer_index.empty() || given >= 0;
    LAPIDARY_CHECK(!named || right >= 0, where, ": the answer must be one of the ", options.size(),
                   " options; got ",
                   task.answer_letter.empty() ? StrCat(given) : Fill(task.answer_letter));
  }

  std::string Fill(const std::string& text) const {
    return Render(
        text,
        [&](const std::string& name) {
          if (name == "options") return OptionLines();
          if (name == "letter") return right >= 0 ? Letter(static_cast<size_t>(right)) : "";
          return PythonStr(Column(row_, name, where_));
        },
        where_);
  }

  // The user's turn.
  Json User() const {
    Json parts = Json::array();
    AddMedia(row_, task_.images, "image", where_, parts);
    AddMedia(row_, task_.videos, "video", where_, parts);
    parts.push_back({{"type", "text"}, {"text", Fill(task_.prompt)}});
    AddMedia(row_, task_.audios, "audio", where_, parts);
    return {{"role", "user"}, {"content", parts}};
  }

  Texts options;
  int64_t right = -1;

 private:
  std::string OptionLines() const {
    std::string lines;
    for (size_t i = 0; i < options.size(); ++i) {
      lines += Render(
          task_.option_format,
          [&](const std::string& name) {
            LAPIDARY_CHECK(name == "letter" || name == "option", "option_format",
                           ": must hold {letter} and {option}; got {", name, "}");
            return name == "letter" ? Letter(i) : options[i];
          },
          where_);
    }
    return lines;
  }

  const EvalTask& task_;
  const Json& row_;
  const std::string where_;
};

}  // namespace

EvalTask ParseEvalTask(const std::string& text, const std::string& where) {
  const Json json = Json::parse(text, nullptr, false, /*ignore_comments=*/true);
  LAPIDARY_CHECK(json.is_object(), where, ": must be a JSON object; got something else");
  EvalTask task;
  TaskReader reader(json, where);
  reader.Text("name", task.name);
  reader.Text("about", task.about);
  std::string kind = "generate";
  reader.Text("kind", kind);
  if (kind != "generate" && kind != "choices" && kind != "ifeval")
    reader.Bad("kind", "\"generate\", \"choices\" or \"ifeval\"", Json(kind));
  task.choices = kind == "choices";
  task.ifeval = kind == "ifeval";
  reader.Text("system", task.system);
  reader.Text("prompt", task.prompt);
  reader.List("images", task.images);
  reader.List("audios", task.audios);
  reader.List("videos", task.videos);
  reader.List("options", task.options);
  reader.Text("option_format", task.option_format);
  reader.Flag("shuffle_options", task.shuffle_options);
  reader.Text("answer", task.answer);
  reader.Text("answers", task.answers);
  reader.Text("answer_letter", task.answer_letter);
  reader.Text("answer_index", task.answer_index);
  reader.Count("answer_option", task.answer_option, 0, kMostOptions - 1);
  ReadExtract(reader.Find("extract"), reader, where, task);
  if (const Json* otherwise = reader.Find("otherwise"); otherwise && !otherwise->is_null()) {
    if (!otherwise->is_string()) reader.Bad("otherwise", "a string or null", *otherwise);
    task.otherwise = otherwise->get<std::string>();
    task.whole_otherwise = false;
  }
  reader.List("metrics", task.metrics);
  reader.Text("group", task.group);
  reader.Count("shots", task.shots, 0, 1000);
  reader.Text("shot_answer", task.shot_answer);
  reader.Count("max_new_tokens", task.max_new_tokens, 1, 1 << 20);
  reader.Flag("think", task.think);
  reader.Count("samples", task.samples, 1, 1000);
  reader.Finish();
  CheckTask(task, where);
  return task;
}

EvalTask LoadEvalTask(const std::string& path) {
  return ParseEvalTask(ReadFile(path, uint64_t{1} << 24), path);
}

TaskItem MakeTaskItem(const EvalTask& task, const Json& row, const std::vector<Json>& solved,
                      const RecordPlace& place, uint64_t seed) {
  const Rendered rendered(task, row, place.where, seed);
  TaskItem item;
  item.where = place.where;
  if (!task.group.empty()) item.group = PythonStr(Column(row, task.group, place.where));
  item.question = rendered.Fill(task.prompt);
  item.options = rendered.options;
  item.right_option = rendered.right;
  if (item.right_option >= 0) {
    item.references = {Letter(static_cast<size_t>(item.right_option))};
  } else if (!task.answers.empty()) {
    const Json& list = Column(row, task.answers, place.where);
    for (const Json& text : list.is_array() ? list : Json::array({list}))
      item.references.push_back(PythonStr(text));
  } else if (!task.ifeval) {
    item.references = {rendered.Fill(task.answer)};
  }
  LAPIDARY_CHECK(task.ifeval || !item.references.empty(), place.where,
                 ": must have a right answer; got none");
  Json messages = Json::array();
  if (!task.system.empty())
    messages.push_back({{"role", "system"}, {"content", rendered.Fill(task.system)}});
  for (size_t i = 0; i < solved.size(); ++i) {
    const Rendered example(task, solved[i], StrCat(place.where, ": example ", i), seed);
    messages.push_back(example.User());
    messages.push_back({{"role", "assistant"}, {"content", example.Fill(task.shot_answer)}});
  }
  messages.push_back(rendered.User());
  item.record = FindRecordFormat("messages")->read(Json{{"messages", std::move(messages)}}, place);
  return item;
}

AnswerExtractor::AnswerExtractor(const EvalTask& task) : task_(task) {
  for (const ExtractRule& rule : task.extract)
    patterns_.emplace_back(rule.pattern, PatternOptions{.ignore_case = rule.ignore_case},
                           task.name + ": extract");
}

std::string AnswerExtractor::operator()(const std::string& text) const {
  for (size_t i = 0; i < patterns_.size(); ++i) {
    const ExtractRule& rule = task_.extract[i];
    const std::vector<PatternMatch> found = patterns_[i].FindAll(text);
    if (found.empty()) continue;
    if (!rule.as.empty()) return rule.as;
    const PatternMatch& match = rule.last ? found.back() : found.front();
    const size_t group = static_cast<size_t>(rule.group);
    if (group < match.groups.size()) return match.groups[group];
  }
  return task_.whole_otherwise ? text : task_.otherwise;
}

}  // namespace lapidary
