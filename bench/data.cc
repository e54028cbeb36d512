// How fast text becomes tokens, messages become text, and prepared files become batches, on one
// core; and whether the tokenizer is linear in the length of a paragraph.
//   data --tokenizer tokenizer.json [--text FILE] [--seconds S] [--json]
// bench/compare_data.py runs it beside the packages of Hugging Face.
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "autograd/base/error.h"
#include "autograd/base/file.h"
#include "data/audio.h"
#include "data/chat_template.h"
#include "data/demo/encode.h"
#include "data/image.h"
#include "data/media.h"
#include "data/prepared.h"
#include "data/tokenizer.h"

namespace lapidary {
namespace {

using Json = nlohmann::ordered_json;

double seconds_each = 1.0;

// CPU time of the process: what other programs take does not count.
double CpuSeconds() {
  rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
         1e-6 * static_cast<double>(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
}

// The least CPU time of body() in repeated calls.
template <class Body>
double Best(const Body& body) {
  body();
  double best = 1e300;
  const double start = CpuSeconds();
  for (int n = 0; n < 3 || CpuSeconds() - start < seconds_each; ++n) {
    const double begin = CpuSeconds();
    body();
    best = std::min(best, CpuSeconds() - begin);
  }
  return best;
}

// Prose, code and other scripts, when no text is given.
std::string MixedText() {
  const char* const pieces[] = {
      "The harbour lay still under a thin mist while the first boats went out to the banks. ",
      "int64_t Sum(const std::vector<int64_t>& v) {\n  int64_t s = 0;\n  for (auto x : v) s += x;\n"
      "  return s;\n}\n",
      "Stra\xc3\x9f"
      "e, na\xc3\xafve fa\xc3\xa7"
      "ade, \xd0\xbf\xd1\x80\xd0\xb8\xd0\xb2\xd0\xb5\xd1\x82 "
      "\xd0\xbc\xd0\xb8\xd1\x80, \xe4\xb8\xad\xe6\x96\x87\xe5\xad\x97\xe7\xac\xa6\xe3\x80\x82 ",
      "{\"id\": 4711, \"price\": 12.50, \"tags\": [\"a\", \"b\"]}\n",
      "Chapter 12: 1,024 results, 99.5 % of them since 2019-03-07.\n\n"};
  std::string text;
  uint32_t state = 7;
  while (text.size() < 2'000'000) {
    state = state * 1664525u + 1013904223u;
    text += pieces[(state >> 16) % 5];
    text += std::to_string(state >> 20) + " ";
  }
  return text;
}

// `text` in pieces of about `size` bytes, cut before characters.
std::vector<std::string> Pieces(const std::string& text, size_t size) {
  std::vector<std::string> pieces;
  for (size_t begin = 0; begin < text.size();) {
    size_t end = std::min(begin + size, text.size());
    while (end < text.size() && (static_cast<uint8_t>(text[end]) & 0xc0) == 0x80) ++end;
    pieces.push_back(text.substr(begin, end - begin));
    begin = end;
  }
  return pieces;
}

int64_t EncodeAll(const Tokenizer& tokenizer, const std::vector<std::string>& pieces) {
  int64_t tokens = 0;
  for (const std::string& piece : pieces) {
    tokens += static_cast<int64_t>(tokenizer.Encode(piece).size());
  }
  return tokens;
}

void Run(const std::string& tokenizer_path, const std::string& text_path, bool json) {
  Json out = Json::object();
  const Tokenizer tokenizer(ParseTokenizerJson(ReadFile(tokenizer_path), tokenizer_path));
  const std::string text = text_path.empty() ? MixedText() : ReadFile(text_path);
  // Once with an empty cache, then again and again. compare_data.py cuts the text in the same way.
  const std::vector<std::string> lines = Pieces(text, 2000);
  const auto megabytes = static_cast<double>(text.size()) / 1e6;
  const double start = CpuSeconds();
  out["tokens"] = EncodeAll(tokenizer, lines);
  out["tokenizer_first_MB_per_s"] = megabytes / (CpuSeconds() - start);
  out["tokenizer_MB_per_s"] = megabytes / Best([&] { EncodeAll(tokenizer, lines); });
  // The same text in ever longer paragraphs, without line feeds.
  std::string paragraph = text.substr(0, 2'000'000);
  std::replace(paragraph.begin(), paragraph.end(), '\n', ' ');
  for (const size_t size : {size_t{2'000}, size_t{20'000}, size_t{200'000}, size_t{2'000'000}}) {
    const std::vector<std::string> parts = Pieces(paragraph, size);
    out[StrCat("paragraphs_of_", size, "_MB_per_s")] =
        static_cast<double>(paragraph.size()) / 1e6 / Best([&] { EncodeAll(tokenizer, parts); });
  }
  Json messages = Json::array();
  for (int i = 0; i < 100; ++i) {
    messages.push_back({{"role", "user"}, {"content", text.substr(i * 500 % 100000, 120)}});
    messages.push_back({{"role", "assistant"}, {"content", text.substr(i * 900 % 100000, 300)}});
  }
  const double render = Best([&] { RenderChat(messages, nullptr, {}); });
  out["template_messages_per_s"] = static_cast<double>(messages.size()) / render;

  Image photo = {.height = 1000, .width = 1000, .pixels = {}};
  for (int64_t i = 0; i < 3'000'000; ++i) {
    photo.pixels.push_back(static_cast<uint8_t>(128 + 60 * ((i / 3 % 1000) > (i / 3000)) + i % 31));
  }
  const std::string jpeg = EncodeJpeg(photo, {.quality = 85, .subsample = true});
  const MediaSource picture = MediaSource::Memory(jpeg, "a.jpg");
  out["image_per_s"] = 1 / Best([&] { LoadImageFeatures(picture, {}); });
  std::vector<float> wave(44100 * 20);
  for (size_t i = 0; i < wave.size(); ++i) wave[i] = static_cast<float>(i * 7919 % 1000) / 2000;
  const MediaSource sound = MediaSource::Memory(EncodeWav(wave, 44100), "a.wav");
  out["audio_times_real_time"] = 20 / Best([&] { LoadAudioFeatures(sound, {}); });

  // A prepared file of pictures.
  const std::string folder =
      (std::filesystem::temp_directory_path() / StrCat("lapidary-bench-", getpid())).string();
  std::filesystem::create_directories(folder);
  WriteFile(folder + "/a.jpg", jpeg);
  std::string records;
  for (int i = 0; i < 64; ++i) records += "{\"image\":\"a.jpg\",\"caption\":\"gray\"}\n";
  WriteFile(folder + "/d.jsonl", records);
  const SampleBuilder builder(tokenizer, {});
  const PrepareSummary summary =
      PrepareDataset(Dataset::Open({folder + "/d.jsonl"}), builder, folder + "/d.h5", {});
  const auto source = OpenPrepared(folder + "/d.h5", builder);
  const double read = Best([&] {
    for (int64_t r = 0; r < source->size(); ++r) source->Build(r, 0);
  });
  out["prepared_file_MB_per_s"] = static_cast<double>(summary.bytes) / read / 1e6;
  out["prepared_rows_MB_per_s"] = 4 * static_cast<double>(summary.bytes) / read / 1e6;
  std::filesystem::remove_all(folder);

  if (json) {
    std::printf("%s\n", out.dump().c_str());
    return;
  }
  for (const auto& [key, value] : out.items()) {
    std::printf("%-32s %12.1f\n", key.c_str(), value.get<double>());
  }
}

}  // namespace
}  // namespace lapidary

int main(int argc, char** argv) {
  std::string tokenizer, text;
  bool json = false;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    const auto next = [&]() -> std::string { return i + 1 < argc ? argv[++i] : ""; };
    if (word == "--tokenizer") tokenizer = next();
    if (word == "--text") text = next();
    if (word == "--seconds") lapidary::seconds_each = std::atof(next().c_str());
    if (word == "--json") json = true;
  }
  if (tokenizer.empty()) {
    std::fprintf(stderr,
                 "usage: data --tokenizer tokenizer.json [--text FILE] [--seconds S] [--json]\n");
    return 2;
  }
  try {
    lapidary::Run(tokenizer, text, json);
  } catch (const lapidary::Error& e) {
    std::fprintf(stderr, "error: %s\n", e.what());
    return 2;
  }
}
