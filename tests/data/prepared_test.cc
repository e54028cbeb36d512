// Prepared data sets: the same batches bit for bit as from the raw files, resuming, fingerprints,
// damage, bad files; surveys and their pages.
#include "data/prepared.h"

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>

#include "data/image.h"
#include "data/loader.h"
#include "data/survey.h"
#include "tests/data/folder_test_base.h"
#include "tests/data/tiny_tokenizer.h"
#include "tests/fuzz/mutate.h"

// HDF5 loses some small objects of its own when a file is broken (never with whole ones: the other
// tests here run without this); LeakSanitizer is told so by its own hook.
extern "C" const char* __lsan_default_suppressions() { return "leak:libhdf5\n"; }

namespace lapidary {
namespace {

using Json = nlohmann::ordered_json;

class PreparedTest : public FolderTest {
 protected:
  void SetUp() override {
    FolderTest::SetUp();
    std::vector<uint8_t> pixels;
    for (int i = 0; i < 60 * 90 * 3; ++i) pixels.push_back(static_cast<uint8_t>(i * 37 % 256));
    Put("a.png", EncodePng({60, 90, pixels}));
    std::vector<float> wave(5000);
    for (size_t i = 0; i < wave.size(); ++i) wave[i] = static_cast<float>(std::sin(0.1 * i));
    Put("s.wav", EncodeWav(wave, 22050));
    options_.image_budget = 70;
    options_.media.image.patch_size = 4;  // small rows: there are many
    options_.media.video.frame.patch_size = 4;
  }
  // Texts, pictures, sounds, and a broken record at 3.
  std::shared_ptr<const Dataset> Data(int records, bool broken = true) {
    std::string lines;
    for (int i = 0; i < records; ++i) {
      Json row = {{"text", std::string(1 + i * 13 % 40, static_cast<char>('a' + i % 26))}};
      if (i % 3 == 1) row = {{"text", "<|image|>" + std::to_string(i)}, {"image", "a.png"}};
      if (i % 5 == 2) row = {{"text", "<|audio|>" + std::to_string(i)}, {"audio", "s.wav"}};
      if (broken && i == 3) row = {{"text", 3}};
      lines += row.dump() + "\n";
    }
    return Dataset::Open({Put("d.jsonl", lines)}, {.format = "text"});
  }
  static void ExpectSame(const Batch& a, const Batch& b) {
    EXPECT_EQ(a.ids, b.ids);
    EXPECT_EQ(a.types, b.types);
    EXPECT_EQ(a.targets, b.targets);
    EXPECT_EQ(a.weights, b.weights);
    EXPECT_EQ(a.starts, b.starts);
    EXPECT_EQ(a.epoch, b.epoch);
    for (const auto& [x, y] : {std::pair(&a.vision, &b.vision), {&a.audio, &b.audio}}) {
      EXPECT_EQ(x->features, y->features);
      EXPECT_EQ(x->rows, y->rows);
      EXPECT_EQ(x->positions, y->positions);
      EXPECT_EQ(x->places, y->places);
    }
    ASSERT_EQ(a.documents.size(), b.documents.size());
    for (size_t d = 0; d < a.documents.size(); ++d) {
      EXPECT_EQ(a.documents[d].where, b.documents[d].where);
      EXPECT_EQ(a.documents[d].images, b.documents[d].images);
    }
  }

