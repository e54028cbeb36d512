// From a record to what the model trains on: token ids, weights of the targets, and the rows of the
// media at their places. Image:  <|image> + n x <|image|> + <image|>        (gemma4-12b.md 4.6)
// Audio:  <|audio> + n x <|audio|> + <audio|>        (5)
// Video:  "mm:ss " + <|image> + n x <|video|> + <image|> for each frame, joined by spaces   (6)
// The expansion happens in the text, before the tokenizer, as in Transformers. Token ids are found
// by their names.
#ifndef LAPIDARY_DATA_SAMPLE_H_
#define LAPIDARY_DATA_SAMPLE_H_

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "data/chat_template.h"
#include "data/media.h"
#include "data/record.h"
#include "data/tokenizer.h"

namespace lapidary {

// mm_token_type_ids of Transformers.
enum TokenType : uint8_t { kTextToken = 0, kImageToken = 1, kVideoToken = 2, kAudioToken = 3 };

// Rows of media in order of their places: row r, rows[r * features .. + features), replaces the
// token `places[r]`.
struct MediaRows {
  int64_t features = 0;
  std::vector<float> rows;         // [count, features]
  std::vector<int32_t> positions;  // vision: [count, 2] x and y; audio: empty
  std::vector<int64_t> places;     // [count], ascending token indices
  int64_t count() const { return static_cast<int64_t>(places.size()); }
  // Appends the rows of `other`, whose places begin at `offset`.
  void Append(const MediaRows& other, int64_t offset);
};

// One document: N tokens.
struct Sample {
  std::vector<int32_t> ids;    // [N]
  std::vector<float> weights;  // [N] weight of the token as a target; 0: not trained
  std::vector<uint8_t> types;  // [N] TokenType
  MediaRows vision;            // pictures and video frames
  MediaRows audio;
  int64_t images = 0, sounds = 0, videos = 0;  // media items
  int64_t dropped_thoughts = 0;                // see RenderedChat
  std::string where;

  int64_t size() const { return static_cast<int64_t>(ids.size()); }
  int64_t trained() const;  // tokens with a weight that can be targets (all but the first)
  int64_t bytes() const;    // memory held, roughly
};

enum class OnTooLong {
  kError,     // throw Error
  kDrop,      // leave the record out, with a report
  kTruncate,  // cut at max_length, or before the media item that would be cut; report
};

struct SampleOptions {
  ChatOptions chat = {.empty_thought = EmptyThought::kInsert};
  MediaConfig media;
  int64_t image_budget = 0;  // soft tokens of an image; 0: the checkpoint's own
  int64_t video_budget = 0;  // of a frame
  int64_t num_frames = 0;
  AudioLimit audio_limit = AudioLimit::kAllow;
  int64_t max_length = 0;  // tokens; 0: any
  OnTooLong on_too_long = OnTooLong::kError;
  bool add_eos = true;          // raw strings end in <eos>, trained
  bool require_targets = true;  // false for prompts: nothing need be trained
};

// A sample, or none if policy left the record out. `note` says what was done to it, for the report.
struct BuiltSample {
  std::optional<Sample> sample;
  std::string note;
};

// Const and thread-safe.
class SampleBuilder {
 public:
  // `tokenizer` must outlive this. Throws Error for options out of range.
  SampleBuilder(const Tokenizer& tokenizer, SampleOptions options);

  // Throws Error beginning with record.where: media that cannot be read, another number of media
  // than of marks, nothing trained, too long under kError.
  BuiltSample Build(const Record& record) const;

  // Tokens of the sample that Build would make, from the headers of its media alone; 0 if it would
  // be dropped or is broken.
  int64_t Measure(const Record& record) const;

  const Tokenizer& tokenizer() const { return tokenizer_; }
  const SampleOptions& options() const { return options_; }

 private:
  struct Text;
  struct Loaded;
  Text Compose(const Record& record) const;
  std::vector<Loaded> LoadMedia(const Record& record, bool headers_only) const;
  Text Expand(Text text, const std::vector<Loaded>& media) const;
  Sample Tokenize(const Text& text, const Record& record, const std::vector<Loaded>& media,
                  std::vector<std::pair<int64_t, int64_t>>& item_tokens) const;
  bool Shorten(Sample& sample, const Text& text,
               const std::vector<std::pair<int64_t, int64_t>>& item_tokens,
               std::string& note) const;
  BuiltSample Make(const Record& record, bool headers_only) const;

  const Tokenizer& tokenizer_;
  SampleOptions options_;
};

}  // namespace lapidary

#endif  // LAPIDARY_DATA_SAMPLE_H_
