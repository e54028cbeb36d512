#include "data/sample.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

#include "autograd/base/error.h"
#include "autograd/base/file.h"
#include "data/resize.h"
#include "data/video.h"

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

// Bytes (later: tokens) that one medium takes.
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

std::string Repeat(std::string_view text, int64_t count) {
  std::string out;
  out.reserve(text.size() * count);
  for (int64_t i = 0; i < count; ++i) out += text;
  return out;
}

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

// What a clip will take, from its headers: tokens of a frame, and one time mark a frame.
void CountFrames(const MediaSource& source, const SampleOptions& options, int64_t& tokens,
                 std::vector<std::string>& timestamps) {
  const VideoProcessorConfig& config = options.media.video;
  const std::string name = source.name.empty() ? source.path : source.name;
  const VideoInfo info =
      source.in_memory ? ProbeVideo(source.bytes, name) : ProbeVideo(ReadFile(source.path), name);
  const int64_t frames = options.num_frames != 0 ? options.num_frames : config.num_frames;
  for (const int64_t index : SampleFrameIndices(info.total_frames, frames)) {
    timestamps.push_back(VideoTimestamp(index, info.fps));
  }
  const int64_t budget =
      options.video_budget != 0 ? options.video_budget : config.frame.max_soft_tokens;
  tokens = ImageTokens({info.height, info.width}, config.frame, budget);
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
  int64_t dropped_thoughts = 0;
};

// A medium as rows, or (headers only) just their number.
struct SampleBuilder::Loaded {
  int64_t tokens = 0;                   // of a picture, a sound, or one frame
  std::vector<std::string> timestamps;  // of a video's frames
  int64_t features = 0;
  std::vector<float> rows;
  std::vector<int32_t> positions;
};

