// The part of a SAX handler that builds a value (see json.h for the rules). For .cc files of data/.
#ifndef LAPIDARY_DATA_JSON_BUILDER_H_
#define LAPIDARY_DATA_JSON_BUILDER_H_

#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "autograd/base/error.h"
#include "data/json.h"

namespace lapidary {

// An object with more keys than this is an error (its keys are kept in a list).
constexpr size_t kMaxJsonKeys = 10000;

// Receives the events of one JSON value in order. Functions return false, with `error` set, when
// the document nests too deeply or has too many keys.
class JsonBuilder {
 public:
  using Json = nlohmann::ordered_json;

  nlohmann::ordered_json root;
  std::string error;

  bool Value(Json value) { return Place(std::move(value)) != nullptr; }
  // A number that the parser took for a float; `text` is how it is written.
  bool Float(double value, const std::string& text) {
    if (text.find_first_of(".eE") != std::string::npos) return Value(value);
    return Value(Json::binary({text.begin(), text.end()}));
  }
  bool Key(std::string key) {
    key_ = std::move(key);
    return true;
  }
  bool Start(Json empty) {
    if (stack_.size() >= kMaxJsonDepth) {
      error = StrCat("values nested more than ", kMaxJsonDepth, " deep");
      return false;
    }
    stack_.push_back(Place(std::move(empty)));
    return stack_.back() != nullptr;
  }
  bool End() {
    stack_.pop_back();
    return true;
  }
  size_t depth() const { return stack_.size(); }

 private:
  // The new value's place, or null. Parents stay where they are while a child is open: only the
  // innermost container grows.
  Json* Place(Json value) {
    if (stack_.empty()) {
      root = std::move(value);
      return &root;
    }
    Json& parent = *stack_.back();
    if (parent.is_array()) {
      parent.push_back(std::move(value));
      return &parent.back();
    }
    Json& slot = parent[key_];
    if (parent.size() > kMaxJsonKeys) {
      error = StrCat("an object with more than ", kMaxJsonKeys, " keys");
      return nullptr;
    }
    slot = std::move(value);
    return &slot;
  }

  std::vector<Json*> stack_;
  std::string key_;
};

}  // namespace lapidary

#endif  // LAPIDARY_DATA_JSON_BUILDER_H_
