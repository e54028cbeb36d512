#include "train/config.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <set>

#include "autograd/base/error.h"
#include "autograd/base/file.h"
#include "train/config_check.h"
#include "train/config_fields.h"

namespace lapidary {
namespace {

using Json = nlohmann::ordered_json;

std::string Join(const std::vector<std::string>& words) {
  std::string text;
  for (const std::string& word : words) text += (text.empty() ? "" : ", ") + word;
  return text;
}

// The value as a message shows it, cut to a readable length.
std::string Show(const Json& value) {
  std::string text = value.dump(-1, ' ', false, Json::error_handler_t::replace);
  if (text.size() > 60) text = text.substr(0, 57) + "...";
  return text;
}

[[noreturn]] void Bad(const Origin& origin, const std::string& key, const std::string& rule,
                      const Json& value) {
  throw Error(StrCat(origin.Of(key), ": '", key, "' must be ", rule, "; got ", Show(value)));
}

// Reads the fields of one object; remembers what it knows, so that the rest is an error.
class Reader {
 public:
  Reader(const Json& object, std::string prefix, const Origin& origin)
      : object_(object), prefix_(std::move(prefix)), origin_(origin) {}

  template <class T, class Rule>
  void operator()(const std::string& key, T& field, const Rule& rule, const char*) {
    known_.push_back(key);
    const Json* value = Find(key);
    if (!value) return;
    Read(prefix_ + key, *value, field, rule);
  }

  template <class T>
  void operator()(const std::string& key, std::optional<T>& field) {
    known_.push_back(key);
    const Json* value = Find(key);
    if (!value || value->is_null()) return;
    field.emplace();
    if constexpr (std::is_same_v<T, std::string>) {
      Read(prefix_ + key, *value, *field, TextRule{});
    } else if constexpr (std::is_same_v<T, double>) {
      Read(prefix_ + key, *value, *field, RealRule{-1e300});
    } else if constexpr (std::is_same_v<T, bool>) {
      Read(prefix_ + key, *value, *field, NoRule{});
    } else {
      Read(prefix_ + key, *value, *field, IntRule{0});
    }
  }

  // Throws Error for the first key that no field has.
  void Finish() const {
    for (const auto& [key, value] : object_.items()) {
      if (IsKnown(key)) {
        if (IsGroup(key)) CheckGroup(key, value);
        continue;
      }
      Unknown(key);
    }
  }

 private:
  const Json* Find(const std::string& key) const {
    const size_t dot = key.find('.');
    if (dot != std::string::npos) {  // "dataset.train"
      const auto group = object_.find(key.substr(0, dot));
      if (group == object_.end() || !group->is_object()) return nullptr;
      const auto it = group->find(key.substr(dot + 1));
      return it == group->end() ? nullptr : &*it;
    }
    const auto it = object_.find(key);
    return it == object_.end() ? nullptr : &*it;
  }

  bool IsGroup(const std::string& key) const {
    return std::any_of(known_.begin(), known_.end(),
                       [&](const std::string& k) { return k.rfind(key + ".", 0) == 0; });
  }
  bool IsKnown(const std::string& key) const {
    return std::find(known_.begin(), known_.end(), key) != known_.end() || IsGroup(key);
  }
  void CheckGroup(const std::string& key, const Json& value) const {
    if (!value.is_object()) Bad(origin_, prefix_ + key, "an object", value);
    for (const auto& [inner, unused] : value.items()) {
      if (!IsKnown(key + "." + inner)) Unknown(key + "." + inner);
    }
  }
  [[noreturn]] void Unknown(const std::string& key) const {
    const std::string near = NearestName(key, known_);
    throw Error(StrCat(origin_.Of(prefix_ + key), ": keys must be known; got '", prefix_, key, "'",
                       near.empty() ? "; try --print-config for the list"
                                    : StrCat("; try '", prefix_, near, "'")));
  }

