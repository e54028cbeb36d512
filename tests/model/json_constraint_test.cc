// Constrained output: whatever is drawn parses and satisfies its schema, masks are what trying
// every token gives, and bad schemas are refused.
#include "model/json_constraint.h"

#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <set>

#include "autograd/base/error.h"
#include "autograd/base/random.h"

namespace lapidary {
namespace {

using Json = nlohmann::ordered_json;

constexpr int32_t kStop = 0;

// Every byte, and pieces as real vocabularies have them, some across values.
const std::vector<std::string>& Pieces() {
  static const std::vector<std::string> pieces = [] {
    std::vector<std::string> all = {"", ""};  // a stop id, and a special token
    for (int b = 0; b < 256; ++b) all.push_back(std::string(1, static_cast<char>(b)));
    for (const char* text : {"{\"",      "\":",    "\": ",  "\", \"",  "\",\"",    "\"}",
                             "\"]",      "},",     "}}",    "[[",      "]]",       "[]",
                             "{}",       "true",   "false", "null",    "tru",      "nul",
                             " ",        "  ",     "    ",  "\n",      "\n  ",     "12",
                             "123",      "0.",     ".5",    "e10",     "1e",       "-1",
                             "name",     "na",     "me",    "age",     "\"name\"", "{\"name\": \"",
                             "hello",    " world", "a\"",   "b\", ",   "\\n",      "\\u",
                             "\\\"",     "u00",    "d8",    "ä",       "日本",     "😀",
                             "\xf0\x9f", "red",    "green", "\"red\"", "blue",     ", ",
                             ": ",       "x",      "yz",    "\": 1",   "\": [",    "], \""}) {
      all.push_back(text);
    }
    return all;
  }();
  return pieces;
}

const PieceTable& Table() {
  static const PieceTable table(Pieces());
  return table;
}

// What the keywords mean, by themselves.
bool Satisfies(const Json& value, const Json& schema) {
  if (schema.is_boolean()) return schema.get<bool>();
  if (schema.contains("const") && value != schema["const"]) return false;
  if (schema.contains("enum")) {
    bool found = false;
    for (const Json& one : schema["enum"]) found = found || one == value;
    if (!found) return false;
  }
  if (schema.contains("anyOf")) {
    bool found = false;
    for (const Json& one : schema["anyOf"]) found = found || Satisfies(value, one);
    if (!found) return false;
  }
  if (schema.contains("type")) {
    Json types = schema["type"];
    if (types.is_string()) types = Json::array({types});
    bool found = false;
    for (const Json& t : types) {
      found = found || (t == "object" && value.is_object()) || (t == "array" && value.is_array()) ||
              (t == "string" && value.is_string()) || (t == "number" && value.is_number()) ||
              (t == "integer" && value.is_number_integer()) ||
              (t == "boolean" && value.is_boolean()) || (t == "null" && value.is_null());
    }
    if (!found) return false;
  }
  if (value.is_array() && schema.contains("items")) {
    for (const Json& item : value) {
      if (!Satisfies(item, schema["items"])) return false;
    }
  }
  if (!value.is_object()) return true;
  for (const Json& name : schema.value("required", Json::array())) {
    if (!value.contains(name.get<std::string>())) return false;
  }
  for (const auto& [key, member] : value.items()) {
    const Json& properties = schema.contains("properties") ? schema["properties"] : Json::object();
    if (properties.contains(key)) {
      if (!Satisfies(member, properties[key])) return false;
    } else if (schema.contains("additionalProperties")) {
      if (!Satisfies(member, schema["additionalProperties"])) return false;
    }
  }
  return true;
}

// An answer drawn from random logits that like short ends; empty if it did not end in time.
std::string Draw(const JsonGrammar& grammar, uint64_t seed, int64_t most) {
  JsonConstraint constraint(grammar, Table(), {kStop});
  const auto n = static_cast<int64_t>(Pieces().size());
  std::string text;
  for (int64_t step = 0; step < most; ++step) {
    std::vector<float> logits(static_cast<size_t>(n));
    for (int64_t i = 0; i < n; ++i) {
      const std::string& piece = Pieces()[static_cast<size_t>(i)];
      logits[i] =
          RandomNormal({seed, static_cast<uint64_t>(step), 1}, static_cast<uint64_t>(i)) * 3;
      const float wish = static_cast<float>(step) * 0.4f;  // to end
      if (piece.find_first_of("\"}]") != std::string::npos) logits[i] += wish;
      if (piece.size() > 1) logits[i] += 2;
    }
    logits[kStop] = 4;
    constraint.Mask(logits.data(), n);
    int32_t best = 0;
    for (int64_t i = 1; i < n; ++i) {
      if (logits[i] > logits[best]) best = static_cast<int32_t>(i);
    }
    EXPECT_TRUE(std::isfinite(logits[best]));
    constraint.Accept(best);
    if (best == kStop) return text;
    text += Pieces()[static_cast<size_t>(best)];
  }
  return "";
}

Json RandomSchema(uint64_t seed, uint64_t* next, int depth) {
  const auto pick = [&](uint64_t bound) { return RandomBelow({seed, 0, 9}, (*next)++, bound); };
  switch (pick(depth > 2 ? 7 : 10)) {
    case 0:
      return {{"type", "string"}};
    case 1:
      return {{"type", "number"}, {"title", "a figure"}};
    case 2:
      return {{"type", "integer"}};
    case 3:
      return {{"type", Json::array({"boolean", "null"})}};
    case 4:
      return {{"enum", Json::array({"red", "green", 12, 1, nullptr, "a\"b\\", Json::array({1})})}};
    case 5:
      return {{"const", Json{{"k", "日本"}}}};
    case 6:
      return pick(2) ? Json(true) : Json::object();
    case 7:
      return {{"type", "array"}, {"items", RandomSchema(seed, next, depth + 1)}};
    case 8:
      return {{"anyOf", Json::array({RandomSchema(seed, next, depth + 1),
                                     RandomSchema(seed, next, depth + 1)})}};
    default:
      break;
  }
  static const char* const names[] = {"name", "age", "na", "x\"y", "ä", ""};
  Json schema = {{"type", "object"}, {"properties", Json::object()}, {"required", Json::array()}};
  const uint64_t count = pick(4);
  for (uint64_t i = 0; i < count; ++i) {
    const std::string name = names[pick(6)];
    schema["properties"][name] = RandomSchema(seed, next, depth + 1);
    Json& required = schema["required"];
    if (pick(2) && std::find(required.begin(), required.end(), name) == required.end())
      required.push_back(name);
  }
  if (pick(2)) schema["additionalProperties"] = false;
  return schema;
}

TEST(JsonConstraint, WhateverIsDrawnSatisfiesTheSchema) {
  int ended = 0;
  std::set<std::string> kinds;
  for (uint64_t seed = 0; seed < 400; ++seed) {
    uint64_t next = 0;
    const Json schema = RandomSchema(seed, &next, 0);
    const std::string text = Draw(JsonGrammar::FromSchema(schema, "schema"), seed, 120);
    if (text.empty()) continue;
    ++ended;
    const Json value = Json::parse(text, nullptr, false);
    ASSERT_FALSE(value.is_discarded()) << schema.dump() << "\n" << text;
    EXPECT_TRUE(Satisfies(value, schema)) << schema.dump() << "\n" << text;
    kinds.insert(value.type_name());
  }
  EXPECT_GT(ended, 350);
  EXPECT_GE(kinds.size(), 6u);
}

TEST(JsonConstraint, AnyJsonParses) {
  int ended = 0;
  for (uint64_t seed = 0; seed < 300; ++seed) {
    const std::string text = Draw(JsonGrammar::Any(seed % 2 == 0), seed, 200);
    if (text.empty()) continue;
    ++ended;
    const Json value = Json::parse(text, nullptr, false);
    ASSERT_FALSE(value.is_discarded()) << text;
    if (seed % 2 == 0) {
      EXPECT_TRUE(value.is_object()) << text;
    }
  }
  EXPECT_GT(ended, 250);
}

// Masks against the definition: an id may come if its bytes leave a way to read the text.
TEST(JsonConstraint, MasksAreWhatTryingEveryTokenGives) {
  const Json schema = Json::parse(R"({"type": "object", "properties": {
    "name": {"type": "string"}, "age": {"type": ["integer", "null"]},
    "tags": {"type": "array", "items": {"enum": ["red", "green", 7]}}, "more": {}},
    "required": ["name", "tags"]})");
  const JsonGrammar grammar = JsonGrammar::FromSchema(schema, "schema");
  const auto n = static_cast<int64_t>(Pieces().size());
  for (const std::string begin :
       {"", "{", "{\"na", "{\"name\": \"he", "{\"name\": \"\\", "{\"name\":\"\xf0",
        "{\"name\":\"\","
        "\"age\":1",
        "{\"name\":\"\",\"tags\":[\"red\",", "{\"name\":\"\",\"tags\":[7], \"more\": {",
        "{\"name\":\"\",\"tags\":[7], \"more\": [[-0", "{\"name\":\"\",\"tags\":[]}"}) {
    JsonConstraint constraint(grammar, Table(), {kStop});
    std::vector<JsonGrammar::Thread> threads = {grammar.Start()};
    const auto read = [&](const std::string& bytes, std::vector<JsonGrammar::Thread> from) {
      for (const char c : bytes) {
        std::vector<JsonGrammar::Thread> next;
        for (const auto& t : from) grammar.Step(t, static_cast<uint8_t>(c), &next);
        from = std::move(next);
      }
      return from;
    };
    for (const char c : begin) constraint.Accept(2 + static_cast<uint8_t>(c));
    threads = read(begin, threads);
    ASSERT_FALSE(threads.empty()) << begin;
    std::vector<float> logits(static_cast<size_t>(n), 1.0f);
    constraint.Mask(logits.data(), n);
    for (int64_t id = 1; id < n; ++id) {
      const std::string& piece = Pieces()[static_cast<size_t>(id)];
      const bool fits = !piece.empty() && !read(piece, threads).empty();
      EXPECT_EQ(std::isfinite(logits[id]), fits) << begin << " + " << piece;
    }
    EXPECT_EQ(std::isfinite(logits[kStop]), constraint.complete()) << begin;
  }
}