SampleBuilder::SampleBuilder(const Tokenizer& tokenizer, SampleOptions options)
    : tokenizer_(tokenizer), options_(std::move(options)) {
  LAPIDARY_CHECK(options_.max_length >= 0, "max_length: must be at least 0; got ",
                 options_.max_length);
  if (options_.image_budget != 0) CheckBudget(options_.media.image, options_.image_budget);
  if (options_.video_budget != 0) CheckBudget(options_.media.video.frame, options_.video_budget);
  LAPIDARY_CHECK(options_.num_frames >= 0, "num_frames: must be at least 0; got ",
                 options_.num_frames);
}

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
    for (const ChatSpan& span : chat.spans) {
      if (!span.trained || span.message < record.prompt_messages) continue;
      const float weight = record.weights.empty() ? 1.0f : record.weights[span.message];
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
    out.spans.push_back({begin, static_cast<int64_t>(out.text.size()), 1.0f});
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

std::vector<SampleBuilder::Loaded> SampleBuilder::LoadMedia(const Record& record,
                                                            bool headers_only) const {
  const MediaConfig& config = options_.media;
  std::vector<Loaded> all;
  for (const MediaRef& ref : record.media) {
    Loaded loaded;
    try {
      if (ref.kind == MediaKind::kImage && headers_only) {
        loaded.tokens = CountImageTokens(ref.source, config.image, options_.image_budget);
      } else if (ref.kind == MediaKind::kImage) {
        ImageFeatures image = LoadImageFeatures(ref.source, config.image, options_.image_budget);
        loaded = {
            image.tokens, {}, image.features, std::move(image.rows), std::move(image.positions)};
      } else if (ref.kind == MediaKind::kAudio && headers_only) {
        loaded.tokens = CountAudioTokens(ref.source, config.audio, options_.audio_limit);
      } else if (ref.kind == MediaKind::kAudio) {
        AudioFeatures audio = LoadAudioFeatures(ref.source, config.audio, options_.audio_limit);
        loaded = {audio.tokens, {}, audio.features, std::move(audio.rows), {}};
      } else if (headers_only) {
        CountFrames(ref.source, options_, loaded.tokens, loaded.timestamps);
      } else {
        VideoFeatures video =
            LoadVideoFeatures(ref.source, config.video, options_.video_budget, options_.num_frames);
        loaded = {video.tokens_per_frame, std::move(video.timestamps), video.features,
                  std::move(video.rows), std::move(video.positions)};
      }
    } catch (const Error& e) {
      const std::string text = e.what();
      throw Error(text.starts_with(record.where) ? text : StrCat(record.where, ": ", text));
    }
    all.push_back(std::move(loaded));
  }
  return all;
}

// The text with every mark written out as its soft tokens.
SampleBuilder::Text SampleBuilder::Expand(Text text, const std::vector<Loaded>& media) const {
  if (text.marks.empty()) return text;
  Text out;
  out.dropped_thoughts = text.dropped_thoughts;
  std::vector<int64_t> grown;  // bytes added up to and with each mark
  int64_t copied = 0;
  for (const Mark& mark : text.marks) {
    out.text.append(text.text, copied, mark.offset - copied);
    copied = mark.offset + kMarkBytes;
    const auto begin = static_cast<int64_t>(out.text.size());
    const Loaded& loaded = media[mark.media];
    if (mark.kind == MediaKind::kImage) {
      out.text += "<|image>" + Repeat("<|image|>", loaded.tokens) + "<image|>";
    } else if (mark.kind == MediaKind::kAudio) {
      out.text += "<|audio>" + Repeat("<|audio|>", loaded.tokens) + "<audio|>";
    } else {
      for (size_t f = 0; f < loaded.timestamps.size(); ++f) {
        out.text += (f > 0 ? " " : "") + loaded.timestamps[f] + " <|image>" +
                    Repeat("<|video|>", loaded.tokens) + "<image|>";
      }
    }
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
  return out;
}

Sample SampleBuilder::Tokenize(const Text& text, const Record& record,
                               const std::vector<Loaded>& media,
                               std::vector<std::pair<int64_t, int64_t>>& item_tokens) const {
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
  for (const Item& item : text.items) {
    const int32_t soft = tokenizer_.Require(kMarks[static_cast<int>(item.kind)].first);
    const auto first = std::lower_bound(begins.begin(), begins.end(), item.begin) - begins.begin();
    const auto last = std::lower_bound(begins.begin(), begins.end(), item.end) - begins.begin();
    item_tokens.emplace_back(first, last);
    const bool sound = item.kind == MediaKind::kAudio;
    MediaRows& rows = sound ? sample.audio : sample.vision;
    const Loaded& loaded = media[item.media];
    int64_t found = 0;
    for (int64_t i = first; i < last; ++i) {
      sample.weights[i] = 0;
      if (sample.ids[i] != soft) continue;
      sample.types[i] = item.kind == MediaKind::kImage ? kImageToken
                        : sound                        ? kAudioToken
                                                       : kVideoToken;
      rows.places.push_back(i);
      ++found;
    }
    const int64_t frames = item.kind == MediaKind::kVideo ? loaded.timestamps.size() : 1;
    LAPIDARY_CHECK(found == frames * loaded.tokens, record.where, ": ", MediaKindName(item.kind),
                   " must take ", frames * loaded.tokens, " tokens; got ", found,
                   "; try a tokenizer whose '", kMarks[static_cast<int>(item.kind)].first,
                   "' is an added token");
    rows.features = loaded.features;
    rows.rows.insert(rows.rows.end(), loaded.rows.begin(), loaded.rows.end());
    rows.positions.insert(rows.positions.end(), loaded.positions.begin(), loaded.positions.end());
    (item.kind == MediaKind::kImage ? sample.images : sound ? sample.sounds : sample.videos) += 1;
  }
  return sample;
}

namespace {

void CutRows(MediaRows& rows, int64_t tokens) {
  const auto kept = std::lower_bound(rows.places.begin(), rows.places.end(), tokens);
  rows.places.erase(kept, rows.places.end());
  if (!rows.rows.empty()) rows.rows.resize(rows.count() * rows.features);
  if (!rows.positions.empty()) rows.positions.resize(rows.count() * 2);
}

}  // namespace

// Applies on_too_long; false: drop the sample.
bool SampleBuilder::Shorten(Sample& sample, const Text& text,
                            const std::vector<std::pair<int64_t, int64_t>>& item_tokens,
                            std::string& note) const {
  const int64_t limit = options_.max_length;
  if (limit == 0 || sample.size() <= limit) return true;
  const std::string what = StrCat(sample.where, ": a sample may have at most ", limit,
                                  " tokens (max_length); got ", sample.size());
  LAPIDARY_CHECK(options_.on_too_long != OnTooLong::kError, what,
                 "; try a larger max_length, or on_too_long drop or truncate");
  if (options_.on_too_long == OnTooLong::kDrop) {
    note = what + "; record dropped";
    return false;
  }
  int64_t cut = limit;
  for (const auto& [first, last] : item_tokens) {
    if (first < cut && cut < last) cut = first;
  }
  sample.ids.resize(cut);
  sample.weights.resize(cut);
  sample.types.resize(cut);
  CutRows(sample.vision, cut);
  CutRows(sample.audio, cut);
  for (size_t i = 0; i < item_tokens.size(); ++i) {
    if (item_tokens[i].first < cut) continue;
    const MediaKind kind = text.items[i].kind;
    (kind == MediaKind::kImage   ? sample.images
     : kind == MediaKind::kAudio ? sample.sounds
                                 : sample.videos) -= 1;
  }
  note = StrCat(what, "; cut to ", cut);
  return true;
}

BuiltSample SampleBuilder::Make(const Record& record, bool headers_only) const {
  Text text = Compose(record);
  const std::vector<Loaded> media = LoadMedia(record, headers_only);
  text = Expand(std::move(text), media);
  std::vector<std::pair<int64_t, int64_t>> item_tokens;
  BuiltSample built;
  Sample sample = Tokenize(text, record, media, item_tokens);
  LAPIDARY_CHECK(sample.size() > 0, record.where, ": a sample must have tokens; got none");
  const bool targets = sample.trained() > 0;
  LAPIDARY_CHECK(targets || !options_.require_targets, record.where,
                 ": a sample must have tokens to train; got none",
                 record.kind == RecordKind::kMessages ? "; try an assistant message" : "");
  if (!Shorten(sample, text, item_tokens, built.note)) return built;
  LAPIDARY_CHECK(sample.trained() > 0 || !options_.require_targets, record.where,
                 ": tokens to train must stand before max_length ", options_.max_length,
                 "; got all of them cut away");
  built.sample = std::move(sample);
  return built;
}

BuiltSample SampleBuilder::Build(const Record& record) const { return Make(record, false); }

int64_t SampleBuilder::Measure(const Record& record) const {
  try {
    const BuiltSample built = Make(record, true);
    return built.sample ? built.sample->size() : 0;
  } catch (const Error&) {
    return 0;
  }
}

}  // namespace lapidary
