// From a schema to the nodes of a JsonGrammar.
#include <algorithm>
#include <nlohmann/json.hpp>

#include "autograd/base/error.h"
#include "model/json_grammar.h"

namespace lapidary {

using Json = nlohmann::ordered_json;

class JsonGrammar::Compiler {
 public:
  Compiler(JsonGrammar& grammar, std::string where) : g_(grammar), root_(std::move(where)) {}

  uint16_t Value(const Json& schema, const std::string& path, int depth) {
    LAPIDARY_CHECK(depth < kMaxDepth, Where(path), "must nest less than ", kMaxDepth,
                   " deep; got more");
    if (schema.is_boolean() && schema.get<bool>()) return g_.any_;
    LAPIDARY_CHECK(schema.is_object(), Where(path), "must be an object; got ",
                   schema.dump().substr(0, 40));
    CheckKeywords(schema, path);
    if (schema.contains("const")) return Constants(schema, Json::array({schema["const"]}), path);
    if (schema.contains("enum")) return Constants(schema, schema["enum"], path);
    if (schema.contains("anyOf")) return AnyOf(schema, path, depth);
    if (!schema.contains("type")) {
      if (schema.contains("properties") || schema.contains("additionalProperties"))
        return Object(schema, path, depth);
      if (schema.contains("items")) return Array(schema, path, depth);
      return g_.any_;
    }
    const Json& type = schema["type"];
    if (type.is_string()) return OfType(schema, type.get<std::string>(), path, depth);
    LAPIDARY_CHECK(type.is_array() && !type.empty(), Where(path),
                   "type must be a name or a list of names; got ", type.dump().substr(0, 40));
    Node either;
    for (const Json& name : type) {
      LAPIDARY_CHECK(name.is_string(), Where(path), "type must be a name or a list of names; got ",
                     type.dump().substr(0, 40));
      either.choices.push_back(OfType(schema, name.get<std::string>(), path, depth));
    }
    return g_.Add(std::move(either));
  }

 private:
  std::string Where(const std::string& path) const {
    return StrCat(root_, path.empty() ? "" : " " + path, ": ");
  }

  void CheckKeywords(const Json& schema, const std::string& path) const {
    static const char* const known[] = {
        "type",    "properties",  "required", "items",
        "enum",    "const",       "anyOf",    "additionalProperties",
        "title",   "description", "default",  "examples",
        "$schema", "$id",         "$comment"};
    for (const auto& [key, value] : schema.items()) {
      LAPIDARY_CHECK(std::find(std::begin(known), std::end(known), key) != std::end(known),
                     Where(path), "'", key,
                     "' is a keyword that constrained output does not know; got ",
                     value.dump().substr(0, 40), "; try a schema without it");
    }
  }

  // Beside enum, const and anyOf nothing else may say what values are, but a type that agrees.
  void CheckAlone(const Json& schema, const char* keyword, const std::string& path) const {
    for (const char* other : {"properties", "required", "items", "additionalProperties", "anyOf"}) {
      LAPIDARY_CHECK(std::string_view(other) == keyword || !schema.contains(other), Where(path),
                     "'", keyword, "' must stand without '", other, "'; got both");
    }
  }

  static bool HasType(const Json& value, const Json& type) {
    if (type.is_array()) {
      return std::any_of(type.begin(), type.end(),
                         [&](const Json& one) { return HasType(value, one); });
    }
    const std::string name = type.is_string() ? type.get<std::string>() : "";
    return (name == "string" && value.is_string()) || (name == "number" && value.is_number()) ||
           (name == "integer" && value.is_number_integer()) ||
           (name == "boolean" && value.is_boolean()) || (name == "null" && value.is_null()) ||
           (name == "object" && value.is_object()) || (name == "array" && value.is_array());
  }

  uint16_t Constants(const Json& schema, const Json& values, const std::string& path) {
    CheckAlone(schema, schema.contains("const") ? "const" : "enum", path);
    LAPIDARY_CHECK(values.is_array() && !values.empty(), Where(path),
                   "enum must be a list with a value; got ", values.dump().substr(0, 40));
    Node either;
    for (const Json& value : values) {
      if (schema.contains("type") && !HasType(value, schema["type"])) continue;
      if (schema.contains("const") && schema.contains("enum")) {
        const Json& list = schema["enum"];
        if (std::find(list.begin(), list.end(), value) == list.end()) continue;
      }
      either.choices.push_back(Literal(Text(value, path)));
    }
    LAPIDARY_CHECK(!either.choices.empty(), Where(path),
                   "a value must be possible; got an enum or const that other keywords forbid");
    return g_.Add(std::move(either));
  }

