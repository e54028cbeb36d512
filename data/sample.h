// From a record to what the model trains on: token ids, weights of the targets, and the rows of the
// media at their places. Image:  <|image> + n x <|image|> + <image|>        (gemma4-12b.md 4.6)
// Audio:  <|audio> + n x <|audio|> + <audio|>        (5)
// Video:  "mm:ss " + <|image> + n x <|video|> + <image|> for each frame, joined by spaces   (6),
//         then its soundtrack as sound items, if asked for
// The expansion happens in the text, before the tokenizer, as in Transformers. Token ids are found
// by their names.
#ifndef LAPIDARY_DATA_SAMPLE_H_
#define LAPIDARY_DATA_SAMPLE_H_

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "data/augment.h"
#include "data/chat_template.h"
#include "data/media.h"
#include "data/record.h"
#include "data/tokenizer.h"

namespace lapidary {

struct LoadedMedium;

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
  std::optional<bool> label;  // of a preference trainer that takes answers one by one

  int64_t size() const { return static_cast<int64_t>(ids.size()); }
  int64_t trained() const;  // tokens with a weight that can be targets (all but the first)
  int64_t bytes() const;    // memory held, roughly
};

// What to do with more than max_length tokens. Nothing cuts inside a media item.
enum class OnTooLong {
  kError,     // throw Error
  kDrop,      // leave the record out, with a report
  kTruncate,  // cut at max_length, or before the media item that would be cut; report
  kCut,       // conversations: cut before the turn that does not fit whole; report
  kSplit,  // conversations: parts of whole exchanges (from a user's turn to the next), the system
           // turn in front of each; raw text: pieces; report. An exchange that is too long alone
           // is cut as by kTruncate
};

// Which tokens are trained.
enum class TrainOn {
  kAssistant,  // what the model writes, in all its turns; completions
  kLast,       // what it writes behind the last user's message
  kAll,        // all text but tool responses, marks of media and inserted empty thoughts
};

// What a preference pair, or an answer with a label, is outside a preference trainer: an error, or
// the chosen answer, or that answer if it is to be desired.
enum class PreferencePolicy { kError, kChosen };

// What to do with a clip that has more than max_frames frames at the wanted rate.
enum class OnLongVideo {
  kError,
  kThin,      // max_frames of them, evenly
  kSegments,  // all of them, in stretches as long as a sound may be, each followed by its sound
};

struct VideoOptions {
  double fps = 0;           // frames taken a second; 0: num_frames of the clip, as Hugging Face
  int64_t max_frames = 60;  // by rate; the model's own limit is 60 s at 1 a second
  OnLongVideo on_long = OnLongVideo::kError;
  bool sound = false;  // the soundtrack behind the frames, under audio_limit
};

// Where a record is used: augmentation is a function of it.
struct BuildKey {
  int64_t record = 0;
  int64_t epoch = 0;
};

struct SampleOptions {
  ChatOptions chat = {.empty_thought = EmptyThought::kInsert};
  MediaConfig media;
  int64_t image_budget = 0;  // soft tokens of an image; 0: the checkpoint's own
  int64_t video_budget = 0;  // of a frame
  int64_t num_frames = 0;
  AudioLimit audio_limit = AudioLimit::kAllow;
  VideoOptions video = {};
  AugmentOptions augment = {};
  int64_t max_length = 0;  // tokens; 0: any
  OnTooLong on_too_long = OnTooLong::kError;
  TrainOn train_on = TrainOn::kAssistant;
  PreferencePolicy preference = PreferencePolicy::kError;
  bool add_eos = true;          // raw strings end in <eos>, trained
  bool require_targets = true;  // false for prompts: nothing need be trained
};

// A sample, or none if policy left the record out. `note` says what was done to it, for the report.
struct BuiltSample {
  std::optional<Sample> sample;
  std::vector<Sample> more;  // what follows it, of a record that was split
  std::string note;
};

// The two sides of a preference pair: token for token the same prompt, then an answer each. Answers
// are the trained tokens.
struct PreferenceSample {
  Sample chosen;
  Sample rejected;
};

// Const and thread-safe.
class SampleBuilder {
 public:
  // `tokenizer` must outlive this. Throws Error for options out of range.
  SampleBuilder(const Tokenizer& tokenizer, SampleOptions options);

  // Throws Error beginning with record.where: media that cannot be read, another number of media
  // than of marks, nothing trained, too long under kError.
  BuiltSample Build(const Record& record, const BuildKey& key = {}) const;

  // Both sides of a pair (RecordKind::kPreference); none, with a note, if one is dropped as too
  // long. A side is never split.
  std::optional<PreferenceSample> BuildPair(const Record& record, std::string* note) const;

  // Tokens of the sample that Build would make, from the headers of its media alone; 0 if it would
  // be dropped or is broken. The sum of all parts of a record that is split.
  int64_t Measure(const Record& record) const;
  // Of each part.
  std::vector<int64_t> MeasureAll(const Record& record) const;

  const Tokenizer& tokenizer() const { return tokenizer_; }
  const SampleOptions& options() const { return options_; }

 private:
  struct Text;
  struct Layout;
  Text Compose(const Record& record) const;
  std::vector<LoadedMedium> LoadMedia(const Record& record, const BuildKey& key,
                                      bool headers_only) const;
  Text Expand(Text text, const std::vector<LoadedMedium>& media) const;
  Sample Tokenize(const Text& text, const Record& record, const std::vector<LoadedMedium>& media,
                  Layout& layout) const;
  bool Shorten(BuiltSample& built, const Layout& layout) const;
  BuiltSample Make(const Record& record, const BuildKey& key, bool headers_only) const;

  const Tokenizer& tokenizer_;
  SampleOptions options_;
};

}  // namespace lapidary

#endif  // LAPIDARY_DATA_SAMPLE_H_
