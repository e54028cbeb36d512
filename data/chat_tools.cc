#include "data/chat_tools.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "autograd/base/error.h"
#include "data/json.h"
#include "data/unicode.h"

namespace lapidary {
namespace {

using Json = nlohmann::ordered_json;

constexpr char kQuote[] = "<|\"|>";

// str(value) of what may be absent.
std::string Text(const Json* value) { return value == nullptr ? "" : PythonStr(*value); }
std::string UpperText(const Json* value) { return PythonUpper(Text(value)); }

std::string Quoted(const std::string& text) { return kQuote + text + kQuote; }

// What a Python loop over the value sees: elements, keys, or characters.
std::vector<Json> Items(const Json& value, const std::string& where) {
  std::vector<Json> items;
  if (value.is_array()) {
    items.assign(value.begin(), value.end());
  } else if (value.is_object()) {
    for (const auto& [key, member] : value.items()) items.push_back(key);
  } else if (value.is_string()) {
    const std::string& text = value.get_ref<const std::string&>();
    for (size_t i = 0; i < text.size();) {
      const CodePoint c = DecodeUtf8(text.data() + i, text.size() - i);
      items.push_back(text.substr(i, c.length));
      i += c.length;
    }
  } else {
    throw Error(StrCat(where, " must be a list; got ", DumpJson(value).substr(0, 40)));
  }
  return items;
}

void AppendQuotedList(const Json& list, const std::string& where, std::string& out) {
  bool first = true;
  for (const Json& item : Items(list, where)) {
    if (!first) out += ',';
    first = false;
    out += Quoted(PythonStr(item));
  }
}

class DeclarationWriter {
 public:
  DeclarationWriter(const std::string& where, std::string& out) : where_(where), out_(out) {}

  // `properties` as key:{...},...; with `only_extra`, the members that are no standard schema keys.
  void Parameters(const Json& properties, bool only_extra) {
    LAPIDARY_CHECK(properties.is_object(), where_, ": properties must be an object; got ",
                   DumpJson(properties).substr(0, 40));
    bool first = true;
    for (const auto& [key, value] : SortedMembers(properties)) {
      if (only_extra && IsStandard(key)) continue;
      if (!first) out_ += ',';
      first = false;
      out_ += key + ":{";
      Property(*value);
    }
  }

 private:
  static bool IsStandard(const std::string& key) {
    return key == "description" || key == "type" || key == "properties" || key == "required" ||
           key == "nullable";
  }

  void Property(const Json& value) {
    bool comma = false;
    const auto separate = [&] {
      if (comma) out_ += ',';
      comma = true;
    };
    const Json* type = FindMember(value, "type");
    const std::string kind = UpperText(type);
    if (const Json* description = FindMember(value, "description"); IsTruthy(description)) {
      separate();
      out_ += "description:" + Quoted(PythonStr(*description));
    }
    if (kind == "STRING") {
      if (const Json* choices = FindMember(value, "enum"); IsTruthy(choices)) {
        separate();
        out_ += "enum:";
        AppendValue(*choices, true, out_);
      }
    } else if (kind == "ARRAY") {
      const Json* items = FindMember(value, "items");
      if (items != nullptr && items->is_object() && !items->empty()) {
        separate();
        out_ += "items:{";
        ArrayItems(*items);
        out_ += '}';
      }
    }
    if (IsTruthy(FindMember(value, "nullable"))) {
      separate();
      out_ += "nullable:true";
    }
    if (kind == "OBJECT") {
      const Json* properties = FindMember(value, "properties");
      const bool own = properties != nullptr && properties->is_object();
      separate();
      out_ += "properties:{";
      Parameters(own ? *properties : value, !own);
      out_ += '}';
      if (const Json* required = FindMember(value, "required"); IsTruthy(required)) {
        separate();
        out_ += "required:[";
        AppendQuotedList(*required, where_ + ": required", out_);
        out_ += ']';
      }
    }
    separate();
    out_ += "type:" + Quoted(kind) + "}";
  }

  void ArrayItems(const Json& items) {
    bool first = true;
    for (const auto& [key, value] : SortedMembers(items)) {
      if (value->is_null()) continue;
      if (!first) out_ += ',';
      first = false;
      if (key == "properties") {
        out_ += "properties:{";
        if (value->is_object()) Parameters(*value, false);
        out_ += '}';
      } else if (key == "required") {
        out_ += "required:[";
        AppendQuotedList(*value, where_ + ": required", out_);
        out_ += ']';
      } else if (key == "type") {
        out_ += "type:";
        if (value->is_string()) {
          out_ += Quoted(UpperText(value));
        } else {
          Json upper = Json::array();
          if (IsTruthy(value)) {  // Jinja's map takes false and 0 for an empty list
            for (const Json& item : Items(*value, where_ + ": type")) {
              upper.push_back(UpperText(&item));
            }
          }
          AppendValue(upper, true, out_);
        }
      } else {
        out_ += key + ":";
        AppendValue(*value, true, out_);
      }
    }
  }