  void Read(const std::string& key, const Json& value, bool& field, NoRule) {
    if (!value.is_boolean()) Bad(origin_, key, "true or false", value);
    field = value.get<bool>();
  }
  void Read(const std::string& key, const Json& value, int64_t& field, const IntRule& rule) {
    const bool whole = value.is_number_integer() ||
                       (value.is_number_float() && std::abs(value.get<double>()) < 1e15 &&
                        value.get<double>() == std::floor(value.get<double>()));
    const bool fits =
        !value.is_number_unsigned() ||
        value.get<uint64_t>() <= static_cast<uint64_t>(std::numeric_limits<int64_t>::max());
    const int64_t number = !whole || !fits           ? 0
                           : value.is_number_float() ? static_cast<int64_t>(value.get<double>())
                                                     : value.get<int64_t>();
    if (!whole || !fits || number < rule.low || number > rule.high) {
      Bad(origin_, key,
          rule.high == std::numeric_limits<int64_t>::max()
              ? StrCat("an integer >= ", rule.low)
              : StrCat("an integer from ", rule.low, " to ", rule.high),
          value);
    }
    field = number;
  }
  void Read(const std::string& key, const Json& value, double& field, const RealRule& rule) {
    const double number = value.is_number() ? value.get<double>() : NAN;
    if (!(number >= rule.low && number <= rule.high) || !std::isfinite(number)) {
      Bad(origin_, key,
          rule.low < -1e299       ? std::string("a number")
          : std::isinf(rule.high) ? StrCat("a number >= ", rule.low)
                                  : StrCat("a number from ", rule.low, " to ", rule.high),
          value);
    }
    field = number;
  }
  void Read(const std::string& key, const Json& value, std::string& field, const WordRule& rule) {
    if (value.is_string() && std::find(rule.words.begin(), rule.words.end(),
                                       value.get<std::string>()) != rule.words.end()) {
      field = value.get<std::string>();
      return;
    }
    const std::string near =
        value.is_string() ? NearestName(value.get<std::string>(), rule.words) : "";
    throw Error(StrCat(origin_.Of(key), ": '", key, "' must be one of ", Join(rule.words), "; got ",
                       Show(value), near.empty() ? "" : StrCat("; try '", near, "'")));
  }
  void Read(const std::string& key, const Json& value, std::string& field, const TextRule&) {
    if (key == "resume_from_checkpoint" && (value.is_boolean() || value.is_null())) {
      field = value.is_boolean() && value.get<bool>() ? "latest" : "";
      return;
    }
    if (value.is_null() && (key == "base_format" || key == "embedding_format")) {
      field.clear();
      return;
    }
    if (!value.is_string()) Bad(origin_, key, "a string", value);
    field = value.get<std::string>();
  }
  void Read(const std::string& key, const Json& value, std::vector<std::string>& field,
            const TextRule&) {
    field.clear();
    if (value.is_null()) return;
    if (value.is_string()) {
      field = {value.get<std::string>()};
      return;
    }
    if (!value.is_array()) Bad(origin_, key, "a string or a list of strings", value);
    for (const Json& item : value) {
      if (!item.is_string()) Bad(origin_, key, "a string or a list of strings", value);
      field.push_back(item.get<std::string>());
    }
  }
  void Read(const std::string& key, const Json& value, std::vector<std::string>& field,
            const WordsRule& rule) {
    Read(key, value, field, TextRule{});
    for (std::string& word : field) {
      Read(key, Json(word), word, WordRule{rule.words});
    }
  }
  void Read(const std::string& key, const Json& value, std::vector<SourceSpec>& field,
            const TextRule&) {
    field.clear();
    if (value.is_null()) return;
    const Json list = value.is_array() ? value : Json::array({value});
    for (const Json& item : list) {
      SourceSpec& source = field.emplace_back();
      if (item.is_string()) {
        source.path = item.get<std::string>();
        continue;
      }
      if (!item.is_object()) Bad(origin_, key, "a path, an object with a path, or a list", item);
      Reader reader(item, key + ".", origin_);
      VisitSourceFields(source, reader);
      reader.Finish();
      if (source.path.empty()) Bad(origin_, key + ".path", "given", item);
      if (source.repeat == 0) Bad(origin_, key + ".repeat", "above 0", item);
    }
  }
  void Read(const std::string& key, const Json& value,
            std::vector<std::pair<std::string, std::string>>& field, NoRule) {
    field.clear();
    if (!value.is_object()) Bad(origin_, key, "an object of names", value);
    for (const auto& [name, item] : value.items()) {
      if (!item.is_string()) Bad(origin_, key + "." + name, "a string", item);
      field.emplace_back(name, item.get<std::string>());
    }
  }
  void Read(const std::string& key, const Json& value, ModulePattern& field, NoRule) {
    field = {};
    if (value.is_null()) return;
    field.is_regex = value.is_string();
    Read(key, value, field.names, TextRule{});
  }
  void Read(const std::string& key, const Json& value, std::vector<int64_t>& field, NoRule) {
    field.clear();
    if (value.is_null()) return;
    if (!value.is_array()) Bad(origin_, key, "a list of integers", value);
    for (const Json& item : value) Read(key, item, field.emplace_back(), IntRule{0, 1 << 20});
  }
  template <class T>
  void Read(const std::string& key, const Json& value,
            std::vector<std::pair<std::string, T>>& field, NoRule) {
    field.clear();
    if (value.is_null()) return;
    if (!value.is_object()) Bad(origin_, key, "an object", value);
    for (const auto& [name, item] : value.items()) {
      T number{};
      if constexpr (std::is_same_v<T, double>) {
        Read(key + "." + name, item, number, RealRule{0, 1e6});
      } else if constexpr (std::is_same_v<T, std::string>) {
        Read(key + "." + name, item, number, TextRule{});
      } else {
        Read(key + "." + name, item, number, IntRule{1, 1 << 20});
      }
      field.emplace_back(name, number);
    }
  }
  // An object or null; `visit` gets a new value and the reader of its keys.
  template <class T, class Visit>
  void ReadOptional(const std::string& key, const Json& value, std::optional<T>& field,
                    const Visit& visit) {
    field.reset();
    if (value.is_null()) return;
    if (!value.is_object()) Bad(origin_, key, "an object or null", value);
    Reader reader(value, key + ".", origin_);
    visit(field.emplace(), reader);
    reader.Finish();
  }
  void Read(const std::string& key, const Json& value, std::optional<AdapterConfig>& field,
            NoRule) {
    ReadOptional(key, value, field, [](auto& lora, Reader& reader) {
      lora.r = 16;
      lora.lora_alpha = 16;
      lora.target_modules = {.is_regex = true, .names = {"text-linear"}};
      VisitLoraFields(lora, reader);
    });
    if (!field) return;
    LAPIDARY_CHECK(field->lora_alpha > 0, origin_.Of(key + ".lora_alpha"),
                   ": 'lora.lora_alpha' must be > 0; got ", field->lora_alpha);
    LAPIDARY_CHECK(!field->target_modules.empty() || !field->modules_to_save.empty(),
                   origin_.Of(key + ".target_modules"),
                   ": 'lora.target_modules' must name something to train; got nothing; try "
                   "\"text-linear\"");
  }
  void Read(const std::string& key, const Json& value, std::optional<QatConfig>& field, NoRule) {
    ReadOptional(key, value, field, [](auto& c, Reader& reader) { VisitQatFields(c, reader); });
    if (field) CheckQatConfig(*field, origin_.Of(key));
  }
  void Read(const std::string& key, const Json& value, std::optional<DistillConfig>& field,
            NoRule) {
    ReadOptional(key, value, field, [](auto& c, Reader& reader) { VisitDistillFields(c, reader); });
  }
  void Read(const std::string& key, const Json& value, std::optional<BlockCoordinateConfig>& field,
            NoRule) {
    ReadOptional(key, value, field, [](auto& c, Reader& reader) { VisitBlockFields(c, reader); });
  }
  void Read(const std::string& key, const Json& value, ScheduleOptions& field, NoRule) {
    if (value.is_null()) return;
    if (!value.is_object()) Bad(origin_, key, "an object", value);
    Reader reader(value, key + ".", origin_);
    VisitScheduleFields(field, reader);
    reader.Finish();
  }
  void Read(const std::string& key, const Json& value, std::optional<PreferenceConfig>& field,
            NoRule) {
    ReadOptional(key, value, field,
                 [](auto& c, Reader& reader) { VisitPreferenceFields(c, reader); });
    if (field) CheckPreference(*field, origin_.Of(key));
  }
  void Read(const std::string& key, const Json& value, OptimArgs& field, NoRule) {
    field = {};
    if (value.is_null()) return;
    if (!value.is_object()) Bad(origin_, key, "an object", value);
    Reader reader(value, key + ".", origin_);
    VisitOptimArgs(field, reader);
    reader.Finish();
  }
  void Read(const std::string& key, const Json& value, std::optional<bool>& field, NoRule) {
    field.reset();
    if (value.is_null()) return;
    Read(key, value, field.emplace(), NoRule{});
  }
  void Read(const std::string& key, const Json& value, std::vector<ParamGroup>& field, NoRule) {
    field.clear();
    if (value.is_null()) return;
    if (!value.is_array()) Bad(origin_, key, "a list of objects", value);
    for (const Json& item : value) {
      if (!item.is_object()) Bad(origin_, key, "a list of objects", value);
      Reader reader(item, key + ".", origin_);
      VisitParamGroupFields(field.emplace_back(), reader);
      reader.Finish();
      if (field.back().pattern.empty()) Bad(origin_, key + ".pattern", "given", item);
    }
  }

