#include "data/prepared.h"

#include <algorithm>
#include <atomic>
#include <exception>
#include <filesystem>
#include <mutex>
#include <nlohmann/json.hpp>
#include <thread>
#include <utility>
#include <vector>

#include "autograd/base/error.h"
#include "autograd/base/file.h"
#include "autograd/base/sha256.h"
#include "data/json.h"
#include "data/prepared_file.h"

namespace lapidary {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

// Records of a part: what a call that is broken off may lose for each of its threads.
constexpr int64_t kPartRecords = 64;

std::string Hex(uint64_t value) {
  char text[20];
  std::snprintf(text, sizeof text, "%016llx", static_cast<unsigned long long>(value));
  return text;
}

// Of every token, and of how a text with everything in it is cut.
std::string TokenizerFingerprint(const Tokenizer& tokenizer) {
  Sha256 hash;
  for (int32_t id = 0; id < tokenizer.size(); ++id) {
    const std::string token = tokenizer.Token(id) + "\n";
    hash.Add(token);
  }
  const std::vector<int32_t> probe = tokenizer.Encode(
      "The 1st  quick\n\nbrown fox; na\xc3\xafve \xe4\xb8\xad\xe6\x96\x87 int main() { return 0; }"
      "<bos><|turn>user\n<|image|>\t\xf0\x9f\x98\x80");
  hash.Add(probe.data(), probe.size() * sizeof(int32_t));
  return hash.Hex();
}

Json ImageSettings(const ImageProcessorConfig& c) {
  return {c.patch_size, c.pooling_kernel_size, c.max_soft_tokens, c.rescale_factor, c.divide};
}

class PreparedSource : public SampleSource {
 public:
  PreparedSource(const std::string& path, const SampleBuilder& builder)
      : reader_(path, builder.options().media) {
    const Json header = ParseJson(reader_.header(), path);
    const Json expected = BuilderFingerprint(builder);
    for (const auto& [key, value] : expected.items()) {
      const bool there = header.contains("builder") && header["builder"].contains(key);
      LAPIDARY_CHECK(there && DumpJson(header["builder"][key]) == DumpJson(value), path,
                     ": must be prepared with the ", key, " at hand, ", DumpJson(value), "; got ",
                     there ? DumpJson(header["builder"][key]) : "none",
                     "; try lapidary data prepare again");
    }
    int64_t records = 0;
    for (const Json& share : header.value("shares", Json::array())) {
      LAPIDARY_CHECK(share.is_array() && share.size() == 2 && share[0].is_number_unsigned() &&
                         share[1].is_number(),
                     path, ": shares must be pairs of records and repeats; got ", DumpJson(share));
      shares_.push_back({share[0].get<int64_t>(), share[1].get<double>()});
      LAPIDARY_CHECK(shares_.back().records <= reader_.records() && shares_.back().repeat > 0 &&
                         shares_.back().repeat <= 1e6,
                     path, ": shares must be of its records; got ", DumpJson(share));
      records += shares_.back().records;
    }
    LAPIDARY_CHECK(records == reader_.records() && records > 0, path, ": must have ", records,
                   " records; got ", reader_.records());
    fingerprint_ = std::stoull(Sha256Hex(reader_.header()).substr(0, 16), nullptr, 16) ^
                   static_cast<uint64_t>(reader_.tokens());
  }

  int64_t size() const override { return reader_.records(); }
  std::vector<Dataset::Share> Shares() const override { return shares_; }
  std::string Where(int64_t record) const override { return reader_.Where(record); }
  uint64_t Fingerprint() const override { return fingerprint_; }
  bool OneEach() const override { return false; }
  std::vector<int64_t> Measure(int64_t record) const override { return reader_.Lengths(record); }
  RecordOutcome Build(int64_t record, int64_t) const override {
    try {
      return reader_.Read(record);
    } catch (const Error& e) {
      RecordOutcome outcome;
      outcome.note = Where(record) + ": " + e.what();
      outcome.broken = true;
      return outcome;
    }
  }

 private:
  PreparedReader reader_;
  std::vector<Dataset::Share> shares_;
  uint64_t fingerprint_ = 0;
};

std::string PartName(const std::string& folder, int64_t part) {
  return StrCat(folder, "/", part, ".h5");
}

// The parts that are not there yet, each written by one thread at a time.
class Parts {
 public:
  Parts(const SampleSource& source, const SampleBuilder& builder, const std::string& folder,
        const std::string& header, const PrepareOptions& options)
      : source_(source),
        media_(builder.options().media),
        folder_(folder),
        header_(header),
        options_(options) {}

  int64_t count() const { return (source_.size() + kPartRecords - 1) / kPartRecords; }
  int64_t resumed() const { return resumed_; }

  void Write() {
    for (int64_t part = 0; part < count(); ++part) {
      if (fs::exists(PartName(folder_, part))) resumed_ += End(part) - part * kPartRecords;
    }
    done_ = resumed_;
    std::vector<std::thread> threads;
    for (int t = 0; t < options_.threads; ++t) threads.emplace_back([this] { Work(); });
    for (std::thread& thread : threads) thread.join();
    if (error_) std::rethrow_exception(error_);
  }