  std::string Text(const Json& value, const std::string& path) const {
    try {
      return value.dump();
    } catch (const nlohmann::json::exception&) {
      throw Error(StrCat(Where(path), "text must be UTF-8; got something else"));
    }
  }

  uint16_t Literal(std::string text) {
    Node node;
    node.kind = Kind::kLiteral;
    LAPIDARY_CHECK(text.size() < 0xffff, root_,
                   ": a constant must have fewer than 65,535 bytes; got ", text.size());
    node.text = std::move(text);
    return g_.Add(std::move(node));
  }

  uint16_t AnyOf(const Json& schema, const std::string& path, int depth) {
    CheckAlone(schema, "anyOf", path);
    LAPIDARY_CHECK(!schema.contains("type"), Where(path),
                   "'anyOf' must stand without 'type'; got both");
    const Json& list = schema["anyOf"];
    LAPIDARY_CHECK(list.is_array() && !list.empty(), Where(path),
                   "anyOf must be a list with a schema; got ", list.dump().substr(0, 40));
    Node either;
    for (size_t i = 0; i < list.size(); ++i)
      either.choices.push_back(Value(list[i], StrCat(path, "/anyOf/", i), depth + 1));
    return g_.Add(std::move(either));
  }

  uint16_t OfType(const Json& schema, const std::string& name, const std::string& path, int depth) {
    if (name == "object") return Object(schema, path, depth);
    if (name == "array") return Array(schema, path, depth);
    if (name == "string") return g_.string_;
    if (name == "number") return g_.number_;
    if (name == "integer") return g_.integer_;
    if (name == "null") return g_.null_;
    LAPIDARY_CHECK(name == "boolean", Where(path),
                   "type must be object, array, string, number, integer, boolean or null; got '",
                   name, "'");
    Node either;
    either.choices = {g_.true_, g_.false_};
    return g_.Add(std::move(either));
  }

  uint16_t Array(const Json& schema, const std::string& path, int depth) {
    if (!schema.contains("items")) return g_.any_array_;
    Node node;
    node.kind = Kind::kArray;
    node.item = Value(schema["items"], path + "/items", depth + 1);
    return g_.Add(std::move(node));
  }

  uint16_t Object(const Json& schema, const std::string& path, int depth) {
    const Json none = Json::object(), nobody = Json::array();
    const Json& properties = schema.contains("properties") ? schema["properties"] : none;
    const Json& required = schema.contains("required") ? schema["required"] : nobody;
    LAPIDARY_CHECK(properties.is_object(), Where(path), "properties must be an object; got ",
                   properties.dump().substr(0, 40));
    LAPIDARY_CHECK(required.is_array(), Where(path), "required must be a list; got ",
                   required.dump().substr(0, 40));
    for (const Json& name : required) {
      LAPIDARY_CHECK(name.is_string() && properties.contains(name.get<std::string>()), Where(path),
                     "required must name properties; got ", name.dump().substr(0, 40));
    }
    Node node;
    node.kind = Kind::kObject;
    const bool more = schema.contains("additionalProperties");
    if (properties.empty() && !(more && schema["additionalProperties"] == false)) {
      node.free = true;
      node.item =
          more ? Value(schema["additionalProperties"], path + "/additionalProperties", depth + 1)
               : g_.any_;
      return g_.Add(std::move(node));
    }
    LAPIDARY_CHECK(!more || schema["additionalProperties"].is_boolean(), Where(path),
                   "additionalProperties beside properties must be true or false; got ",
                   schema["additionalProperties"].dump().substr(0, 40));
    for (const auto& [name, value] : properties.items()) {
      const bool must = std::find(required.begin(), required.end(), Json(name)) != required.end();
      const uint16_t key = Literal(Text(name, path));
      node.properties.push_back({key, Value(value, path + "/properties/" + name, depth + 1), must});
    }
    return g_.Add(std::move(node));
  }

  JsonGrammar& g_;
  const std::string root_;
};

JsonGrammar JsonGrammar::FromSchema(const Json& schema, const std::string& where) {
  JsonGrammar grammar;
  grammar.AddJson();
  grammar.root_ = Compiler(grammar, where).Value(schema, "", 0);
  return grammar;
}

}  // namespace lapidary