  const Json& object_;
  const std::string prefix_;
  const Origin& origin_;
  std::vector<std::string> known_;
};

// Writes fields into an object.
class Writer {
 public:
  explicit Writer(Json* object) : object_(*object) {}

  template <class T, class Rule>
  void operator()(const std::string& key, const T& field, const Rule&, const char*) {
    Slot(key) = ToJson(field);
  }
  template <class T>
  void operator()(const std::string& key, const std::optional<T>& field) {
    if (field) Slot(key) = *field;
  }

 private:
  Json& Slot(const std::string& key) {
    const size_t dot = key.find('.');
    if (dot == std::string::npos) return object_[key];
    return object_[key.substr(0, dot)][key.substr(dot + 1)];
  }
  template <class T>
  static Json ToJson(const T& field) {
    return field;
  }
  static Json ToJson(const ModulePattern& field) {
    if (field.empty()) return nullptr;
    if (field.is_regex) return field.names[0];
    return field.names;
  }
  template <class T>
  static Json ToJson(const std::vector<std::pair<std::string, T>>& field) {
    Json object = Json::object();
    for (const auto& [name, value] : field) object[name] = value;
    return object;
  }
  static Json ToJson(const std::vector<SourceSpec>& field) {
    Json list = Json::array();
    const SourceSpec plain;
    for (const SourceSpec& source : field) {
      Json object = Json::object(), defaults = Json::object();
      Writer writer(&object), blank(&defaults);
      VisitSourceFields(source, writer);
      VisitSourceFields(plain, blank);
      bool simple = true;
      for (const auto& [key, value] : object.items()) {
        simple = simple && (key == "path" || value == defaults[key]);
      }
      list.push_back(simple ? Json(source.path) : object);
    }
    return list;
  }
  // An object of the fields that `visit` goes through.
  template <class Visit>
  static Json ObjectOf(const Visit& visit) {
    Json object = Json::object();
    Writer writer(&object);
    visit(writer);
    return object;
  }
  static Json ToJson(const std::optional<AdapterConfig>& field) {
    if (!field) return nullptr;
    return ObjectOf([&](Writer& writer) { VisitLoraFields(*field, writer); });
  }
  static Json ToJson(const std::optional<QatConfig>& field) {
    if (!field) return nullptr;
    return ObjectOf([&](Writer& writer) { VisitQatFields(*field, writer); });
  }
  static Json ToJson(const std::optional<DistillConfig>& field) {
    if (!field) return nullptr;
    return ObjectOf([&](Writer& writer) { VisitDistillFields(*field, writer); });
  }
  static Json ToJson(const std::optional<BlockCoordinateConfig>& field) {
    if (!field) return nullptr;
    return ObjectOf([&](Writer& writer) { VisitBlockFields(*field, writer); });
  }
  static Json ToJson(const ScheduleOptions& field) {
    return ObjectOf([&](Writer& writer) { VisitScheduleFields(field, writer); });
  }
  static Json ToJson(const std::optional<PreferenceConfig>& field) {
    if (!field) return nullptr;
    return ObjectOf([&](Writer& writer) { VisitPreferenceFields(*field, writer); });
  }
  static Json ToJson(const OptimArgs& field) {
    return ObjectOf([&](Writer& writer) { VisitOptimArgs(field, writer); });
  }
  static Json ToJson(const std::optional<bool>& field) {
    return field ? Json(*field) : Json(nullptr);
  }
  static Json ToJson(const std::vector<ParamGroup>& field) {
    Json list = Json::array();
    for (const ParamGroup& group : field) {
      list.push_back(ObjectOf([&](Writer& writer) { VisitParamGroupFields(group, writer); }));
    }
    return list;
  }