 private:
  int64_t End(int64_t part) const { return std::min(source_.size(), (part + 1) * kPartRecords); }
  void Work() {
    try {
      for (int64_t part = next_++; part < count() && !stop_; part = next_++) {
        if (!fs::exists(PartName(folder_, part))) One(part);
      }
    } catch (...) {
      const std::lock_guard<std::mutex> lock(mutex_);
      if (!error_) error_ = std::current_exception();
      stop_ = true;
    }
  }
  void One(int64_t part) {
    PreparedWriter writer(PartName(folder_, part), header_, media_, false);
    for (int64_t i = part * kPartRecords; i < End(part) && !stop_; ++i) {
      writer.Append(source_.Build(i, 0), source_.Where(i));
      const std::lock_guard<std::mutex> lock(mutex_);
      ++done_;
      if (options_.progress) options_.progress(done_, source_.size());
    }
    if (!stop_) writer.Finish();
  }

  const SampleSource& source_;
  const MediaConfig media_;
  const std::string folder_, header_;
  const PrepareOptions& options_;
  std::atomic<int64_t> next_{0};
  std::atomic<bool> stop_{false};
  std::mutex mutex_;
  int64_t done_ = 0, resumed_ = 0;
  std::exception_ptr error_;
};

}  // namespace

Json BuilderFingerprint(const SampleBuilder& builder) {
  const SampleOptions& o = builder.options();
  Json settings = Json::object();
  settings["chat"] = {o.chat.enable_thinking, o.chat.preserve_thinking,
                      static_cast<int>(o.chat.empty_thought), static_cast<int>(o.chat.thoughts)};
  settings["image"] = ImageSettings(o.media.image);
  if (o.media.image.resize == ImageResize::kLlamaCpp) settings["image_resize"] = "llama.cpp";
  settings["video"] = ImageSettings(o.media.video.frame);
  settings["video_frames"] = {
      o.media.video.num_frames,          o.num_frames, o.video.fps, o.video.max_frames,
      static_cast<int>(o.video.on_long), o.video.sound};
  settings["audio"] = {o.media.audio.sampling_rate, o.media.audio.audio_samples_per_token,
                       o.media.audio.audio_seq_length, static_cast<int>(o.audio_limit)};
  settings["budgets"] = {o.image_budget, o.video_budget};
  settings["length"] = {o.max_length, static_cast<int>(o.on_too_long)};
  settings["trained"] = {static_cast<int>(o.train_on), static_cast<int>(o.preference), o.add_eos,
                         o.require_targets};
  return {{"tokenizer", TokenizerFingerprint(builder.tokenizer())},
          {"template", std::string(kCanonicalTemplateSha256)},
          {"settings", settings}};
}

PrepareSummary PrepareDataset(const std::shared_ptr<const Dataset>& dataset,
                              const SampleBuilder& builder, const std::string& path,
                              const PrepareOptions& options) {
  LAPIDARY_CHECK(options.threads >= 1 && options.threads <= 256,
                 "threads: must be from 1 to 256; got ", options.threads);
  const AugmentOptions& augment = builder.options().augment;
  LAPIDARY_CHECK(!augment.images() && !augment.sounds(), path,
                 ": prepared data must not be augmented, which changes with the epoch; got augment "
                 "options; try training from the raw files");
  LAPIDARY_CHECK(!fs::exists(path), path, ": must be a new file; got one that exists");
  Json header = {{"format", "lapidary-data"}, {"builder", BuilderFingerprint(builder)}};
  header["source"] = Hex(dataset->Fingerprint());
  header["record_format"] = dataset->format();
  header["shares"] = Json::array();
  for (const Dataset::Share& share : dataset->Shares()) {
    header["shares"].push_back({share.records, share.repeat});
  }
  const std::string text = DumpJson(header), folder = path + ".parts",
                    mark = folder + "/header.json";
  fs::create_directories(folder);
  if (fs::exists(mark)) {
    LAPIDARY_CHECK(ReadFile(mark) == text, folder,
                   ": parts must be of the same data and settings; got others; try removing it");
  } else {
    WriteFile(mark, text);
  }
  const auto source = MakeRecordSource(dataset, builder);
  Parts parts(*source, builder, folder, text, options);
  parts.Write();

  PrepareSummary summary;
  summary.resumed = parts.resumed();
  PreparedWriter writer(path, text, builder.options().media, options.compress);
  for (int64_t part = 0; part < parts.count(); ++part) {
    const PreparedReader reader(PartName(folder, part), builder.options().media);
    for (int64_t r = 0; r < reader.records(); ++r) {
      const RecordOutcome outcome = reader.Read(r);
      writer.Append(outcome, reader.Where(r));
      ++summary.records;
      summary.documents += static_cast<int64_t>(outcome.samples.size());
      for (const Sample& sample : outcome.samples) summary.tokens += sample.size();
      summary.broken += outcome.broken;
      summary.dropped += !outcome.broken && outcome.samples.empty();
    }
  }
  LAPIDARY_CHECK(summary.records == dataset->size(), folder, ": parts must hold ", dataset->size(),
                 " records; got ", summary.records, "; try removing it");
  writer.Finish();
  fs::remove_all(folder);
  summary.bytes = fs::file_size(path);
  return summary;
}

bool IsPrepared(const std::string& path) {
  if (!fs::is_regular_file(path)) return false;
  const auto file = MappedFile::Open(path);
  const std::string_view head(reinterpret_cast<const char*>(file->data()),
                              std::min<uint64_t>(file->size(), 8));
  return head == "\x89HDF\r\n\x1a\n";
}

std::shared_ptr<const SampleSource> OpenPrepared(const std::string& path,
                                                 const SampleBuilder& builder) {
  return std::make_shared<PreparedSource>(path, builder);
}

}  // namespace lapidary
