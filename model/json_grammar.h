// JSON, or the JSON that a schema allows, as a machine that reads byte by byte and knows at every
// place which bytes can come next. What it accepts parses and satisfies the schema; it does not
// accept everything that does:
//   - members of an object with `properties` come in the order of the schema, and no others;
//   - white space stands only after { [ , : and before , } ], at most kMaxSpaces bytes in a row;
//   - numbers have at most 15 digits before the point and 15 behind it, exponents 2;
//   - strings are UTF-8, escapes of surrogates are not written; values nest kMaxDepth deep at most.
// Keywords: type (a name or a list of names), properties, required, items, enum, const, anyOf,
// additionalProperties (false, or a schema where there are no properties), and those that say
// nothing of values (title, description, default, examples, $schema, $id, $comment). Any other is
// an error. Const and thread-safe.
#ifndef LAPIDARY_MODEL_JSON_GRAMMAR_H_
#define LAPIDARY_MODEL_JSON_GRAMMAR_H_

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

namespace lapidary {

class JsonGrammar {
 public:
  static constexpr int kMaxDepth = 24;   // values inside values
  static constexpr int kMaxSpaces = 24;  // bytes

  // One value being read: which node of the grammar, and how far.
  struct Frame {
    uint16_t node = 0;
    uint16_t step = 0;
    uint16_t at = 0;      // next property; byte of a literal; digits so far
    uint16_t spaces = 0;  // bytes of white space just read
    bool operator==(const Frame&) const = default;
  };
  // One way to read what was read so far: values inside each other, outermost first. Empty: the
  // text is complete.
  using Thread = std::vector<Frame>;

  // Any JSON value; with `object`, any object.
  static JsonGrammar Any(bool object = false);
  // Throws Error beginning with `where` for keywords that are not supported, and for a schema that
  // nothing satisfies.
  static JsonGrammar FromSchema(const nlohmann::ordered_json& schema, const std::string& where);

  Thread Start() const;
  // Appends what `thread` becomes when `byte` comes next: nothing if it cannot, several if the byte
  // can be read in several ways.
  void Step(const Thread& thread, uint8_t byte, std::vector<Thread>* out) const;
  // Whether the text may end here.
  bool Complete(const Thread& thread) const;
  // Whether the thread is inside the characters of a string, where most tokens fit whatever stands
  // around it.
  bool InString(const Thread& thread) const;
  // Inside a string: the step of the frame on top after `byte`; kStringClosed or kStringBroken.
  static int StringStep(int step, uint8_t byte);
  static constexpr int kStringClosed = 1000, kStringBroken = 1001;

 private:
  enum class Kind : uint8_t { kUnion, kObject, kArray, kString, kNumber, kInteger, kLiteral };
  struct Property {
    uint16_t key, value;  // nodes
    bool required;
  };
  struct Node {
    Kind kind = Kind::kUnion;
    bool free = false;                 // object: any keys; values are `item`
    uint16_t item = 0;                 // of an array or a free object
    std::vector<Property> properties;  // object
    std::vector<uint16_t> choices;     // union
    std::string text;                  // literal
  };
  class Compiler;

  JsonGrammar() = default;
  uint16_t Add(Node node);
  void AddJson();
  void Push(Thread thread, uint16_t node, uint8_t byte, std::vector<Thread>* out) const;
  void StepInto(Thread thread, uint8_t byte, std::vector<Thread>* out) const;
  void StepObject(Thread thread, uint8_t byte, std::vector<Thread>* out) const;
  void StepArray(Thread thread, uint8_t byte, std::vector<Thread>* out) const;
  void StepNumber(Thread thread, uint8_t byte, std::vector<Thread>* out) const;
  void StepKey(const Thread& thread, uint8_t byte, std::vector<Thread>* out) const;
  bool MayClose(const Node& node, size_t next) const;

  std::vector<Node> nodes_;
  uint16_t any_ = 0, any_object_ = 0, any_array_ = 0, string_ = 0, number_ = 0, integer_ = 0,
           true_ = 0, false_ = 0, null_ = 0, root_ = 0;
};

}  // namespace lapidary

#endif  // LAPIDARY_MODEL_JSON_GRAMMAR_H_