  const std::string& where_;
  std::string& out_;
};

}  // namespace

const Json* FindMember(const Json& object, const char* key) {
  if (!object.is_object()) return nullptr;
  const auto found = object.find(key);
  return found == object.end() ? nullptr : &*found;
}

bool IsTruthy(const Json* value) {
  if (value == nullptr || value->is_null()) return false;
  if (value->is_boolean()) return value->get<bool>();
  if (value->is_number()) return value->get<double>() != 0;
  if (value->is_binary()) return PythonStr(*value).find_first_of("123456789") != std::string::npos;
  if (value->is_string()) return !value->get_ref<const std::string&>().empty();
  return !value->empty();
}

std::vector<std::pair<std::string, const Json*>> SortedMembers(const Json& object) {
  struct Entry {
    std::string order;
    std::string key;
    const Json* value;
  };
  std::vector<Entry> entries;
  for (auto it = object.begin(); it != object.end(); ++it) {
    entries.push_back({PythonLower(it.key()), it.key(), &it.value()});
  }
  std::stable_sort(entries.begin(), entries.end(),
                   [](const Entry& a, const Entry& b) { return a.order < b.order; });
  std::vector<std::pair<std::string, const Json*>> sorted;
  for (Entry& entry : entries) sorted.emplace_back(std::move(entry.key), entry.value);
  return sorted;
}

void AppendValue(const Json& value, bool quote_keys, std::string& out) {
  if (value.is_null()) {
    out += "null";
  } else if (value.is_string()) {
    out += Quoted(value.get_ref<const std::string&>());
  } else if (value.is_boolean()) {
    out += value.get<bool>() ? "true" : "false";
  } else if (value.is_object()) {
    out += '{';
    bool first = true;
    for (const auto& [key, member] : SortedMembers(value)) {
      if (!first) out += ',';
      first = false;
      out += (quote_keys ? Quoted(key) : key) + ":";
      AppendValue(*member, quote_keys, out);
    }
    out += '}';
  } else if (value.is_array()) {
    out += '[';
    for (size_t i = 0; i < value.size(); ++i) {
      if (i > 0) out += ',';
      AppendValue(value[i], quote_keys, out);
    }
    out += ']';
  } else {
    out += PythonStr(value);
  }
}

void AppendToolDeclaration(const Json& tool, const std::string& where, std::string& out) {
  LAPIDARY_CHECK(tool.is_object(), where, ": must be an object; got ",
                 DumpJson(tool).substr(0, 40));
  const Json* function = FindMember(tool, "function");
  LAPIDARY_CHECK(function != nullptr && !function->is_null(), where, ": must have 'function'; got ",
                 DumpJson(tool).substr(0, 60), R"(; try {"type": "function", "function": {...}})");
  LAPIDARY_CHECK(function->is_object(), where, ": function must be an object; got ",
                 DumpJson(*function).substr(0, 40));
  std::string text = "declaration:" + Text(FindMember(*function, "name")) +
                     "{description:" + Quoted(Text(FindMember(*function, "description")));
  DeclarationWriter writer(where, text);
  if (const Json* parameters = FindMember(*function, "parameters"); IsTruthy(parameters)) {
    text += ",parameters:{";
    if (const Json* properties = FindMember(*parameters, "properties"); IsTruthy(properties)) {
      text += "properties:{";
      writer.Parameters(*properties, false);
      text += "},";
    }
    if (const Json* required = FindMember(*parameters, "required"); IsTruthy(required)) {
      text += "required:[";
      AppendQuotedList(*required, where + ": required", text);
      text += "],";
    }
    if (const Json* type = FindMember(*parameters, "type"); IsTruthy(type)) {
      text += "type:" + Quoted(UpperText(type)) + "}";
    }
  }
  if (const Json* response = FindMember(*function, "response"); response != nullptr) {
    text += ",response:{";
    if (const Json* description = FindMember(*response, "description"); IsTruthy(description)) {
      text += "description:" + Quoted(PythonStr(*description)) + ",";
    }
    if (const Json* type = FindMember(*response, "type"); UpperText(type) == "OBJECT") {
      text += "type:" + Quoted(UpperText(type)) + "}";
    }
  }
  text += "}";
  out += PythonStrip(text);
}

void AppendToolResponse(const std::string& name, const Json& response, std::string& out) {
  out += "<|tool_response>response:" + name + "{";
  if (response.is_object()) {
    bool first = true;
    for (const auto& [key, value] : SortedMembers(response)) {
      if (!first) out += ',';
      first = false;
      out += key + ":";
      AppendValue(*value, false, out);
    }
  } else {
    out += "value:";
    AppendValue(response, false, out);
  }
  out += "}<tool_response|>";
}

}  // namespace lapidary
