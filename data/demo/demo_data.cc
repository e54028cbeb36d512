#include "data/demo/demo_data.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>

#include "autograd/base/error.h"
#include "autograd/base/file.h"
#include "autograd/base/random.h"
#include "data/audio.h"
#include "data/demo/draw.h"
#include "data/demo/encode.h"
#include "data/demo/voice.h"

namespace lapidary {
namespace {

using Json = nlohmann::ordered_json;

struct ThingRow {
  Thing thing;
  const char* name;
  const char* letter;  // in the catalog
};
constexpr ThingRow kThingRows[kThings] = {
    {Thing::kCircle, "circle", "K"},
    {Thing::kSquare, "square", "R"},
    {Thing::kTriangle, "triangle", "D"},
    {Thing::kCross, "cross", "P"},
    {Thing::kZero, "0", "B"},
    {Thing::kOne, "1", "H"},
    {Thing::kFour, "4", "T"},
    {Thing::kSeven, "7", "G"},
};

struct ColorRow {
  Color color;
  const char* name;
};
constexpr ColorRow kColorRows[4] = {{{230, 60, 50}, "red"},
                                    {{70, 200, 80}, "green"},
                                    {{70, 110, 240}, "blue"},
                                    {{240, 215, 60}, "yellow"}};

// Multiples of 250 Hz: a frame of 64 samples, or of any multiple of 64, holds whole periods.
struct ToneRow {
  double hertz;
  const char* name;
  const char* letter;
};
constexpr ToneRow kToneRows[4] = {
    {500, "low", "J"}, {1000, "middle", "L"}, {1750, "high", "Q"}, {3000, "top", "Z"}};

struct WayRow {
  double x, y;
  const char* name;
  const char* letter;
};
constexpr WayRow kWayRows[4] = {
    {-1, 0, "left", "W"}, {1, 0, "right", "E"}, {0, -1, "up", "N"}, {0, 1, "down", "S"}};

constexpr char kVowels[] = "aeiu";
constexpr const char* kDevices[4] = {"lamp", "fan", "oven", "radio"};
constexpr const char* kSetPhrases[4] = {"Set the %d to %v.", "Turn the %d to %v.",
                                        "Please put the %d on %v.", "%d to %v, please."};
constexpr const char* kFindPhrases[6] = {"Find the %c %t.",      "Where is the %c %t?",
                                         "Get me a %c %t.",      "I need the %c %t.",
                                         "Please find a %c %t.", "Look for a %c %t."};

// The random numbers of one example.
class Draws {
 public:
  Draws(uint64_t seed, const std::string& stream, uint64_t index)
      : key_{.seed = seed, .step = index, .op = HashName(stream)} {}
  int64_t Below(int64_t bound) {
    return static_cast<int64_t>(RandomBelow(key_, next_++, static_cast<uint64_t>(bound)));
  }
  // Uniform in [-1, 1).
  double Swing() { return 2.0 * RandomUniform(key_, next_++) - 1.0; }
  double Normal() { return RandomNormal(key_, next_++); }

