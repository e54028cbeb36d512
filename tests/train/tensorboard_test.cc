// Event files, byte by byte, and those of a run that stops and goes on.
#include "train/tensorboard.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "autograd/base/error.h"
#include "autograd/base/file.h"
#include "tests/train/tiny_run.h"

namespace lapidary {
namespace {

namespace fs = std::filesystem;

std::string FromHex(const std::string& hex) {
  std::string out;
  for (size_t i = 0; i + 1 < hex.size(); i += 2) {
    out += static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16));
  }
  return out;
}

TEST(Tensorboard, Crc) {
  EXPECT_EQ(Crc32c("123456789"), 0xe3069283u);  // the check value of CRC-32C
  EXPECT_EQ(Crc32c(""), 0u);
  EXPECT_EQ(Crc32c(std::string(32, '\0')), 0x8a9136aau);  // RFC 3720, B.4
  EXPECT_EQ(Crc32c(std::string(32, '\xff')), 0x62a8ab43u);
}

// Written by hand after event.proto and summary.proto.
TEST(Tensorboard, Messages) {
  EXPECT_EQ(VersionEvent(1.5), FromHex("09000000000000f83f"
                                       "1a0d627261696e2e4576656e743a32"));
  EXPECT_EQ(ScalarsEvent(1.5, 300, {{"train/loss", 2.5}}),
            FromHex("09000000000000f83f"
                    "10ac02"  // step 300
                    "2a13"    // summary
                    "0a11"    // value
                    "0a0a747261696e2f6c6f7373"
                    "1500002040"));
  EXPECT_EQ(SessionStartEvent(1.5, 7), FromHex("09000000000000f83f1007"
                                               "3a020801"));
}

TEST(Tensorboard, Frames) {
  const std::string record = TfRecord("abc");
  ASSERT_EQ(record.size(), 8u + 4 + 3 + 4);
  EXPECT_EQ(record.substr(0, 8), FromHex("0300000000000000"));
  EXPECT_EQ(record.substr(12, 3), "abc");
  const auto mask = [](uint32_t c) { return (c >> 15 | c << 17) + 0xa282ead8u; };
  uint32_t length_crc, data_crc;
  std::memcpy(&length_crc, record.data() + 8, 4);
  std::memcpy(&data_crc, record.data() + 15, 4);
  EXPECT_EQ(length_crc, mask(Crc32c(record.substr(0, 8))));
  EXPECT_EQ(data_crc, mask(Crc32c("abc")));
}

TEST(Tensorboard, Tags) {
  const Scalars scalars = ScalarsOf({{"step", 3}, {"loss", 1.5}, {"eval_loss", 2}, {"kind", "x"}});
  const Scalars want = {{"train/loss", 1.5}, {"eval/loss", 2}};
  EXPECT_EQ(scalars, want);
}

// (step, has a summary, starts a session) of every record, with every checksum verified.
struct Record {
  int64_t step = 0;
  bool summary = false, session = false;
};
std::vector<Record> ReadEvents(const std::string& path) {
  const std::string bytes = ReadFile(path);
  std::vector<Record> records;
  for (size_t at = 0; at < bytes.size();) {
    uint64_t length;
    std::memcpy(&length, bytes.data() + at, 8);
    const std::string data = bytes.substr(at + 12, length);
    EXPECT_EQ(TfRecord(data), bytes.substr(at, 16 + length));
    at += 16 + length;
    Record record;
    size_t p = 9;  // behind the time
    if (p < data.size() && data[p] == 0x10) {
      int shift = 0;
      for (++p; data[p] & 0x80; ++p, shift += 7) {
        record.step |= int64_t{data[p] & 0x7f} << shift;
      }
      record.step |= int64_t{data[p]} << shift;
      ++p;
    }
    record.summary = p < data.size() && data[p] == 0x2a;
    record.session = p < data.size() && data[p] == 0x3a;
    records.push_back(record);
  }
  return records;
}

// Made in a process of its own, before this one has threads.
const tiny::RunPlace& Place() {
  static const tiny::RunPlace place;
  return place;
}

TEST(Tensorboard, ARunThatGoesOnWritesEveryStepOnce) {
  const tiny::RunPlace& place = Place();
  const auto config = [&](bool resume) {
    return place.Config("run", {"report_to=[\"tensorboard\"]", "save_steps=1",
                                StrCat("resume_from_checkpoint=", resume ? "true" : "false")});
  };
  volatile std::sig_atomic_t stop = 0;
  TrainHooks hooks;
  hooks.stop = &stop;
  hooks.on_step = [&](int64_t step, double) { stop = step == 3; };
  EXPECT_TRUE(Train(config(false), hooks).interrupted);
  hooks = {};
  const TrainSummary whole = Train(config(true), hooks);
  EXPECT_FALSE(whole.interrupted);
  std::vector<std::string> files;
  for (const auto& entry : fs::recursive_directory_iterator(place.path() + "/run/runs")) {
    if (!entry.is_directory()) files.push_back(entry.path().string());
  }
  ASSERT_EQ(files.size(), 2u);
  EXPECT_EQ(fs::path(files[0]).parent_path(), fs::path(files[1]).parent_path());
  std::multiset<int64_t> steps;
  int sessions = 0;
  for (const std::string& file : files) {
    EXPECT_EQ(fs::path(file).filename().string().rfind("events.out.tfevents.", 0), 0u) << file;
    for (const Record& record : ReadEvents(file)) {
      if (record.summary) steps.insert(record.step);
      if (record.session) {
        ++sessions;
        EXPECT_EQ(record.step, 4);
      }
    }
  }
  EXPECT_EQ(sessions, 1);
  for (int64_t step = 1; step <= whole.steps; ++step) {
    EXPECT_EQ(steps.count(step), 1u) << step;
  }
  Train(place.Config("no", {"report_to=none", "max_steps=1"}), {});
  EXPECT_FALSE(fs::exists(place.path() + "/no/runs"));
}

TEST(Tensorboard, WrongWordsAreRefused) {
  const tiny::RunPlace& place = Place();
  EXPECT_THROW(place.Config("x", {"report_to=wandb"}), Error);
  EXPECT_THROW(place.Config("x", {"report_to=[\"tensorboard\", 3]"}), Error);
}

}  // namespace
}  // namespace lapidary