  std::unique_ptr<Tokenizer> tokenizer_ = MakeTinyTokenizer();
  SampleOptions options_;
};

TEST_F(PreparedTest, SameBatchesAsFromTheRawFiles) {
  const auto data = Data(75);
  const SampleBuilder builder(*tokenizer_, options_);
  for (const bool compress : {false, true}) {
    const std::string path = folder_ + (compress ? "/z.h5" : "/p.h5");
    const PrepareSummary summary =
        PrepareDataset(data, builder, path, {.threads = 3, .compress = compress});
    EXPECT_EQ(summary.records, 75);
    EXPECT_EQ(summary.broken, 1);
    EXPECT_FALSE(std::filesystem::exists(path + ".parts"));
    EXPECT_TRUE(IsPrepared(path));
    for (const bool packing : {false, true}) {
      LoaderOptions options = {.seed = 5,
                               .epochs = 2,
                               .batch_size = 4,
                               .max_tokens = packing ? 200 : 0,
                               .packing = packing,
                               .threads = 2,
                               .on_error = OnError::kSkip};
      Loader raw(data, builder, options);
      Loader prepared(OpenPrepared(path, builder), options);
      EXPECT_EQ(raw.BatchesInEpoch(0), prepared.BatchesInEpoch(0));
      for (;;) {
        const auto a = raw.Next(), b = prepared.Next();
        ASSERT_EQ(a.has_value(), b.has_value());
        if (!a) break;
        ExpectSame(*a, *b);
      }
      EXPECT_EQ(raw.skipped(), prepared.skipped());
    }
  }
  EXPECT_NE(ErrorOf([&] {
              PrepareDataset(data, builder, folder_ + "/p.h5", {});
            }).find("must be a new file"),
            std::string::npos);
}

TEST_F(PreparedTest, GoesOnWhereItBrokeOff) {
  const auto data = Data(200, false);
  const SampleBuilder builder(*tokenizer_, options_);
  const std::string path = folder_ + "/p.h5";
  struct Stop {};
  EXPECT_THROW(PrepareDataset(data, builder, path,
                              {.progress =
                                   [](int64_t done, int64_t) {
                                     if (done == 140) throw Stop();
                                   }}),
               Stop);
  EXPECT_FALSE(std::filesystem::exists(path));
  // Parts of other data are refused.
  EXPECT_NE(ErrorOf([&] {
              PrepareDataset(Data(199, false), builder, path, {});
            }).find("parts must be of the same data"),
            std::string::npos);
  const PrepareSummary summary = PrepareDataset(Data(200, false), builder, path, {});
  EXPECT_EQ(summary.resumed, 128);
  EXPECT_EQ(summary.records, 200);
  const PrepareSummary whole = PrepareDataset(data, builder, folder_ + "/q.h5", {});
  EXPECT_EQ(whole.resumed, 0);
  EXPECT_EQ(whole.tokens, summary.tokens);
}

TEST_F(PreparedTest, AnotherFingerprintIsAnError) {
  const auto data = Data(10, false);
  const SampleBuilder builder(*tokenizer_, options_);
  const std::string path = folder_ + "/p.h5";
  PrepareDataset(data, builder, path, {});
  SampleOptions other = options_;
  other.image_budget = 140;
  const SampleBuilder changed(*tokenizer_, other);
  EXPECT_NE(
      ErrorOf([&] { OpenPrepared(path, changed); }).find("must be prepared with the settings"),
      std::string::npos);
  TokenizerSpec spec = TinyTokenizerSpec();
  spec.tokens.back() = "\n\n\n";
  spec.merges.pop_back();
  const Tokenizer tokens(std::move(spec));
  const SampleBuilder retokenized(tokens, options_);
  EXPECT_NE(
      ErrorOf([&] { OpenPrepared(path, retokenized); }).find("must be prepared with the tokenizer"),
      std::string::npos);
  SampleOptions augmented = options_;
  augmented.augment.flip = 0.5;
  const SampleBuilder flips(*tokenizer_, augmented);
  EXPECT_NE(ErrorOf([&] {
              PrepareDataset(data, flips, folder_ + "/f.h5", {});
            }).find("must not be augmented"),
            std::string::npos);
}

TEST_F(PreparedTest, DamageShows) {
  const auto data = Data(20, false);
  const SampleBuilder builder(*tokenizer_, options_);
  const std::string path = folder_ + "/p.h5";
  PrepareDataset(data, builder, path, {});
  std::string bytes = ReadFile(path);
  // A pixel of the first picture: rows of bytes stand as they are in an uncompressed file.
  const auto source = OpenPrepared(path, builder);
  const Sample picture = source->Build(1, 0).samples[0];
  std::string row;
  for (int i = 0; i < 64; ++i) {
    row += static_cast<char>(static_cast<int>(picture.vision.rows[i] * 255.0f + 0.5f));
  }
  const size_t at = bytes.find(row);
  ASSERT_NE(at, std::string::npos);
  bytes[at + 5] ^= 1;
  WriteFile(folder_ + "/bad.h5", bytes);
  const auto damaged = OpenPrepared(folder_ + "/bad.h5", builder);
  EXPECT_FALSE(damaged->Build(0, 0).broken);
  const RecordOutcome outcome = damaged->Build(1, 0);
  EXPECT_TRUE(outcome.broken);
  EXPECT_NE(outcome.note.find("must match its checksum"), std::string::npos) << outcome.note;
  WriteFile(folder_ + "/half.h5", bytes.substr(0, bytes.size() / 2));
  EXPECT_NE(ErrorOf([&] { OpenPrepared(folder_ + "/half.h5", builder); }).find("half.h5: must be"),
            std::string::npos);
}

// Mutated files end in Error or in records, never in a crash.
TEST_F(PreparedTest, FuzzFiles) {
  const auto data = Data(8, false);
  const SampleBuilder builder(*tokenizer_, options_);
  std::string seeds[2];
  for (const bool compress : {false, true}) {
    const std::string path = folder_ + (compress ? "/z.h5" : "/p.h5");
    PrepareDataset(data, builder, path, {.compress = compress});
    seeds[compress] = ReadFile(path);
  }
  const int64_t rounds = std::max<int64_t>(20, fuzz::Iterations() / 100);
  int64_t opened = 0;
  for (int64_t i = 0; i < rounds; ++i) {
    fuzz::Mutator mutate(90, static_cast<uint64_t>(i));
    const std::string bad = folder_ + "/bad.h5";
    {
      std::ofstream file(bad, std::ios::binary);
      const std::string bytes = mutate(seeds[i % 2], 4096);
      file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
    }
    try {
      const auto source = OpenPrepared(bad, builder);
      for (int64_t r = 0; r < source->size(); ++r) source->Build(r, 0);
      ++opened;
    } catch (const Error& e) {
      ASSERT_TRUE(std::string(e.what()).starts_with(bad)) << e.what();
    }
  }
  EXPECT_GT(opened, 0);
}

TEST_F(PreparedTest, SurveyFindsWhatIsWrong) {
  const auto message = [](const char* role, const char* text) {
    return Json{{"role", role}, {"content", text}};
  };
  const auto chat = [&](const std::vector<Json>& messages) {
    return Json{{"messages", messages}}.dump() + "\n";
  };
  const std::string good = chat({message("user", "q"), message("assistant", "a")});
  const std::string lines =
      good + good +
      chat({message("user", "q"), message("wizard", "b"), message("assistant", "c")}) +
      chat({message("user", "x"), message("user", "q"), message("assistant", "c")}) +
      chat({message("user", "see <image>"), message("assistant", " ")}) +
      chat({message("user", "caf\xc3\x83\xc2\xa9"), message("assistant", "\xd0\xb4\xd0\xb0")}) +
      R"({"messages":[{"role":"user","content":[{"type":"image","image":"none.png"}]}]})" + "\n";
  const auto data = Dataset::Open({Put("d.jsonl", lines)});
  const auto held = Dataset::Open({Put("h.jsonl", good)});
  const SampleBuilder builder(*tokenizer_, options_);
  const Survey survey = SurveyDataset(*data, held.get(), builder);
  std::multiset<std::string> found;
  for (const Finding& finding : survey.findings) {
    found.insert(StrCat(finding.where.substr(folder_.size() + 9), " ", finding.kind));
    EXPECT_TRUE(finding.message.starts_with(finding.where)) << finding.message;
  }
  EXPECT_EQ(found,
            (std::multiset<std::string>{"1 leak", "2 duplicate", "2 leak", "3 role", "4 order",
                                        "5 empty answer", "5 tag", "6 encoding", "7 unusable"}));
  EXPECT_EQ(survey.errors(), 3);
  EXPECT_EQ(survey.warnings(), 6);
  // Lists are cut by kind, counts are not.
  const Survey brief = SurveyDataset(*data, held.get(), builder, {.max_findings = 1});
  EXPECT_EQ(brief.findings.size(), survey.findings.size() - 1) << "one of two leaks";
  EXPECT_EQ(brief.errors(), 3);
  EXPECT_NE(FoundText(brief).find("leak: 2 errors, the first 1 listed\n"), std::string::npos)
      << FoundText(brief);
  EXPECT_EQ(survey.duplicates, 1);
  EXPECT_EQ(survey.scripts.at("Cyrillic"), 2);
  EXPECT_EQ(SurveyJson(survey)["findings"].size(), 9u);
  const Survey timed =
      SurveyDataset(*Data(8, false), nullptr, builder, {.batch_size = 3, .tokens_per_s = 10});
  EXPECT_EQ(timed.steps, 3);
  EXPECT_DOUBLE_EQ(timed.seconds, static_cast<double>(timed.report.tokens) / 10);
  EXPECT_EQ(timed.image_lengths.size(), 2u);
  EXPECT_EQ(timed.audio_lengths.size(), 2u);
  EXPECT_NE(SurveyHtml(timed).find("Tokens of the pictures of a record"), std::string::npos);
  EXPECT_EQ(SurveyJson(timed)["soft_tokens_of_a_record"]["audio"]["records"], 2);
  const std::string page = SurveyHtml(survey);
  EXPECT_TRUE(page.starts_with("<!doctype html>") && page.ends_with("</html>\n"));
  EXPECT_EQ(page.find("<script"), std::string::npos);
  EXPECT_NE(page.find("a &lt;image&gt; tag"), std::string::npos);

  const auto media = Data(8, false);
  std::vector<Sample> samples;
  for (int i = 0; i < 8; ++i) samples.push_back(*builder.Build(media->Read(i)).sample);
  const std::string shown = SamplesHtml(samples, *tokenizer_);
  EXPECT_NE(shown.find("data:image/png;base64,"), std::string::npos);
  EXPECT_NE(shown.find("<svg"), std::string::npos);
  EXPECT_NE(shown.find("<span class=\"t\">"), std::string::npos);
}

}  // namespace
}  // namespace lapidary