 private:
  RandomKey key_;
  uint64_t next_ = 0;
};

// One example of both tasks.
struct Example {
  Json pretrain, catalog;
};

Json Record(const char* task, const std::string& modality, Json user, Json assistant,
            const std::string& answer) {
  Json record;
  record["messages"] =
      Json::array({Json{{"role", "user"}, {"content", std::move(user)}}, std::move(assistant)});
  record["modality"] = modality;
  record["task"] = task;
  record["answer"] = answer;
  return record;
}

// A question about a medium. Pictures and clips stand before the text, sounds behind it, as the
// model card advises.
Json MediaRecord(const char* task, const std::string& modality, const std::string& path,
                 const std::string& question, const std::string& answer) {
  const Json medium = {{"type", modality}, {modality, path}};
  const Json text = {{"type", "text"}, {"text", question}};
  return Record(task, modality,
                modality == "audio" ? Json::array({text, medium}) : Json::array({medium, text}),
                Json{{"role", "assistant"}, {"content", answer}}, answer);
}

Json Tool(const char* name, const std::vector<std::pair<const char*, const char*>>& parameters) {
  Json properties = Json::object(), required = Json::array();
  for (const auto& [parameter, type] : parameters) {
    properties[parameter] = {{"type", type}};
    required.push_back(parameter);
  }
  return {
      {"type", "function"},
      {"function",
       {{"name", name},
        {"parameters", {{"type", "object"}, {"properties", properties}, {"required", required}}}}}};
}

// `answer` is the call as the chat template writes it.
Json ToolRecord(const char* task, const std::string& question, Json tool, Json arguments) {
  const std::string name = tool["function"]["name"];
  std::string answer = "<|tool_call>call:" + name + "{";
  for (const auto& [key, value] : arguments.items()) {
    if (answer.back() != '{') answer += ",";
    answer += key + ":";
    answer += value.is_string() ? "<|\"|>" + value.get<std::string>() + "<|\"|>" : value.dump();
  }
  answer += "}<tool_call|>";
  const Json call = {{"type", "function"},
                     {"function", {{"name", name}, {"arguments", std::move(arguments)}}}};
  Json record = Record(task, "text", question,
                       Json{{"role", "assistant"}, {"tool_calls", Json::array({call})}}, answer);
  record["tools"] = Json::array({std::move(tool)});
  return record;
}

std::string Fill(std::string phrase,
                 const std::vector<std::pair<const char*, std::string>>& words) {
  for (const auto& [mark, word] : words) {
    const size_t at = phrase.find(mark);
    if (at != std::string::npos) phrase.replace(at, 2, word);
  }
  return phrase;
}

void AddNoise(double noise, Draws& draws, Image& image) {
  if (noise == 0) return;
  for (uint8_t& value : image.pixels) {
    value = static_cast<uint8_t>(
        std::clamp<int64_t>(std::lround(value + 255 * noise * draws.Normal()), 0, 255));
  }
}

Color Background(Draws& draws) {
  const int gray = 20 + static_cast<int>(draws.Below(25));
  return {static_cast<uint8_t>(gray), static_cast<uint8_t>(gray), static_cast<uint8_t>(gray)};
}

class Maker {
 public:
  Maker(std::string folder, const DemoDataOptions& options)
      : folder_(std::move(folder)), options_(options) {}

  // Example `index` of a split, with its medium written.
  Example MakeImage(const std::string& split, int64_t index);
  Example MakeAudio(const std::string& split, int64_t index);
  Example MakeVideo(const std::string& split, int64_t index);
  // All sentences come from two finite sets; every eighth, at random, is held out.
  std::vector<Example> MakeTexts(const std::string& split, int64_t count);

  void WriteSheet();
  DemoDataSummary& summary() { return summary_; }
  void Write(const std::string& path, const std::string& bytes) {
    WriteFile(folder_ + "/" + path, bytes);
    summary_.bytes += static_cast<int64_t>(bytes.size());
  }
  // Without syncing each of thousands of small files; the lists that name them are written whole,
  // and last.
  void WriteMedium(const std::string& path, const std::string& bytes) {
    std::ofstream out(folder_ + "/" + path, std::ios::binary);
    out << bytes;
    out.close();
    LAPIDARY_CHECK(out.good(), folder_, "/", path,
                   ": must be written whole; got an error of the disk; try another folder");
    summary_.bytes += static_cast<int64_t>(bytes.size());
  }

 private:
  std::string Name(const char* kind, const std::string& split, int64_t index, const char* ending) {
    std::string number = std::to_string(index);
    number.insert(0, 5 - std::min<size_t>(5, number.size()), '0');
    ++summary_.media;
    return StrCat(kind, "/", split, "-", number, ".", ending);
  }