  Json& object_;
};

// JSON with // and /* */ comments; a key twice in one object is an error.
Json ParseWithComments(const std::string& text, const std::string& where) {
  std::vector<std::set<std::string>> keys;
  std::string repeated;
  const auto callback = [&](int, Json::parse_event_t event, Json& value) {
    if (event == Json::parse_event_t::object_start) keys.emplace_back();
    if (event == Json::parse_event_t::object_end) keys.pop_back();
    if (event == Json::parse_event_t::key && !keys.back().insert(value.get<std::string>()).second) {
      repeated = value.get<std::string>();
    }
    return true;
  };
  Json object;
  try {
    object = Json::parse(text, callback, true, true);
  } catch (const Json::parse_error& error) {
    std::string reason = error.what();
    if (const size_t at = reason.find("parse error at "); at != std::string::npos) {
      reason = reason.substr(at + 15);
    }
    throw Error(StrCat(where, ": must be JSON (comments are fine); got an error at ", reason));
  }
  LAPIDARY_CHECK(repeated.empty(), where, ": a key must stand once; got '", repeated, "' twice");
  LAPIDARY_CHECK(object.is_object(), where, ": must be a JSON object; got ", Show(object));
  return object;
}

// Puts "a.b=value" into the object.
void Override(const std::string& assignment, Json& object, Origin& origin) {
  const size_t equals = assignment.find('=');
  LAPIDARY_CHECK(equals != std::string::npos && equals > 0, "--set: must be key=value; got '",
                 assignment, "'; try --set max_steps=10");
  const std::string key = assignment.substr(0, equals);
  const std::string text = assignment.substr(equals + 1);
  Json value = Json::parse(text, nullptr, false);
  if (value.is_discarded()) value = text;
  Json* slot = &object;
  for (size_t begin = 0; begin <= key.size();) {
    const size_t end = std::min(key.find('.', begin), key.size());
    if (slot->is_null()) *slot = Json::object();
    LAPIDARY_CHECK(slot->is_object(), "--set: '", key, "' must lead through objects; got ",
                   Show(*slot), " above it");
    slot = &(*slot)[key.substr(begin, end - begin)];
    begin = end + 1;
  }
  *slot = value;
  origin.overridden.insert(key);
}

}  // namespace

TrainConfig ParseTrainConfig(const std::string& text, const std::string& where,
                             const std::vector<std::string>& overrides) {
  Json object = ParseWithComments(text, where);
  Origin origin = {where, {}};
  for (const std::string& assignment : overrides) Override(assignment, object, origin);
  TrainConfig config;
  Reader reader(object, "", origin);
  VisitTrainFields(config, reader);
  reader.Finish();
  CheckTrainConfig(config, origin);
  return config;
}

TrainConfig LoadTrainConfig(const std::string& path, const std::vector<std::string>& overrides) {
  return ParseTrainConfig(ReadFile(path, uint64_t{1} << 24), path, overrides);
}

nlohmann::ordered_json TrainConfigJson(const TrainConfig& config) {
  Json object = Json::object();
  Writer writer(&object);
  VisitTrainFields(config, writer);
  return object;
}

std::string TrainConfigText(const TrainConfig& config) {
  return TrainConfigJson(config).dump(2) + "\n";
}

std::string TrainConfigHelp() {
  const TrainConfig blank;
  const Json defaults = TrainConfigJson(blank);
  std::string text;
  const auto line = [&](const std::string& key, const std::string& value, const char* meaning) {
    text += StrCat(key, key.size() < 28 ? std::string(28 - key.size(), ' ') : " ", value,
                   value.size() < 12 ? std::string(12 - value.size(), ' ') : " ", meaning, "\n");
  };
  TrainConfig config;
  VisitTrainFields(config, [&](const std::string& key, auto&, const auto&, const char* meaning) {
    const size_t dot = key.find('.');
    const Json& value = dot == std::string::npos
                            ? defaults.at(key)
                            : defaults.at(key.substr(0, dot)).at(key.substr(dot + 1));
    line(key, value.dump(), meaning);
  });
  QatConfig qat;
  VisitQatFields(qat, [&](const std::string& key, auto&, const auto&, const char* meaning) {
    line("qat." + key, "", meaning);
  });
  DistillConfig distill;
  VisitDistillFields(distill, [&](const std::string& key, auto&, const auto&, const char* meaning) {
    line("distillation." + key, "", meaning);
  });
  BlockCoordinateConfig blocks;
  VisitBlockFields(blocks, [&](const std::string& key, auto&, const auto&, const char* meaning) {
    line("block_coordinate." + key, "", meaning);
  });
  PreferenceConfig loss;
  VisitPreferenceFields(loss, [&](const std::string& key, auto&, const auto&, const char* meaning) {
    line("loss." + key, "", meaning);
  });
  for (const OptimizerRow& row : Optimizers()) {
    std::string args;
    for (const char* arg : row.args) args += StrCat(args.empty() ? "; optim_args: " : ", ", arg);
    line(StrCat("optim ", row.name), "", (row.meaning + args).c_str());
  }
  AdapterConfig lora;
  VisitLoraFields(lora, [&](const std::string& key, auto&, const auto&, const char* meaning) {
    line("lora." + key, "", meaning);
  });
  return text;
}

std::string NearestName(const std::string& name, const std::vector<std::string>& known) {
  std::string best;
  size_t best_distance = name.size() / 2 + 1;  // more edits than that is another word
  for (const std::string& candidate : known) {
    std::vector<size_t> row(candidate.size() + 1);
    for (size_t j = 0; j <= candidate.size(); ++j) row[j] = j;
    for (size_t i = 1; i <= name.size(); ++i) {
      size_t diagonal = row[0];
      row[0] = i;
      for (size_t j = 1; j <= candidate.size(); ++j) {
        const size_t substitute = diagonal + (name[i - 1] == candidate[j - 1] ? 0 : 1);
        diagonal = row[j];
        row[j] = std::min({substitute, row[j] + 1, row[j - 1] + 1});
      }
    }
    if (row.back() < best_distance) {
      best_distance = row.back();
      best = candidate;
    }
  }
  return best;
}

}  // namespace lapidary
