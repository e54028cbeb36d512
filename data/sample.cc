#include "data/sample.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

#include "autograd/base/error.h"
#include "data/message_reader.h"
#include "data/readers.h"
#include "data/sample_cut.h"
#include "data/sample_media.h"

namespace lapidary {
namespace {

// One mark of a medium in the text.
struct Mark {
  int64_t offset = 0;  // byte
  MediaKind kind = MediaKind::kImage;
  int64_t media = -1;  // index into Record::media
};

// Bytes [begin, end) with one weight.
struct WeightedSpan {
  int64_t begin = 0;
  int64_t end = 0;
  float weight = 0;
};

// Where a turn begins: a byte of the text.
struct Turn {
  int64_t begin = 0;
  bool user = false;
};

// Bytes that one medium takes.
struct Item {
  int64_t begin = 0;
  int64_t end = 0;
  MediaKind kind = MediaKind::kImage;
  int64_t media = 0;
};

constexpr std::pair<std::string_view, MediaKind> kMarks[] = {{"<|image|>", MediaKind::kImage},
                                                             {"<|audio|>", MediaKind::kAudio},
                                                             {"<|video|>", MediaKind::kVideo}};
constexpr int64_t kMarkBytes = 9;  // of each

// Every mark in the text, in order.
std::vector<Mark> FindMarks(const std::string& text) {
  std::vector<Mark> marks;
  for (size_t at = text.find("<|"); at != std::string::npos; at = text.find("<|", at + 1)) {
    for (const auto& [name, kind] : kMarks) {
      if (text.compare(at, name.size(), name) != 0) continue;
      marks.push_back({static_cast<int64_t>(at), kind, -1});
    }
  }
  return marks;
}

}  // namespace

void MediaRows::Append(const MediaRows& other, int64_t offset) {
  if (other.count() == 0) return;
  LAPIDARY_CHECK(features == 0 || features == other.features,
                 "media: rows of one batch must have one width; got ", features, " and ",
                 other.features);
  features = other.features;
  rows.insert(rows.end(), other.rows.begin(), other.rows.end());
  positions.insert(positions.end(), other.positions.begin(), other.positions.end());
  for (const int64_t place : other.places) places.push_back(place + offset);
}

int64_t Sample::trained() const {
  int64_t count = 0;
  for (size_t i = 1; i < weights.size(); ++i) count += weights[i] > 0;
  return count;
}

int64_t Sample::bytes() const {
  return size() * 9 + static_cast<int64_t>(vision.rows.size() + audio.rows.size()) * 4;
}

// The text of a record with what is known about its bytes.
struct SampleBuilder::Text {
  std::string text;
  std::vector<WeightedSpan> spans;  // sorted; bytes outside weigh 0
  std::vector<Mark> marks;
  std::vector<Item> items;    // filled by Expand
  std::vector<int64_t> cuts;  // tokens do not cross these bytes
  std::vector<Turn> turns;    // of a conversation, where their headers begin
  int64_t dropped_thoughts = 0;
};

SampleBuilder::SampleBuilder(const Tokenizer& tokenizer, SampleOptions options)
    : tokenizer_(tokenizer), options_(std::move(options)) {
  LAPIDARY_CHECK(options_.max_length >= 0, "max_length: must be at least 0; got ",
                 options_.max_length);
  if (options_.image_budget != 0) CheckBudget(options_.media.image, options_.image_budget);
  if (options_.video_budget != 0) CheckBudget(options_.media.video.frame, options_.video_budget);
  CheckAugment(options_.augment);
  LAPIDARY_CHECK(
      options_.video.fps >= 0 && options_.video.fps <= 1000 && options_.video.max_frames >= 1,
      "video: fps must be from 0 to 1000 and max_frames at least 1; got ", options_.video.fps,
      " and ", options_.video.max_frames);
  LAPIDARY_CHECK(options_.video.on_long != OnLongVideo::kSegments || options_.video.fps > 0,
                 "video: segments need frames by rate; got fps 0; try video_fps 1");
  LAPIDARY_CHECK(options_.num_frames >= 0, "num_frames: must be at least 0; got ",
                 options_.num_frames);
}

namespace {

// Rows whose places are in `to` already.
void AppendRows(const MediaRows& from, MediaRows& to) {
  if (from.features == 0) return;
  to.features = from.features;
  to.rows.insert(to.rows.end(), from.rows.begin(), from.rows.end());
  to.positions.insert(to.positions.end(), from.positions.begin(), from.positions.end());
}

// The first message that may be trained; -1 takes what is of no message, too.
int64_t FirstMessage(const Record& record, TrainOn train_on, const RenderedChat& chat) {
  if (train_on == TrainOn::kAll) return record.prompt_messages > 0 ? record.prompt_messages : -1;
  if (train_on == TrainOn::kAssistant) return record.prompt_messages;
  // Behind the last user's message that an answer follows.
  int64_t last = -1;
  for (const ChatSpan& span : chat.spans) {
    if (span.trained) last = std::max(last, span.message);
  }
  int64_t first = last;
  while (first > 0) {
    const auto& before = record.messages[first - 1];
    if (before.contains("role") && before["role"] == "user") break;
    --first;
  }
  return std::max(first, record.prompt_messages);
}

bool IsTrainedSpan(const ChatSpan& span, TrainOn train_on) {
  if (train_on != TrainOn::kAll) return span.trained;
  return span.kind != ChatClass::kBos && span.kind != ChatClass::kMedia &&
         span.kind != ChatClass::kToolResponse && span.kind != ChatClass::kGenerationPrompt;
}

}  // namespace

SampleBuilder::Text SampleBuilder::Compose(const Record& record) const {
  Text out;
  std::vector<int64_t> placed;  // media by the offset of their mark
  if (record.kind == RecordKind::kMessages) {
    RenderedChat chat;
    try {
      chat = RenderChat(record.messages, &record.tools, options_.chat);
    } catch (const Error& e) {
      throw Error(StrCat(record.where, ": ", e.what()));
    }
    const int64_t first = FirstMessage(record, options_.train_on, chat);
    for (const ChatSpan& span : chat.spans) {
      if (span.kind == ChatClass::kHeader && span.message >= 0) {
        const std::string role = record.messages[span.message].value("role", "");
        const bool system = span.message == 0 && (role == "system" || role == "developer");
        if (!system) out.turns.push_back({span.begin, role == "user"});
      }
      if (!IsTrainedSpan(span, options_.train_on) || span.message < first) continue;
      const bool weighted = !record.weights.empty() && span.message >= 0;
      const float weight = weighted ? record.weights[span.message] : 1.0f;
      out.spans.push_back({span.begin, span.end, weight});
    }
    out.text = std::move(chat.text);
    out.dropped_thoughts = chat.dropped_thoughts;
    out.marks = FindMarks(out.text);
    for (const ChatMedia& media : chat.media) {
      const auto& part = record.messages[media.message]["content"][media.part];
      for (Mark& mark : out.marks) {
        if (mark.offset == media.offset && part.contains("media")) mark.media = part["media"];
      }
    }
  } else {
    const std::string_view bos = "<bos>", eos = "<eos>";
    const std::string& front =
        record.kind == RecordKind::kPromptCompletion ? record.prompt : record.completion;
    if (!front.starts_with(bos)) out.text = bos;
    if (record.kind == RecordKind::kPromptCompletion) {
      out.text += record.prompt;
      out.cuts.push_back(static_cast<int64_t>(out.text.size()));
    }
    const auto begin = static_cast<int64_t>(out.text.size());
    out.text += record.completion;
    if (options_.add_eos && !record.completion.ends_with(eos)) out.text += eos;
    const bool all = options_.train_on == TrainOn::kAll;
    const bool given = front.starts_with(bos);
    out.spans.push_back({all && !given ? static_cast<int64_t>(bos.size())
                         : all         ? 0
                                       : begin,
                         static_cast<int64_t>(out.text.size()), 1.0f});
    out.marks = FindMarks(out.text);
  }
  // Marks that no content part has placed take the free media in order.
  std::vector<bool> used(record.media.size(), false);
  for (const Mark& mark : out.marks) {
    if (mark.media >= 0) used[mark.media] = true;
  }
  for (const auto& [name, kind] : kMarks) {
    size_t next = 0;
    int64_t marks = 0, files = 0;
    for (const MediaRef& ref : record.media) files += ref.kind == kind;
    for (Mark& mark : out.marks) {
      if (mark.kind != kind) continue;
      ++marks;
      if (mark.media >= 0) continue;
      while (next < record.media.size() &&
             (used[next] || record.media[next].placed || record.media[next].kind != kind)) {
        ++next;
      }
      if (next == record.media.size()) continue;
      used[next] = true;
      mark.media = static_cast<int64_t>(next);
    }
    LAPIDARY_CHECK(marks == files, record.where, ": there must be as many ", name,
                   " in the text as ", MediaKindName(kind), " files; got ", marks, " and ", files);
  }
  for (const Mark& mark : out.marks) {
    LAPIDARY_CHECK(mark.media >= 0, record.where, ": a ", MediaKindName(mark.kind),
                   " mark in the text must have a file of its own; got none");
  }
  return out;
}

std::vector<LoadedMedium> SampleBuilder::LoadMedia(const Record& record, const BuildKey& key,
                                                   bool headers_only) const {
  std::vector<LoadedMedium> all;
  for (const MediaRef& ref : record.media) {
    try {
      const auto index = static_cast<int64_t>(all.size());
      all.push_back(LoadMedium(ref, options_, {key.epoch, key.record, index}, headers_only));
    } catch (const Error& e) {
      const std::string text = e.what();
      throw Error(text.starts_with(record.where) ? text : StrCat(record.where, ": ", text));
    }
  }
  return all;
}

// The text with every mark written out as its soft tokens.
SampleBuilder::Text SampleBuilder::Expand(Text text, const std::vector<LoadedMedium>& media) const {
  if (text.marks.empty()) return text;
  Text out;
  out.dropped_thoughts = text.dropped_thoughts;
  std::vector<int64_t> grown;  // bytes added up to and with each mark
  int64_t copied = 0;
  for (const Mark& mark : text.marks) {
    out.text.append(text.text, copied, mark.offset - copied);
    copied = mark.offset + kMarkBytes;
    const auto begin = static_cast<int64_t>(out.text.size());
    out.text += media[mark.media].Text();
    const auto end = static_cast<int64_t>(out.text.size());
    out.items.push_back({begin, end, mark.kind, mark.media});
    grown.push_back(end - copied);
  }
  out.text.append(text.text, copied);
  const auto moved = [&](int64_t offset) {
    const auto after =
        std::upper_bound(text.marks.begin(), text.marks.end(), offset - 1,
                         [](int64_t o, const Mark& mark) { return o < mark.offset; });
    const int64_t before = after - text.marks.begin();
    return before == 0 ? offset : offset + grown[before - 1];
  };
  for (const WeightedSpan& span : text.spans) {
    out.spans.push_back({moved(span.begin), moved(span.end), span.weight});
  }
  for (const int64_t cut : text.cuts) out.cuts.push_back(moved(cut));
  for (const Turn& turn : text.turns) out.turns.push_back({moved(turn.begin), turn.user});
  return out;
}

// Where things stand in the tokens.
struct SampleBuilder::Layout : SampleLayout {};

Sample SampleBuilder::Tokenize(const Text& text, const Record& record,
                               const std::vector<LoadedMedium>& media, Layout& layout) const {
  Sample sample;
  sample.where = record.where;
  sample.dropped_thoughts = text.dropped_thoughts;
  std::vector<int64_t> begins;
  int64_t from = 0;
  for (size_t c = 0; c <= text.cuts.size(); ++c) {
    const auto to = c < text.cuts.size() ? text.cuts[c] : static_cast<int64_t>(text.text.size());
    const Encoding encoding =
        tokenizer_.EncodeWithOffsets(std::string_view(text.text).substr(from, to - from));
    sample.ids.insert(sample.ids.end(), encoding.ids.begin(), encoding.ids.end());
    for (const int64_t begin : encoding.begins) begins.push_back(from + begin);
    from = to;
  }
  const int64_t n = sample.size();
  sample.weights.assign(n, 0.0f);
  sample.types.assign(n, kTextToken);
  size_t span = 0;
  for (int64_t i = 0; i < n; ++i) {
    while (span < text.spans.size() && text.spans[span].end <= begins[i]) ++span;
    if (span < text.spans.size() && text.spans[span].begin <= begins[i]) {
      sample.weights[i] = text.spans[span].weight;
    }
  }
  for (const Turn& turn : text.turns) {
    const auto at = std::lower_bound(begins.begin(), begins.end(), turn.begin) - begins.begin();
    layout.turns.push_back({at, turn.user});
  }
  for (const Item& item : text.items) {
    const auto first = std::lower_bound(begins.begin(), begins.end(), item.begin) - begins.begin();
    const auto last = std::lower_bound(begins.begin(), begins.end(), item.end) - begins.begin();
    layout.items.push_back({first, last, item.kind});
    const LoadedMedium& medium = media[item.media];
    for (int64_t i = first; i < last; ++i) sample.weights[i] = 0;
    for (const MediaKind kind : kMediaKinds) {
      const int64_t wanted = medium.Tokens(kind);
      if (wanted == 0) continue;
      const std::string_view name = kMarks[static_cast<int>(kind)].first;
      const int32_t soft = tokenizer_.Require(std::string(name));
      MediaRows& rows = kind == MediaKind::kAudio ? sample.audio : sample.vision;
      int64_t found = 0;
      for (int64_t i = first; i < last; ++i) {
        if (sample.ids[i] != soft) continue;
        sample.types[i] = kind == MediaKind::kImage   ? kImageToken
                          : kind == MediaKind::kAudio ? kAudioToken
                                                      : kVideoToken;
        rows.places.push_back(i);
        ++found;
      }
      LAPIDARY_CHECK(found == wanted, record.where, ": ", MediaKindName(kind), " must take ",
                     wanted, " tokens; got ", found, "; try a tokenizer whose '", name,
                     "' is an added token");
    }
    AppendRows(medium.vision, sample.vision);
    AppendRows(medium.sound, sample.audio);
    const bool sound = item.kind == MediaKind::kAudio;
    (item.kind == MediaKind::kImage ? sample.images : sound ? sample.sounds : sample.videos) += 1;
  }
  return sample;
}

bool SampleBuilder::Shorten(BuiltSample& built, const Layout& layout) const {
  const int64_t limit = options_.max_length;
  Sample& sample = *built.sample;
  if (limit == 0 || sample.size() <= limit) return true;
  const std::string what = StrCat(sample.where, ": a sample may have at most ", limit,
                                  " tokens (max_length); got ", sample.size());
  LAPIDARY_CHECK(options_.on_too_long != OnTooLong::kError, what,
                 "; try a larger max_length, or on_too_long drop, truncate, cut or split");
  if (options_.on_too_long == OnTooLong::kDrop) {
    built.note = what + "; record dropped";
    return false;
  }
  const std::vector<SampleSlice> slices =
      options_.on_too_long == OnTooLong::kSplit ? SplitSlices(sample.size(), limit, layout)
      : options_.on_too_long == OnTooLong::kCut ? CutSlices(sample.size(), limit, layout)
                                                : TruncateSlices(limit, layout);
  std::vector<Sample> parts;
  int64_t untrained = 0;
  for (const SampleSlice& slice : slices) {
    Sample part = TakeSlice(sample, layout, slice);
    if (options_.require_targets && part.trained() == 0) {
      ++untrained;
      continue;
    }
    parts.push_back(std::move(part));
  }
  LAPIDARY_CHECK(!parts.empty(), sample.where, ": tokens to train must stand before max_length ",
                 limit, "; got all of them cut away");
  built.note = options_.on_too_long == OnTooLong::kSplit
                   ? StrCat(what, "; split into ", parts.size(), " samples")
                   : StrCat(what, "; cut to ", parts[0].size());
  if (untrained > 0 && slices.size() > 1) {
    built.note += StrCat(", ", untrained, " parts without anything to train left out");
  }
  built.sample = std::move(parts[0]);
  for (size_t i = 1; i < parts.size(); ++i) built.more.push_back(std::move(parts[i]));
  return true;
}

BuiltSample SampleBuilder::Make(const Record& given, const BuildKey& key, bool headers_only) const {
  const bool pair = given.kind == RecordKind::kPreference;
  LAPIDARY_CHECK(!pair || options_.preference == PreferencePolicy::kChosen, given.where,
                 ": a preference pair needs a preference trainer; got plain fine-tuning; try "
                 "preference \"chosen\" to train on the chosen answers");
  LAPIDARY_CHECK(!given.label || options_.preference == PreferencePolicy::kChosen, given.where,
                 ": an answer with a label needs a preference trainer; got plain fine-tuning; try "
                 "\"loss\": {\"type\": \"kto\"}, or preference \"chosen\" to train on the answers "
                 "labelled true");
  if (given.label && !*given.label) {
    BuiltSample left_out;
    left_out.note = given.where + ": labelled false; left out";
    return left_out;
  }
  const Record chosen = pair ? ChosenOf(given) : Record();
  const Record& record = pair ? chosen : given;
  Text text = Compose(record);
  const std::vector<LoadedMedium> media = LoadMedia(record, key, headers_only);
  text = Expand(std::move(text), media);
  Layout layout;
  BuiltSample built;
  built.sample = Tokenize(text, record, media, layout);
  const Sample& sample = *built.sample;
  LAPIDARY_CHECK(sample.size() > 0, record.where, ": a sample must have tokens; got none");
  LAPIDARY_CHECK(sample.trained() > 0 || !options_.require_targets, record.where,
                 ": a sample must have tokens to train; got none",
                 record.kind == RecordKind::kMessages ? "; try an assistant message" : "");
  if (!Shorten(built, layout)) built.sample.reset();
  return built;
}

BuiltSample SampleBuilder::Build(const Record& record, const BuildKey& key) const {
  return Make(record, key, false);
}

std::optional<PreferenceSample> SampleBuilder::BuildPair(const Record& record,
                                                         std::string* note) const {
  BuiltSample chosen = Build(ChosenOf(record)), rejected = Build(RejectedOf(record));
  *note = chosen.note.empty() ? rejected.note : chosen.note;
  if (!chosen.sample || !rejected.sample) return std::nullopt;
  return PreferenceSample{std::move(*chosen.sample), std::move(*rejected.sample)};
}

std::vector<int64_t> SampleBuilder::MeasureAll(const Record& record) const {
  try {
    const BuiltSample built = Make(record, {}, true);
    if (!built.sample) return {};
    std::vector<int64_t> sizes = {built.sample->size()};
    for (const Sample& part : built.more) sizes.push_back(part.size());
    return sizes;
  } catch (const Error&) {
    return {};
  }
}

int64_t SampleBuilder::Measure(const Record& record) const {
  int64_t sum = 0;
  for (const int64_t size : MeasureAll(record)) sum += size;
  return sum;
}

}  // namespace lapidary
