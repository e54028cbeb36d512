// A test that makes samples of records with media in a folder of its own.
#ifndef LAPIDARY_TESTS_DATA_SAMPLE_MEDIA_BASE_H_
#define LAPIDARY_TESTS_DATA_SAMPLE_MEDIA_BASE_H_

#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "data/dataset.h"
#include "data/inspect.h"
#include "data/sample.h"
#include "tests/data/folder_test_base.h"
#include "tests/data/tiny_tokenizer.h"

namespace lapidary {

class SampleMediaTest : public FolderTest {
 protected:
  void SetUp() override {
    FolderTest::SetUp();
    options_.chat.empty_thought = EmptyThought::kOmit;
  }
  Record Only(const std::string& line) {
    data_ = Dataset::Open({Put("d.jsonl", line)});
    return data_->Read(0);
  }
  BuiltSample Build(const std::string& line, const BuildKey& key = {}) {
    const SampleBuilder builder(*tokenizer_, options_);
    const Record record = Only(line);
    BuiltSample built = builder.Build(record, key);
    std::vector<int64_t> sizes;
    if (built.sample) sizes.push_back(built.sample->size());
    for (const Sample& part : built.more) sizes.push_back(part.size());
    EXPECT_EQ(builder.MeasureAll(record), sizes);
    return built;
  }
  std::string Shown(const Sample& sample) {
    return ShowSample(sample, *tokenizer_, SampleStyle::kPlain);
  }
  // Speech-like: noise with silence of half a second around each of `pauses` (seconds).
  static std::vector<float> Talk(double seconds, const std::vector<double>& pauses) {
    std::vector<float> out(static_cast<size_t>(seconds * 16000));
    uint32_t noise = 1;
    for (size_t i = 0; i < out.size(); ++i) {
      noise = noise * 1664525u + 1013904223u;
      out[i] = static_cast<float>(noise >> 8) / (1 << 24) - 0.5f;
      for (const double p : pauses) {
        if (std::abs(static_cast<double>(i) / 16000 - p) < 0.25) out[i] = 0;
      }
    }
    return out;
  }

  SampleOptions options_;
  std::shared_ptr<const Dataset> data_;
  std::unique_ptr<Tokenizer> tokenizer_ = MakeTinyTokenizer();
};

}  // namespace lapidary

#endif  // LAPIDARY_TESTS_DATA_SAMPLE_MEDIA_BASE_H_
