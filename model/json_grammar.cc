#include "model/json_grammar.h"

#include <algorithm>

#include "autograd/base/error.h"

namespace lapidary {
namespace {

// Steps of a string: before the quote, characters, after a backslash, hexadecimal digits of an
// escape (the second after "d" or "D" must not make a surrogate), and bytes of a character that are
// still to come, the next one in a range.
enum StringAt : int {
  kQuote,
  kText,
  kEscape,
  kHex1,
  kHex2,
  kHex2AfterD,
  kHex3,
  kHex4,
  kTail1,
  kTail2,
  kTail3,
  kTail2FromA0,
  kTail2To9f,
  kTail3From90,
  kTail3To8f,
};
enum ObjectAt : int { kOpen, kFirst, kColon, kValue, kAfter, kNext };
enum NumberAt : int { kStart, kMinus, kZero, kInt, kPoint, kFraction, kE, kSign, kExponent };

constexpr int kMaxDigits = 15, kMaxExponent = 2;

bool IsSpace(uint8_t c) { return c == ' ' || c == '\n' || c == '\t' || c == '\r'; }
bool IsDigit(uint8_t c) { return c >= '0' && c <= '9'; }
bool IsHex(uint8_t c) { return IsDigit(c) || ((c | 32) >= 'a' && (c | 32) <= 'f'); }

bool NumberMayEnd(int step) {
  return step == kZero || step == kInt || step == kFraction || step == kExponent;
}

}  // namespace

int JsonGrammar::StringStep(int step, uint8_t c) {
  const auto tail = [&](uint8_t low, uint8_t high, int next) {
    return c >= low && c <= high ? next : kStringBroken;
  };
  switch (step) {
    case kQuote:
      return c == '"' ? int{kText} : kStringBroken;
    case kText:
      if (c == '"') return kStringClosed;
      if (c == '\\') return kEscape;
      if (c < 0x20) return kStringBroken;
      if (c < 0x80) return kText;
      if (c >= 0xc2 && c <= 0xdf) return kTail1;
      if (c == 0xe0) return kTail2FromA0;
      if (c == 0xed) return kTail2To9f;
      if (c >= 0xe1 && c <= 0xef) return kTail2;
      if (c == 0xf0) return kTail3From90;
      if (c == 0xf4) return kTail3To8f;
      return c >= 0xf1 && c <= 0xf3 ? int{kTail3} : kStringBroken;
    case kEscape:
      if (c == 'u') return kHex1;
      return c != 0 && std::string_view("\"\\/bfnrt").find(static_cast<char>(c)) !=
                           std::string_view::npos
                 ? int{kText}
                 : kStringBroken;
    case kHex1:
      if (!IsHex(c)) return kStringBroken;
      return (c | 32) == 'd' ? kHex2AfterD : kHex2;
    case kHex2:
      return IsHex(c) ? int{kHex3} : kStringBroken;
    case kHex2AfterD:
      return c >= '0' && c <= '7' ? int{kHex3} : kStringBroken;
    case kHex3:
      return IsHex(c) ? int{kHex4} : kStringBroken;
    case kHex4:
      return IsHex(c) ? int{kText} : kStringBroken;
    case kTail1:
      return tail(0x80, 0xbf, kText);
    case kTail2:
      return tail(0x80, 0xbf, kTail1);
    case kTail3:
      return tail(0x80, 0xbf, kTail2);
    case kTail2FromA0:
      return tail(0xa0, 0xbf, kTail1);
    case kTail2To9f:
      return tail(0x80, 0x9f, kTail1);
    case kTail3From90:
      return tail(0x90, 0xbf, kTail2);
    default:
      return tail(0x80, 0x8f, kTail2);
  }
}

uint16_t JsonGrammar::Add(Node node) {
  LAPIDARY_CHECK(nodes_.size() < 0xffff,
                 "schema: must have fewer than 65,535 parts; got more; try a smaller enum");
  nodes_.push_back(std::move(node));
  return static_cast<uint16_t>(nodes_.size() - 1);
}

void JsonGrammar::AddJson() {
  const auto plain = [&](Kind kind, std::string text = "") {
    Node node;
    node.kind = kind;
    node.text = std::move(text);
    return Add(std::move(node));
  };
  any_ = plain(Kind::kUnion);
  any_object_ = plain(Kind::kObject);
  any_array_ = plain(Kind::kArray);
  nodes_[any_object_].free = true;
  nodes_[any_object_].item = nodes_[any_array_].item = any_;
  string_ = plain(Kind::kString);
  number_ = plain(Kind::kNumber);
  integer_ = plain(Kind::kInteger);
  true_ = plain(Kind::kLiteral, "true");
  false_ = plain(Kind::kLiteral, "false");
  null_ = plain(Kind::kLiteral, "null");
  nodes_[any_].choices = {any_object_, any_array_, string_, number_, true_, false_, null_};
}

JsonGrammar JsonGrammar::Any(bool object) {
  JsonGrammar grammar;
  grammar.AddJson();
  grammar.root_ = object ? grammar.any_object_ : grammar.any_;
  return grammar;
}

JsonGrammar::Thread JsonGrammar::Start() const { return {{root_, 0, 0, 0}}; }

bool JsonGrammar::Complete(const Thread& thread) const {
  if (thread.empty()) return true;
  const Kind kind = nodes_[thread[0].node].kind;
  return thread.size() == 1 && (kind == Kind::kNumber || kind == Kind::kInteger) &&
         NumberMayEnd(thread[0].step);
}

bool JsonGrammar::InString(const Thread& thread) const {
  return !thread.empty() && nodes_[thread.back().node].kind == Kind::kString &&
         thread.back().step != kQuote;
}

void JsonGrammar::Step(const Thread& thread, uint8_t byte, std::vector<Thread>* out) const {
  StepInto(thread, byte, out);
}

// A value begins with `byte`.
void JsonGrammar::Push(Thread thread, uint16_t node, uint8_t byte, std::vector<Thread>* out) const {
  if (nodes_[node].kind == Kind::kUnion) {
    for (const uint16_t choice : nodes_[node].choices) Push(thread, choice, byte, out);
    return;
  }
  if (thread.size() >= kMaxDepth) return;
  thread.push_back({node, 0, 0, 0});
  StepInto(std::move(thread), byte, out);
}

void JsonGrammar::StepInto(Thread thread, uint8_t byte, std::vector<Thread>* out) const {
  if (thread.empty()) return;
  Frame& frame = thread.back();
  const Node& node = nodes_[frame.node];
  switch (node.kind) {
    case Kind::kUnion: {
      const uint16_t which = frame.node;
      thread.pop_back();
      Push(std::move(thread), which, byte, out);
      return;
    }
    case Kind::kLiteral:
      if (static_cast<uint8_t>(node.text[frame.at]) != byte) return;
      if (++frame.at == node.text.size()) thread.pop_back();
      out->push_back(std::move(thread));
      return;
    case Kind::kString: {
      const int step = StringStep(frame.step, byte);
      if (step == kStringBroken) return;
      if (step == kStringClosed) {
        thread.pop_back();
      } else {
        frame.step = static_cast<uint16_t>(step);
      }
      out->push_back(std::move(thread));
      return;
    }
    case Kind::kNumber:
    case Kind::kInteger:
      StepNumber(std::move(thread), byte, out);
      return;
    case Kind::kArray:
      StepArray(std::move(thread), byte, out);
      return;
    case Kind::kObject:
      StepObject(std::move(thread), byte, out);
      return;
  }
}

void JsonGrammar::StepNumber(Thread thread, uint8_t c, std::vector<Thread>* out) const {
  Frame& frame = thread.back();
  const bool integer = nodes_[frame.node].kind == Kind::kInteger;
  int next = -1;
  const auto digits = [&](int most, int same) { return frame.at < most ? same : -1; };
  switch (frame.step) {
    case kStart:
    case kMinus:
      if (c == '-' && frame.step == kStart) next = kMinus;
      if (IsDigit(c)) next = c == '0' ? kZero : kInt;
      break;
    case kInt:
      if (IsDigit(c)) next = digits(kMaxDigits, kInt);
      [[fallthrough]];
    case kZero:
      if (c == '.' && !integer) next = kPoint;
      if ((c | 32) == 'e' && !integer) next = kE;
      break;
    case kPoint:
      if (IsDigit(c)) next = kFraction;
      break;
    case kFraction:
      if (IsDigit(c)) next = digits(kMaxDigits, kFraction);
      if ((c | 32) == 'e') next = kE;
      break;
    case kE:
      if (c == '-' || c == '+') next = kSign;
      [[fallthrough]];
    case kSign:
      if (IsDigit(c)) next = kExponent;
      break;
    default:
      if (IsDigit(c)) next = digits(kMaxExponent, kExponent);
  }
  if (next >= 0) {
    frame.at = IsDigit(c) ? (next == frame.step ? static_cast<uint16_t>(frame.at + 1) : 1) : 0;
    frame.step = static_cast<uint16_t>(next);
    out->push_back(std::move(thread));
  } else if (NumberMayEnd(frame.step)) {
    thread.pop_back();  // the byte is what follows it
    StepInto(std::move(thread), c, out);
  }
}

void JsonGrammar::StepArray(Thread thread, uint8_t c, std::vector<Thread>* out) const {
  Frame& frame = thread.back();
  const Node& node = nodes_[frame.node];
  if (frame.step == kOpen) {
    if (c != '[') return;
    frame.step = kFirst;
    out->push_back(std::move(thread));
    return;
  }
  if (IsSpace(c)) {
    if (++frame.spaces <= kMaxSpaces) out->push_back(std::move(thread));
    return;
  }
  const int step = frame.step;
  frame.spaces = 0;
  if (step == kAfter && c == ',') {
    frame.step = kNext;
    out->push_back(std::move(thread));
    return;
  }
  if (c == ']' && (step == kFirst || step == kAfter)) {
    thread.pop_back();
    out->push_back(std::move(thread));
    return;
  }
  if (step == kAfter) return;
  frame.step = kAfter;
  Push(std::move(thread), node.item, c, out);
}

bool JsonGrammar::MayClose(const Node& node, size_t next) const {
  for (size_t i = next; i < node.properties.size(); ++i) {
    if (node.properties[i].required) return false;
  }
  return true;
}

// A key begins with `byte`.
void JsonGrammar::StepKey(const Thread& thread, uint8_t c, std::vector<Thread>* out) const {
  const Node& node = nodes_[thread.back().node];
  if (node.free) {
    Thread more = thread;
    more.back().step = kColon;
    more.push_back({string_, 0, 0, 0});
    StepInto(std::move(more), c, out);
    return;
  }
  for (size_t i = thread.back().at; i < node.properties.size(); ++i) {
    Thread more = thread;
    more.back().step = kColon;
    more.back().at = static_cast<uint16_t>(i + 1);
    more.push_back({node.properties[i].key, 0, 0, 0});
    StepInto(std::move(more), c, out);
    if (node.properties[i].required) break;
  }
}

void JsonGrammar::StepObject(Thread thread, uint8_t c, std::vector<Thread>* out) const {
  Frame& frame = thread.back();
  const Node& node = nodes_[frame.node];
  const int step = frame.step;
  if (step == kOpen || step == kColon) {
    if (c != (step == kOpen ? '{' : ':')) return;
    frame.step = step == kOpen ? kFirst : kValue;
    out->push_back(std::move(thread));
    return;
  }
  if (IsSpace(c)) {
    if (++frame.spaces <= kMaxSpaces) out->push_back(std::move(thread));
    return;
  }
  frame.spaces = 0;
  if (step == kAfter && c == ',') {
    if (!node.free && frame.at >= node.properties.size()) return;
    frame.step = kNext;
    out->push_back(std::move(thread));
    return;
  }
  if (c == '}' && (step == kFirst || step == kAfter)) {
    if (!node.free && !MayClose(node, frame.at)) return;
    thread.pop_back();
    out->push_back(std::move(thread));
    return;
  }
  if (step == kFirst || step == kNext) {
    StepKey(thread, c, out);
  } else if (step == kValue) {
    const uint16_t value = node.free ? node.item : node.properties[frame.at - 1].value;
    frame.step = kAfter;
    Push(std::move(thread), value, c, out);
  }
}

}  // namespace lapidary
