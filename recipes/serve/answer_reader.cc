#include "recipes/serve/answer_reader.h"

#include <algorithm>

namespace lapidary {

AnswerReader::AnswerReader(const Tokenizer& tokenizer, const std::vector<int32_t>& prompt)
    : tokenizer_(tokenizer), decoder_(tokenizer) {
  const auto find = [&](const char* name) { return tokenizer.Find(name).value_or(-1); };
  channel_open_ = find("<|channel>");
  channel_close_ = find("<channel|>");
  call_open_ = find("<|tool_call>");
  call_close_ = find("<tool_call|>");
  for (const int32_t id : prompt) {
    if (id == channel_open_ && id >= 0) place_ = Place::kThought;
    if (id == channel_close_ && id >= 0) place_ = Place::kContent;
  }
}

// Text of the place where the reader is.
void AnswerReader::Emit(std::string text, std::vector<AnswerPiece>* out) {
  if (text.empty()) return;
  if (place_ == Place::kContent) {
    out->push_back({AnswerPiece::Kind::kContent, std::move(text), {}});
    return;
  }
  held_ += text;
  if (place_ == Place::kChannelName) {
    const size_t end = held_.find('\n');
    if (end == std::string::npos) return;
    held_.erase(0, end + 1);
    place_ = Place::kThought;
  }
  if (place_ != Place::kThought) return;
  // The line feed before the closing mark is not the thought's.
  const size_t last = held_.find_last_not_of('\n');
  if (last == std::string::npos) return;
  out->push_back({AnswerPiece::Kind::kThought, held_.substr(0, last + 1), {}});
  held_.erase(0, last + 1);
}

// The thought or call ends here.
void AnswerReader::Close(std::vector<AnswerPiece>* out) {
  Emit(decoder_.Finish(), out);
  if (place_ == Place::kCall) {
    AnswerPiece piece;
    if (std::optional<ToolCall> call = ParseToolCall(held_)) {
      piece.kind = AnswerPiece::Kind::kToolCall;
      piece.call = std::move(*call);
    } else {
      piece.text = "<|tool_call>" + held_ + "<tool_call|>";
    }
    out->push_back(std::move(piece));
  }
  held_.clear();
  place_ = Place::kContent;
}

std::vector<AnswerPiece> AnswerReader::Push(int32_t id) {
  std::vector<AnswerPiece> out;
  in_content_ = false;
  if (id >= 0 && (id == channel_open_ || id == call_open_)) {
    Close(&out);
    place_ = id == channel_open_ ? Place::kChannelName : Place::kCall;
  } else if (id >= 0 && (id == channel_close_ || id == call_close_)) {
    Close(&out);
  } else if (place_ == Place::kCall || !tokenizer_.IsSpecial(id)) {
    in_content_ = place_ == Place::kContent;
    Emit(decoder_.Push(id), &out);
  }
  return out;
}

std::vector<AnswerPiece> AnswerReader::Finish() {
  std::vector<AnswerPiece> out;
  Emit(decoder_.Finish(), &out);
  if (place_ == Place::kCall && !held_.empty())
    out.push_back({AnswerPiece::Kind::kContent, "<|tool_call>" + held_, {}});
  held_.clear();
  return out;
}

StopText::StopText(std::vector<std::string> stops) : stops_(std::move(stops)) {}

std::string StopText::Push(const std::string& text) {
  if (stopped_) return "";
  held_ += text;
  size_t first = std::string::npos;
  for (const std::string& stop : stops_) first = std::min(first, held_.find(stop));
  if (first != std::string::npos) {
    stopped_ = true;
    std::string out = held_.substr(0, first);
    held_.clear();
    return out;
  }
  size_t keep = 0;  // bytes at the end that begin a stop text
  for (const std::string& stop : stops_) {
    for (size_t n = std::min(stop.size() - 1, held_.size()); n > keep; --n) {
      if (held_.compare(held_.size() - n, n, stop, 0, n) == 0) keep = n;
    }
  }
  std::string out = held_.substr(0, held_.size() - keep);
  held_.erase(0, out.size());
  return out;
}

std::string StopText::Finish() {
  std::string out;
  out.swap(held_);
  return out;
}

}  // namespace lapidary