TEST(JsonConstraint, TextsThatAreNotAllowed) {
  const auto reads = [](const JsonGrammar& grammar, const std::string& text) {
    std::vector<JsonGrammar::Thread> threads = {grammar.Start()};
    for (const char c : text) {
      std::vector<JsonGrammar::Thread> next;
      for (const auto& t : threads) grammar.Step(t, static_cast<uint8_t>(c), &next);
      threads = std::move(next);
    }
    for (const auto& t : threads) {
      if (grammar.Complete(t)) return true;
    }
    return false;
  };
  const JsonGrammar any = JsonGrammar::Any();
  for (const char* good : {"1", "-0", "0.5e-7", "[]", "[1, 2]", "{}", "{\"a\": [true, null]}",
                           "\"\\u00e4\\ud7ff\"", "\"ä日😀\"", "[\n  1,\n  2\n]"}) {
    EXPECT_TRUE(reads(any, good)) << good;
  }
  for (const char* bad : {"",
                          "01",
                          "1.",
                          ".5",
                          "+1",
                          "1e",
                          "1e999",
                          "[1,]",
                          "{,}",
                          "{\"a\"}",
                          "\"\\ud800\"",
                          "\"\\x\"",
                          "\"\xff\"",
                          "\"\xed\xa0\x80\"",
                          "\"\xc0\x80\"",
                          "\"\n\"",
                          "tru",
                          "[1",
                          "1 1",
                          "{1:2}",
                          "1234567890123456"}) {
    EXPECT_FALSE(reads(any, bad)) << bad;
  }
  EXPECT_FALSE(reads(any, std::string(60, '[') + std::string(60, ']')));
  EXPECT_FALSE(reads(any, "[" + std::string(100, ' ') + "]"));
  EXPECT_FALSE(reads(JsonGrammar::Any(true), "[]"));
}

