// What the model writes, taken apart while it is written: thoughts, the answer, tool calls; and the
// place where a stop text ends it.
#ifndef LAPIDARY_RECIPES_SERVE_ANSWER_READER_H_
#define LAPIDARY_RECIPES_SERVE_ANSWER_READER_H_

#include <cstdint>
#include <string>
#include <vector>

#include "data/tokenizer.h"
#include "data/tool_calls.h"

namespace lapidary {

struct AnswerPiece {
  enum class Kind { kThought, kContent, kToolCall };
  Kind kind = Kind::kContent;
  std::string text;  // new text; of a tool call: none
  ToolCall call;
};

// Reads the ids of one answer in order. Thoughts stand between <|channel>NAME\n and <channel|>,
// calls between <|tool_call> and <tool_call|>; what cannot be read as a call is content as it
// stands. Special tokens elsewhere are left out.
class AnswerReader {
 public:
  // `prompt`: what the answer continues; it may have opened a thought. Both must outlive this.
  AnswerReader(const Tokenizer& tokenizer, const std::vector<int32_t>& prompt);

  // What an id adds: often nothing, while a character is not complete.
  std::vector<AnswerPiece> Push(int32_t id);
  // What is still held back.
  std::vector<AnswerPiece> Finish();
  // Whether the last id belongs to the answer's own text.
  bool in_content() const { return in_content_; }

 private:
  enum class Place { kContent, kChannelName, kThought, kCall };
  void Emit(std::string text, std::vector<AnswerPiece>* out);
  void Close(std::vector<AnswerPiece>* out);

  const Tokenizer& tokenizer_;
  StreamDecoder decoder_;
  int32_t channel_open_ = -1, channel_close_ = -1, call_open_ = -1, call_close_ = -1;
  Place place_ = Place::kContent;
  std::string held_;  // line feeds at the end of a thought, a channel's name, or a call so far
  bool in_content_ = false;
};

// Ends a text before the first of the stop texts.
class StopText {
 public:
  explicit StopText(std::vector<std::string> stops);
  // What is certain not to begin a stop text, of all that was given; "" once stopped.
  std::string Push(const std::string& text);
  // The rest: what looked like the beginning of one.
  std::string Finish();
  bool stopped() const { return stopped_; }

 private:
  const std::vector<std::string> stops_;
  std::string held_;
  bool stopped_ = false;
};

}  // namespace lapidary

#endif  // LAPIDARY_RECIPES_SERVE_ANSWER_READER_H_