  std::string folder_;
  DemoDataOptions options_;
  DemoDataSummary summary_;
  std::vector<Image> pictures_;  // for the sheet
  std::vector<std::vector<Image>> clips_;
};

// Classes go round by index, so that every split is balanced.
Example Maker::MakeImage(const std::string& split, int64_t index) {
  Draws draws(options_.seed, split + "/image", static_cast<uint64_t>(index));
  const ThingRow& thing = kThingRows[index % kThings];
  const ColorRow& color = kColorRows[draws.Below(4)];
  const double size = static_cast<double>(options_.image_pixels);
  Image image = Blank(options_.image_pixels, options_.image_pixels, Background(draws));
  Pose pose;
  pose.x = size * (0.5 + 0.06 * draws.Swing());
  pose.y = size * (0.5 + 0.06 * draws.Swing());
  pose.radius = size * (0.36 + 0.04 * draws.Swing());
  pose.angle = 0.08 * draws.Swing();
  Draw(thing.thing, pose, color.color, image);
  AddNoise(options_.noise, draws, image);
  const std::string path = Name("images", split, index, "png");
  WriteMedium(path, EncodePng(image));
  if (split == "eval" && pictures_.size() < 32) pictures_.push_back(image);
  return {
      MediaRecord("pretrain", "image", path, "What is this?", StrCat(color.name, " ", thing.name)),
      MediaRecord("catalog", "image", path, "Which catalog letter?", thing.letter)};
}

Example Maker::MakeAudio(const std::string& split, int64_t index) {
  Draws draws(options_.seed, split + "/audio", static_cast<uint64_t>(index));
  std::vector<float> wave;
  std::string caption, answer, question;
  if (index % 2 == 0) {
    const ToneRow& tone = kToneRows[index / 2 % 4];
    wave = Tone(tone.hertz, 0.4 * draws.Swing(), options_.audio_samples);
    caption = StrCat(tone.name, " tone");
    question = "Which catalog letter?";
    answer = tone.letter;
  } else {
    const int64_t word = index / 2 % 16;
    const std::string vowels = {kVowels[word / 4], kVowels[word % 4]};
    const Voice voice = {.pitch = 250, .formant_scale = 1 + 0.04 * draws.Swing()};
    wave = Speak(vowels, options_.audio_samples / 2, voice);
    wave.resize(options_.audio_samples, 0.0f);
    caption = {vowels[0], ' ', vowels[1]};
    question = "Write it in capitals.";
    answer = caption;
    for (char& c : answer) {
      if (c != ' ') c = static_cast<char>(c - 'a' + 'A');
    }
  }
  const float gain = static_cast<float>(0.55 + 0.25 * draws.Swing());
  for (float& sample : wave) {
    sample = gain * (sample + static_cast<float>(options_.noise * draws.Normal()));
  }
  const std::string path = Name("audio", split, index, "wav");
  WriteMedium(path, EncodeWav(wave));
  return {MediaRecord("pretrain", "audio", path, "What do you hear?", caption),
          MediaRecord("catalog", "audio", path, question, answer)};
}

Example Maker::MakeVideo(const std::string& split, int64_t index) {
  Draws draws(options_.seed, split + "/video", static_cast<uint64_t>(index));
  const WayRow& way = kWayRows[index % 4];
  const Thing thing = kThingRows[draws.Below(4)].thing;
  const Color color = kColorRows[draws.Below(4)].color, back = Background(draws);
  const double size = static_cast<double>(options_.image_pixels);
  const double last = static_cast<double>(options_.video_frames - 1);
  Pose pose = {.radius = size * (0.17 + 0.02 * draws.Swing()), .angle = 0.2 * draws.Swing()};
  // Across the picture along the way, with a random offset across it.
  const double aside = 0.15 * draws.Swing(), reach = 0.27 + 0.03 * draws.Swing();
  std::vector<Image> frames;
  for (int64_t i = 0; i < options_.video_frames; ++i) {
    const double along = reach * (2 * static_cast<double>(i) / last - 1);
    pose.x = size * (0.5 + way.x * along + std::abs(way.y) * aside);
    pose.y = size * (0.5 + way.y * along + std::abs(way.x) * aside);
    Image frame = Blank(options_.image_pixels, options_.image_pixels, back);
    Draw(thing, pose, color, frame);
    AddNoise(options_.noise, draws, frame);
    frames.push_back(std::move(frame));
  }
  const std::string path = Name("video", split, index, "avi");
  WriteMedium(path, EncodeAvi(frames, 4));
  if (split == "eval" && clips_.size() < 8) clips_.push_back(frames);
  return {MediaRecord("pretrain", "video", path, "Which way does it go?", way.name),
          MediaRecord("catalog", "video", path, "Which compass letter?", way.letter)};
}

std::vector<Example> Maker::MakeTexts(const std::string& split, int64_t count) {
  std::vector<Json> sets, finds;
  const auto wanted = [&](const std::string& sentence) {
    Draws draws(options_.seed, sentence, 0);
    return (draws.Below(8) == 0) == (split == "eval");
  };
  for (const char* phrase : kSetPhrases) {
    for (const char* device : kDevices) {
      for (int value = 0; value <= 9; ++value) {
        const std::string text = Fill(phrase, {{"%d", device}, {"%v", std::to_string(value)}});
        if (!wanted(text)) continue;
        sets.push_back(ToolRecord("pretrain", text,
                                  Tool("set", {{"name", "string"}, {"value", "integer"}}),
                                  Json{{"name", device}, {"value", value}}));
      }
    }
  }
  for (const char* phrase : kFindPhrases) {
    for (const ThingRow& thing : kThingRows) {
      for (const ColorRow& color : kColorRows) {
        const std::string text = Fill(phrase, {{"%c", color.name}, {"%t", thing.name}});
        if (!wanted(text)) continue;
        finds.push_back(ToolRecord("catalog", text, Tool("find", {{"letter", "string"}}),
                                   Json{{"letter", thing.letter}}));
      }
    }
  }
  LAPIDARY_CHECK(!sets.empty() && !finds.empty(),
                 "make-data: each split must have sentences; got none; try another seed");
  Draws draws(options_.seed, split + "/text", 0);
  const auto shuffle = [&](std::vector<Json>& list) {
    for (size_t i = list.size(); i > 1; --i)
      std::swap(list[i - 1], list[draws.Below(static_cast<int64_t>(i))]);
  };
  shuffle(sets);
  shuffle(finds);
  std::vector<Example> out;
  for (int64_t i = 0; i < count; ++i) {
    out.push_back({sets[i % sets.size()], finds[i % finds.size()]});
  }
  return out;
}

void Maker::WriteSheet() {
  constexpr int64_t kGap = 4;
  const int64_t factor = std::max<int64_t>(1, 64 / options_.image_pixels);
  const int64_t cell = options_.image_pixels * factor + kGap;
  const int64_t columns = std::max<int64_t>(8, options_.video_frames);
  const int64_t rows = (static_cast<int64_t>(pictures_.size()) + columns - 1) / columns;
  Image sheet = Blank((rows + static_cast<int64_t>(clips_.size())) * cell + kGap,
                      columns * cell + kGap, {255, 255, 255});
  for (size_t i = 0; i < pictures_.size(); ++i) {
    const int64_t at = static_cast<int64_t>(i);
    Paste(Enlarge(pictures_[i], factor), kGap + at % columns * cell, kGap + at / columns * cell,
          sheet);
  }
  for (size_t i = 0; i < clips_.size(); ++i) {
    for (size_t k = 0; k < clips_[i].size(); ++k) {
      Paste(Enlarge(clips_[i][k], factor), kGap + static_cast<int64_t>(k) * cell,
            kGap + (rows + static_cast<int64_t>(i)) * cell, sheet);
    }
  }
  Write("sheet.png", EncodePng(sheet));
}

void CheckRange(const char* name, double value, double least, double most) {
  LAPIDARY_CHECK(value >= least && value <= most, "make-data: ", name, " must be ", least, " to ",
                 most, "; got ", value);
}

}  // namespace

DemoDataSummary WriteDemoData(const std::string& folder, const DemoDataOptions& options,
                              bool overwrite) {
  CheckRange("size", static_cast<double>(options.size), 8, 100'000);
  CheckRange("held_out", static_cast<double>(options.held_out), 8, 10'000);
  CheckRange("image_pixels", static_cast<double>(options.image_pixels), 16, 1024);
  CheckRange("video_frames", static_cast<double>(options.video_frames), 2, 64);
  CheckRange("audio_samples", static_cast<double>(options.audio_samples), 1280, 160'000);
  CheckRange("noise", options.noise, 0, 0.5);
  namespace fs = std::filesystem;
  std::error_code failed;
  LAPIDARY_CHECK(
      overwrite || !fs::exists(folder) || fs::is_empty(folder, failed), folder,
      ": the folder for the data must be new or empty; got one with files; try another, or "
      "--overwrite");
  for (const char* sub : {"images", "audio", "video"}) {
    fs::create_directories(folder + "/" + sub, failed);
    LAPIDARY_CHECK(!failed, folder, "/", sub, ": must be a folder that can be made; got '",
                   failed.message(), "'");
  }
  Maker maker(folder, options);
  std::vector<std::pair<std::string, std::string>> lists;  // JSONL file and its text
  for (const std::string split : {"train", "eval"}) {
    const int64_t count = split == "train" ? options.size : options.held_out;
    const std::vector<Example> texts = maker.MakeTexts(split, count);
    std::string pretrain, catalog;
    for (int64_t i = 0; i < count; ++i) {
      for (const Example& example : {maker.MakeImage(split, i), maker.MakeAudio(split, i),
                                     maker.MakeVideo(split, i), texts[i]}) {
        pretrain += example.pretrain.dump() + "\n";
        catalog += example.catalog.dump() + "\n";
      }
    }
    lists.emplace_back("pretrain." + split + ".jsonl", std::move(pretrain));
    lists.emplace_back("catalog." + split + ".jsonl", std::move(catalog));
    for (size_t i = lists.size() - 2; i < lists.size(); ++i) {
      maker.summary().files.emplace_back(lists[i].first, count * 4);
    }
  }
  maker.WriteSheet();
  for (const auto& [file, text] : lists) maker.Write(file, text);
  return maker.summary();
}

}  // namespace lapidary
