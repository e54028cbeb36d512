// One training record as it was read, before any token: a conversation, a prompt with its
// completion, or raw text, and the media that stand in it. Every data set format becomes this
// (data/readers.h).
#ifndef LAPIDARY_DATA_RECORD_H_
#define LAPIDARY_DATA_RECORD_H_

#include <cstdint>
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "data/media.h"

namespace lapidary {

enum class MediaKind { kImage, kAudio, kVideo };
// "image", "audio", "video".
const char* MediaKindName(MediaKind kind);

struct MediaRef {
  MediaKind kind = MediaKind::kImage;
  MediaSource source;
  bool placed = false;  // a content part of `messages` names it; else it belongs to the next free
                        // mark in the text
};

enum class RecordKind {
  kMessages,          // `messages` is rendered with the chat template
  kPromptCompletion,  // `prompt` and `completion` are used as they are; the completion is trained
  kText,              // `completion` is used as it is and trained
  kPreference,        // two answers to one prompt: `messages` (prompt_messages of them the prompt)
                      // and `rejected`, or, if these are empty, the strings (readers.h: ChosenOf)
};

struct Record {
  RecordKind kind = RecordKind::kMessages;
  // Content parts that are media read {"type": "image", "media": I}, I an index into `media`.
  nlohmann::ordered_json messages;
  nlohmann::ordered_json tools;  // a list, or null
  int64_t prompt_messages =
      0;  // the first ones are not trained (prompt/completion given as messages)
  std::vector<float> weights;  // of each message, if any has one: 0 is not trained; else empty
  std::string prompt;
  std::string completion;
  nlohmann::ordered_json rejected;  // preference pairs: the other answer's messages
  std::string rejected_completion;  // or text
  // Prompt and completion: whether the answer is one to be desired, where somebody has judged it
  // (TRL's unpaired preference; for loss.type kto).
  std::optional<bool> label;
  std::vector<MediaRef> media;
  std::string where;  // "file:line"
};

// Something wrong with a record. `message` begins with `where`.
struct Problem {
  std::string where;
  std::string message;
};
using ProblemCallback = std::function<void(const Problem&)>;

// What to do with a record that cannot be used: throw Error, or report it and go on.
enum class OnError { kStop, kSkip };

}  // namespace lapidary

#endif  // LAPIDARY_DATA_RECORD_H_