std::string SchemaError(const std::string& text) {
  try {
    JsonGrammar::FromSchema(Json::parse(text), "schema");
  } catch (const Error& e) {
    return e.what();
  }
  return "no error";
}

TEST(JsonConstraint, BadSchemasSayWhatIsWrong) {
  EXPECT_EQ(SchemaError(R"({"type": "string", "description": "fine"})"), "no error");
  EXPECT_EQ(SchemaError(R"({"type": "text"})"),
            "schema: type must be object, array, string, number, integer, boolean or null; got "
            "'text'");
  EXPECT_EQ(SchemaError(R"({"type": "object", "properties": {"a": {"type": "string",
                            "pattern": "x"}}})"),
            "schema /properties/a: 'pattern' is a keyword that constrained output does not know; "
            "got \"x\"; try a schema without it");
  EXPECT_NE(SchemaError(R"({"enum": []})"), "no error");
  EXPECT_NE(SchemaError(R"({"type": "string", "enum": [1]})"), "no error");
  EXPECT_NE(SchemaError(R"({"type": "object", "properties": {}, "required": ["a"]})"), "no error");
  EXPECT_NE(SchemaError(R"({"anyOf": [{}], "type": "object"})"), "no error");
  EXPECT_NE(SchemaError(R"([1])"), "no error");
  std::string deep = "{}";
  for (int i = 0; i < 40; ++i) deep = R"({"items": )" + deep + "}";
  EXPECT_NE(SchemaError(deep), "no error");
}

// Any JSON at all as a schema: an error or a grammar, never worse.
TEST(JsonConstraint, RandomSchemasAreRefusedOrUsed) {
  static const char* const parts[] = {"{",          "}",
                                      "[",          "]",
                                      ",",          ":",
                                      "\"type\"",   "\"enum\"",
                                      "\"items\"",  "\"const\"",
                                      "1",          "null",
                                      "true",       "\"properties\"",
                                      "\"anyOf\"",  "\"required\"",
                                      "\"object\"", "\"string\"",
                                      "{\"type\":", "\"additionalProperties\":"};
  int used = 0, refused = 0;
  for (uint64_t seed = 0; seed < 20000; ++seed) {
    std::string text;
    const uint64_t length = 1 + RandomBelow({seed, 1, 1}, 0, 9);
    for (uint64_t i = 0; i < length; ++i) text += parts[RandomBelow({seed, 2, 2}, i, 20)];
    const Json schema = Json::parse(text, nullptr, false);
    if (schema.is_discarded()) continue;
    try {
      JsonGrammar::FromSchema(schema, "schema");
      ++used;
    } catch (const Error&) {
      ++refused;
    }
  }
  EXPECT_GT(used, 20);
  EXPECT_GT(refused, 20);
}

}  // namespace
}  // namespace lapidary
