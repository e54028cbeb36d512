// Loader: the order, batching, packing, resuming anywhere, skipping, and independence of threads.
#include "data/loader.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <set>

#include "autograd/base/error.h"
#include "tests/data/tiny_tokenizer.h"

namespace lapidary {
namespace {

using Json = nlohmann::ordered_json;

// A data set of raw texts whose lengths differ, with a broken line where `broken` says.
class LoaderTest : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::temp_directory_path() /
              StrCat("lapidary-loader-", getpid(), "-",
                     ::testing::UnitTest::GetInstance()->current_test_info()->name());
    std::filesystem::create_directories(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  std::shared_ptr<const Dataset> Write(int records, const std::set<int>& broken = {}) {
    const std::string path = folder_ / "data.jsonl";
    std::ofstream file(path);
    for (int i = 0; i < records; ++i) {
      if (broken.contains(i)) {
        file << "{\"text\": 5}\n";
      } else {
        file << "{\"text\": \"" << std::string(1 + (i * 7) % 23, static_cast<char>('a' + i % 20))
             << "\"}\n";
      }
    }
    file.close();
    return Dataset::Open({path}, {.format = "text"});
  }

  // Records of every batch, batch by batch.
  static std::vector<std::vector<int64_t>> Records(Loader& loader, int limit = 1000000) {
    std::vector<std::vector<int64_t>> all;
    while (limit-- > 0) {
      const std::optional<Batch> batch = loader.Next();
      if (!batch) break;
      all.emplace_back();
      for (const BatchDocument& document : batch->documents) all.back().push_back(document.record);
    }
    return all;
  }

  std::filesystem::path folder_;
  std::unique_ptr<Tokenizer> tokenizer_ = MakeTinyTokenizer();
  SampleBuilder builder_{*tokenizer_, {}};
};

TEST_F(LoaderTest, OrderIsAPermutationOfSeedAndEpoch) {
  const auto a = Loader::Order(100, 7, 0, true);
  EXPECT_EQ(a, Loader::Order(100, 7, 0, true));
  EXPECT_NE(a, Loader::Order(100, 7, 1, true));
  EXPECT_NE(a, Loader::Order(100, 8, 0, true));
  EXPECT_EQ(std::set<int64_t>(a.begin(), a.end()).size(), 100u);
  EXPECT_EQ(Loader::Order(4, 7, 0, false), (std::vector<int64_t>{0, 1, 2, 3}));
}

TEST_F(LoaderTest, EveryEpochHasEveryRecordOnce) {
  const auto data = Write(23);
  Loader loader(data, builder_, {.seed = 3, .epochs = 2, .batch_size = 4});
  EXPECT_EQ(loader.BatchesInEpoch(0), 6);
  const auto batches = Records(loader);
  ASSERT_EQ(batches.size(), 12u);
  EXPECT_EQ(batches[5].size(), 3u) << "epochs do not mix";
  for (int epoch = 0; epoch < 2; ++epoch) {
    std::vector<int64_t> seen;
    for (int b = 0; b < 6; ++b) {
      seen.insert(seen.end(), batches[epoch * 6 + b].begin(), batches[epoch * 6 + b].end());
    }
    EXPECT_EQ(seen, Loader::Order(23, 3, epoch, true));
  }
}

TEST_F(LoaderTest, BatchLaysDocumentsEndToEnd) {
  const auto data = Write(3);
  Loader loader(data, builder_, {.shuffle = false, .batch_size = 3});
  const Batch batch = *loader.Next();
  ASSERT_EQ(batch.starts.size(), 3u);
  EXPECT_EQ(batch.starts[0], 0);
  for (size_t d = 0; d < 3; ++d) {
    const Sample sample = *builder_.Build(data->Read(static_cast<int64_t>(d))).sample;
    const int64_t begin = batch.starts[d];
    EXPECT_EQ(batch.documents[d].where, data->Where(static_cast<int64_t>(d)));
    for (int64_t i = 0; i < sample.size(); ++i) {
      EXPECT_EQ(batch.ids[begin + i], sample.ids[i]);
      const bool last = i + 1 == sample.size();
      EXPECT_EQ(batch.targets[begin + i], last ? -1 : sample.ids[i + 1]);
      EXPECT_EQ(batch.weights[begin + i], last ? 0.0f : 1.0f);
    }
  }
  EXPECT_EQ(batch.Targets(), batch.size() - 3);
  EXPECT_EQ(batch.TargetWeight(), static_cast<double>(batch.size() - 3));
}

TEST_F(LoaderTest, MaxTokensBoundsBatches) {
  const auto data = Write(60);
  Loader loader(data, builder_, {.epochs = 1, .batch_size = 8, .max_tokens = 40});
  int64_t batches = 0, documents = 0;
  while (const auto batch = loader.Next()) {
    EXPECT_TRUE(batch->size() <= 40 || batch->starts.size() == 1);
    EXPECT_LE(batch->starts.size(), 8u);
    ++batches;
    documents += static_cast<int64_t>(batch->starts.size());
  }
  EXPECT_EQ(documents, 60);
  EXPECT_EQ(loader.BatchesInEpoch(0), batches);
}

TEST_F(LoaderTest, PackingFillsBatches) {
  const auto data = Write(200);
  const LoaderOptions packed = {.epochs = 1, .max_tokens = 64, .packing = true};
  Loader loader(data, builder_, packed);
  int64_t tokens = 0, batches = 0;
  std::set<int64_t> seen;
  while (const auto batch = loader.Next()) {
    EXPECT_LE(batch->size(), 64);
    tokens += batch->size();
    ++batches;
    for (const BatchDocument& document : batch->documents) seen.insert(document.record);
  }
  EXPECT_EQ(seen.size(), 200u);
  EXPECT_EQ(loader.BatchesInEpoch(0), batches);
  EXPECT_GT(static_cast<double>(tokens) / static_cast<double>(64 * batches), 0.9);
}

// A small case by hand: the oldest, then always the longest that still fits, out of the window.
TEST_F(LoaderTest, PackingIsFirstFitOverAWindow) {
  const std::string path = folder_ / "sizes.jsonl";
  std::ofstream file(path);
  for (const int size : {8, 3, 9, 6, 2, 10, 1, 4}) {  // with <bos> and <eos>: two more
    file << "{\"text\": \"" << std::string(size, 'a') << "\"}\n";
  }
  file.close();
  const auto data = Dataset::Open({path}, {.format = "text"});
  LoaderOptions options = {
      .shuffle = false, .epochs = 1, .max_tokens = 15, .packing = true, .pack_window = 4};
  Loader loader(data, builder_, options);
  // Room 15: 10 + 5; window {11, 8, 4, 12}: 11 + 4; {8, 12, 3, 6}: 8 + 6; {12, 3}: 12 + 3.
  EXPECT_EQ(Records(loader), (std::vector<std::vector<int64_t>>{{0, 1}, {2, 4}, {3, 7}, {5, 6}}));
  EXPECT_DOUBLE_EQ(loader.utilization(), 59.0 / 60);
  EXPECT_GE(loader.wait_seconds(), 0);
}

TEST_F(LoaderTest, GroupsBatchesByLength) {
  const auto data = Write(120);
  const auto spread = [&](bool group) {
    LoaderOptions options = {.seed = 3, .epochs = 1, .batch_size = 4, .group_by_length = group};
    options.pack_window = 40;
    Loader loader(data, builder_, options);
    int64_t sum = 0;
    std::set<int64_t> seen;
    while (const auto batch = loader.Next()) {
      int64_t shortest = 1 << 30, longest = 0;
      for (size_t d = 0; d < batch->starts.size(); ++d) {
        const int64_t end = d + 1 < batch->starts.size() ? batch->starts[d + 1] : batch->size();
        shortest = std::min(shortest, end - batch->starts[d]);
        longest = std::max(longest, end - batch->starts[d]);
        seen.insert(batch->documents[d].record);
      }
      sum += longest - shortest;
    }
    EXPECT_EQ(seen.size(), 120u);
    EXPECT_EQ(loader.BatchesInEpoch(0), 30);
    return sum;
  };
  EXPECT_LT(5 * spread(true), spread(false));
}

TEST_F(LoaderTest, ResumesAnywhereWithAnyThreads) {
  const auto data = Write(31, {4, 9});
  for (const bool packing : {false, true}) {
    LoaderOptions options = {.seed = 11,
                             .epochs = 3,
                             .batch_size = 3,
                             .max_tokens = 60,
                             .packing = packing,
                             .pack_window = 5,
                             .on_error = OnError::kSkip};
    Loader whole(data, builder_, options);
    std::vector<Json> cursors = {whole.Cursor()};
    std::vector<std::vector<int32_t>> ids;
    while (const auto batch = whole.Next()) {
      ids.push_back(batch->ids);
      cursors.push_back(Json::parse(whole.Cursor().dump()));
    }
    EXPECT_EQ(whole.skipped(), 6);
    for (size_t start = 0; start < cursors.size(); ++start) {
      options.threads = 1 + static_cast<int>(start % 3);
      options.prefetch = 1 + static_cast<int64_t>(start % 5);
      Loader resumed(data, builder_, options, &cursors[start]);
      size_t at = start;
      while (const auto batch = resumed.Next()) {
        ASSERT_LT(at, ids.size());
        ASSERT_EQ(batch->ids, ids[at++]) << "from batch " << start;
      }
      EXPECT_EQ(at, ids.size());
      EXPECT_EQ(resumed.skipped(), 6);
    }
  }
}

TEST_F(LoaderTest, BrokenRecordsStopOrAreReported) {
  const auto data = Write(6, {2, 3});
  Loader stops(data, builder_, {.shuffle = false, .epochs = 1, .batch_size = 2});
  EXPECT_TRUE(stops.Next());
  try {
    stops.Next();
    FAIL() << "must throw";
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("data.jsonl:3: text must be a string"), std::string::npos)
        << e.what();
  }
  std::vector<std::string> reports;
  LoaderOptions options = {.shuffle = false, .epochs = 1, .batch_size = 2};
  options.on_error = OnError::kSkip;
  options.report = [&](const Problem& problem) { reports.push_back(problem.where); };
  Loader skips(data, builder_, options);
  EXPECT_EQ(Records(skips), (std::vector<std::vector<int64_t>>{{0, 1}, {4, 5}}));
  EXPECT_EQ(reports, (std::vector<std::string>{data->Where(2), data->Where(3)}));
  EXPECT_EQ(skips.skipped(), 2);
}

TEST_F(LoaderTest, NothingUsableIsAnError) {
  const auto data = Write(2, {0, 1});
  Loader loader(data, builder_, {.on_error = OnError::kSkip});
  EXPECT_THROW(loader.Next(), Error);
}

TEST_F(LoaderTest, CursorOfOtherDataIsRefused) {
  Json cursor;
  {
    const auto data = Write(10);
    Loader loader(data, builder_, {.seed = 1});
    loader.Next();
    cursor = loader.Cursor();
    EXPECT_THROW(Loader(data, builder_, {.seed = 2}, &cursor), Error);
    Json broken = cursor;
    broken["ticket"] = 1000;
    EXPECT_THROW(Loader(data, builder_, {.seed = 1}, &broken), Error);
    broken = Json::array();
    EXPECT_THROW(Loader(data, builder_, {.seed = 1}, &broken), Error);
  }
  const auto other = Write(11);
  EXPECT_THROW(Loader(other, builder_, {.seed = 1}, &cursor), Error);
}

TEST_F(LoaderTest, OptionsAreChecked) {
  const auto data = Write(2);
  EXPECT_THROW(Loader(data, builder_, {.batch_size = 0}), Error);
  EXPECT_THROW(Loader(data, builder_, {.packing = true}), Error);
  EXPECT_THROW(Loader(data, builder_, {.threads = 0}), Error);
}

TEST_F(LoaderTest, DestroyedWhileBuilding) {
  const auto data = Write(500);
  for (int i = 0; i < 20; ++i) {
    Loader loader(data, builder_, {.prefetch = 100, .threads = 3});
    if (i % 2 == 1) loader.Next();
  }
}

}  // namespace
}  // namespace lapidary
