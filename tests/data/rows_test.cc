// Containers: rows of every kind of file, compressed ones, shards, bombs, broken and hostile files;
// mixtures and splits of data sets.
#include "data/rows.h"

#include <archive.h>
#include <archive_entry.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "data/dataset.h"
#include "data/image.h"
#include "data/json.h"
#include "tests/data/folder_test_base.h"
#include "tests/fuzz/mutate.h"

namespace lapidary {
namespace {

using Json = nlohmann::ordered_json;

// `bytes` through a filter of libarchive ("gzip", "zstd", "xz", "bzip2").
std::string Compress(const std::string& bytes, const char* filter) {
  archive* a = archive_write_new();
  std::string out(bytes.size() + (1 << 20), '\0');
  size_t used = 0;
  archive_write_set_format_raw(a);
  archive_write_add_filter_by_name(a, filter);
  archive_write_set_bytes_in_last_block(a, 1);
  EXPECT_EQ(archive_write_open_memory(a, out.data(), out.size(), &used), ARCHIVE_OK);
  archive_entry* entry = archive_entry_new();
  archive_entry_set_filetype(entry, AE_IFREG);
  archive_write_header(a, entry);
  archive_write_data(a, bytes.data(), bytes.size());
  archive_entry_free(entry);
  archive_write_close(a);
  archive_write_free(a);
  out.resize(used);
  return out;
}

std::string Tar(const std::vector<std::pair<std::string, std::string>>& files) {
  archive* a = archive_write_new();
  size_t total = 1 << 16;
  for (const auto& [name, bytes] : files) total += bytes.size() + 4096;
  std::string out(total, '\0');
  size_t used = 0;
  archive_write_set_format_pax_restricted(a);
  archive_write_open_memory(a, out.data(), out.size(), &used);
  for (const auto& [name, bytes] : files) {
    archive_entry* entry = archive_entry_new();
    archive_entry_set_pathname(entry, name.c_str());
    archive_entry_set_size(entry, static_cast<la_int64_t>(bytes.size()));
    archive_entry_set_filetype(entry, AE_IFREG);
    archive_entry_set_perm(entry, 0644);
    archive_write_header(a, entry);
    archive_write_data(a, bytes.data(), bytes.size());
    archive_entry_free(entry);
  }
  archive_write_close(a);
  archive_write_free(a);
  out.resize(used);
  return out;
}

class RowsTest : public FolderTest {
 protected:
  static std::vector<std::string> Dump(const RowSource& rows) {
    std::vector<std::string> all;
    for (int64_t i = 0; i < rows.size(); ++i) all.push_back(DumpJson(rows.Read(i)));
    return all;
  }
  std::vector<std::string> Rows(const std::string& name, const std::string& bytes) {
    return Dump(*OpenRows(Put(name, bytes)));
  }
  const std::string lines_ = "{\"text\":\"a\"}\n\n{\"text\":\"b\"}";
  const std::vector<std::string> two_ = {R"({"text":"a"})", R"({"text":"b"})"};
};

TEST_F(RowsTest, JsonLinesAlsoCompressed) {
  EXPECT_EQ(Rows("d.jsonl", lines_), two_);
  EXPECT_EQ(Rows("e.jsonl", "\xef\xbb\xbf" + lines_), two_);
  for (const auto& [extension, filter] : std::map<std::string, const char*>{
           {"gz", "gzip"}, {"zst", "zstd"}, {"xz", "xz"}, {"bz2", "bzip2"}}) {
    const auto rows = OpenRows(Put("d.jsonl." + extension, Compress(lines_, filter)));
    EXPECT_EQ(Dump(*rows), two_) << extension;
    EXPECT_EQ(rows->Where(1), folder_ + "/d.jsonl." + extension + ":3");
  }
}

TEST_F(RowsTest, JsonArray) {
  const auto rows =
      OpenRows(Put("d.json", "\n[ {\"text\":\"a\"},\n {\"text\":\"b, ]} \\\" c\"} ]\n"));
  EXPECT_EQ(Dump(*rows), (std::vector<std::string>{R"({"text":"a"})", R"({"text":"b, ]} \" c"})"}));
  EXPECT_EQ(rows->Where(1), folder_ + "/d.json:3");
  for (const char* broken : {"[{\"text\":\"a\"}", "[{\"text\":\"a}]", "[] []", "[{}"}) {
    EXPECT_NE(ErrorOf([&] { OpenRows(Put("b.json", broken)); }).find("must be one whole JSON list"),
              std::string::npos)
        << broken;
  }
}

TEST_F(RowsTest, CsvAndTsv) {
  const auto rows =
      OpenRows(Put("d.csv", "prompt,completion\r\nq,\"a, \"\"b\"\"\nc\"\r\n\r\nx,y\n"));
  EXPECT_EQ(Dump(*rows), (std::vector<std::string>{R"({"prompt":"q","completion":"a, \"b\"\nc"})",
                                                   R"({"prompt":"x","completion":"y"})"}));
  EXPECT_EQ(rows->Where(1), folder_ + "/d.csv:5");
  EXPECT_EQ(Rows("d.tsv", "text\tn\nhe said \"hi\t1\n"),
            (std::vector<std::string>{R"({"text":"he said \"hi","n":"1"})"}));
  EXPECT_NE(ErrorOf([&] { Rows("e.csv", "a,b\n1\n"); }).find(":2: must have 2 fields"),
            std::string::npos);
  EXPECT_NE(ErrorOf([&] { Rows("f.csv", "a,b\n1,\"2\n"); }).find(":2: a quoted field must end"),
            std::string::npos);
  EXPECT_NE(ErrorOf([&] { Rows("g.csv", "a\n\xff\xfe\n"); }).find("must be UTF-8"),
            std::string::npos);
  EXPECT_NE(ErrorOf([&] { Rows("h.csv", "a,a\n1,2\n"); }).find("different names"),
            std::string::npos);
}

TEST_F(RowsTest, Utf16IsNamed) {
  EXPECT_NE(ErrorOf([&] { Rows("d.jsonl", std::string("\xff\xfe{\0", 4)); }).find("got UTF-16"),
            std::string::npos);
}

TEST_F(RowsTest, WebDataset) {
  const std::string png = EncodePng({48, 48, std::vector<uint8_t>(48 * 48 * 3, 7)});
  const std::string tar = Tar({{"x/000.png", png},
                               {"x/000.txt", "gray"},
                               {"x/001.left.png", png},
                               {"x/001.json", R"({"conversations":[],"k":1})"},
                               {"x/002.json", R"({"messages":[{"role":"user","content":[)"
                                              R"({"type":"image","image":"002.png"}]}]})"},
                               {"x/002.png", png},
                               {"x/003.cls", "5"}});
  for (const char* filter : {"", "gzip", "zstd"}) {
    const std::string name = StrCat("d", filter, ".tar");
    const auto rows = OpenRows(Put(name, *filter == 0 ? tar : Compress(tar, filter)));
    ASSERT_EQ(rows->size(), 4);
    EXPECT_EQ(rows->Where(0), folder_ + "/" + name + ":x/000");
    const Json first = rows->Read(0);
    EXPECT_EQ(first["text"], "gray");
    EXPECT_EQ(GetRawBytes(first["images"][0]["bytes"]), png);
    EXPECT_EQ(rows->Read(1)["k"], 1);
    EXPECT_EQ(rows->Read(1)["images"].size(), 1u);
    const Json third = rows->Read(2);
    EXPECT_FALSE(third.contains("images")) << "it is named in a part";
    EXPECT_EQ(GetRawBytes(third["messages"][0]["content"][0]["image"]), png);
  }
  const auto data = Dataset::Open({folder_ + "/d.tar"}, {.format = "image_text"});
  EXPECT_EQ(data->Read(0).media.size(), 1u);
  EXPECT_NE(ErrorOf([&] { OpenRows(Put("cut.tar", tar.substr(0, 700))); }).find("cut.tar"),
            std::string::npos);
}

TEST_F(RowsTest, MediaFolders) {
  const std::string png = EncodePng({48, 48, std::vector<uint8_t>(48 * 48 * 3, 7)});
  Put("m/a.png", png);
  Put("m/metadata.jsonl", R"({"file_name":"a.png","text":"gray","n":3})");
  const auto rows = OpenRows(folder_ + "/m");
  EXPECT_EQ(Dump(*rows), (std::vector<std::string>{R"({"image":"a.png","text":"gray","n":3})"}));
  EXPECT_EQ(Dataset::Open({folder_ + "/m"})->format(), "image_text");
  Put("c/y/b.png", png);
  Put("c/y/b.txt", "dark\n");
  EXPECT_EQ(Dump(*OpenRows(folder_ + "/c")),
            (std::vector<std::string>{R"({"image":"y/b.png","text":"dark"})"}));
  Put("csv/s.wav", "x");
  Put("csv/metadata.csv", "file_name,transcription\ns.wav,hello\n");
  EXPECT_EQ(Dump(*OpenRows(folder_ + "/csv")),
            (std::vector<std::string>{R"({"audio":"s.wav","transcription":"hello"})"}));
  std::filesystem::create_directories(folder_ + "/none");
  EXPECT_NE(ErrorOf([&] { OpenRows(folder_ + "/none"); }).find("got none of them"),
            std::string::npos);
}

TEST_F(RowsTest, ShardsAndPatterns) {
  Put("s/b.jsonl", "{\"text\":\"b\"}\n");
  Put("s/a.jsonl.gz", Compress("{\"text\":\"a\"}\n", "gzip"));
  Put("s/state.json", "{}");
  const auto data = Dataset::Open({folder_ + "/s"});
  ASSERT_EQ(data->size(), 2);
  EXPECT_EQ(data->Read(0).completion, "a");
  EXPECT_EQ(Dataset::Open({folder_ + "/s/?.jsonl"})->size(), 1);
  EXPECT_NE(ErrorOf([&] { Dataset::Open({folder_ + "/s/*.csv"}); }).find("must match files"),
            std::string::npos);
}

TEST_F(RowsTest, BombsAreRefused) {
  const std::string bomb = Compress(std::string(64 << 20, '\n'), "gzip");
  ASSERT_LT(bomb.size(), size_t{100000});
  EXPECT_NE(ErrorOf([&] { Rows("b.jsonl.gz", bomb); }).find("may inflate to 500 times"),
            std::string::npos);
  const std::string whole = Compress(lines_, "gzip");
  EXPECT_NE(ErrorOf([&] {
              Rows("c.jsonl.gz", whole.substr(0, whole.size() / 2));
            }).find("must be a whole compressed file"),
            std::string::npos);
}

TEST_F(RowsTest, OneBadLineInAMillion) {
  std::string text;
  for (int i = 0; i < 1'000'000; ++i) text += i == 654'321 ? "{\"text\": \n" : "{\"text\":\"a\"}\n";
  const auto data = Dataset::Open({Put("d.jsonl", text)});
  EXPECT_EQ(data->size(), 1'000'000);
  EXPECT_TRUE(
      ErrorOf([&] { data->Read(654'321); }).starts_with(folder_ + "/d.jsonl:654322: must be JSON"));
  EXPECT_EQ(data->Read(999'999).completion, "a");
}

TEST_F(RowsTest, MixturesRepeatAndSample) {
  std::string a, b;
  for (int i = 0; i < 10; ++i) a += StrCat("{\"text\":\"a", i, "\"}\n");
  for (int i = 0; i < 4; ++i) b += StrCat("{\"text\":\"b", i, "\"}\n");
  SourceSpec first = {.path = Put("a.jsonl", a)}, second = {.path = Put("b.jsonl", b)};
  first.repeat = 0.5;
  second.repeat = 2.25;
  const auto data = Dataset::Open(std::vector<SourceSpec>{first, second});
  EXPECT_EQ(data->size(), 14);
  EXPECT_EQ(data->EpochSize(), 5 + 9);
  const auto count = [](const std::vector<int64_t>& order) {
    std::map<int64_t, int> counts;
    for (const int64_t record : order) ++counts[record];
    return counts;
  };
  std::set<int64_t> seen;
  for (int64_t epoch = 0; epoch < 8; ++epoch) {
    const auto order = data->Order(7, epoch, true);
    ASSERT_EQ(order.size(), 14u);
    EXPECT_EQ(order, data->Order(7, epoch, true));
    int64_t from_first = 0;
    for (const auto& [record, times] : count(order)) {
      if (record < 10) {
        EXPECT_EQ(times, 1);
        ++from_first;
        seen.insert(record);
      } else {
        EXPECT_TRUE(times == 2 || times == 3);
      }
    }
    EXPECT_EQ(from_first, 5);
  }
  EXPECT_EQ(seen.size(), 10u) << "another half in another epoch";
  EXPECT_NE(data->Order(7, 0, true), data->Order(8, 0, true));
  // Weights: shares of as many records as there are.
  first.repeat = second.repeat = 1;
  first.weight = 1;
  second.weight = 3;
  const auto weighted = Dataset::Open(std::vector<SourceSpec>{first, second});
  int64_t from_second = 0;
  for (const int64_t record : weighted->Order(1, 0, false)) from_second += record >= 10;
  EXPECT_EQ(weighted->EpochSize(), 15);  // 3.5 -> 4 of the first, 10.5 -> 11 of the second
  EXPECT_EQ(from_second, 11);
  second.weight = 0;
  EXPECT_NE(ErrorOf([&] {
              Dataset::Open(std::vector<SourceSpec>{first, second});
            }).find("all sources or none must have a weight"),
            std::string::npos);
  second.weight = 0, first.weight = 0, first.max_samples = 3;
  EXPECT_EQ(Dataset::Open(std::vector<SourceSpec>{first, second})->size(), 7);
}

TEST_F(RowsTest, SplitHoldsOutAShare) {
  std::string a;
  for (int i = 0; i < 50; ++i) a += StrCat("{\"text\":\"a", i, "\"}\n");
  const auto data = Dataset::Open({Put("a.jsonl", a)});
  const auto [train, eval] = data->Split(0.1, 3);
  EXPECT_EQ(train->size(), 45);
  EXPECT_EQ(eval->size(), 5);
  std::set<std::string> places;
  for (int64_t i = 0; i < 45; ++i) places.insert(train->Where(i));
  for (int64_t i = 0; i < 5; ++i) places.insert(eval->Where(i));
  EXPECT_EQ(places.size(), 50u);
  EXPECT_EQ(data->Split(0.1, 3).second->Fingerprint(), eval->Fingerprint());
  EXPECT_NE(data->Split(0.1, 4).second->Fingerprint(), eval->Fingerprint());
}

// Mutated files end in Error or in rows; never in a crash.
TEST_F(RowsTest, FuzzContainers) {
  const std::string png = EncodePng({48, 48, std::vector<uint8_t>(48 * 48 * 3, 7)});
  const std::vector<std::pair<std::string, std::string>> seeds = {
      {"d.json", R"([{"text":"a"},{"text":"b \" ]"},{"messages":[{"role":"user"}]}])"},
      {"d.csv", "a,b\n\"x\n\",y\n1,\"2\"\"3\"\n"},
      {"d.tar", Tar({{"0.png", png}, {"0.json", R"({"text":"a"})"}, {"1.txt", "b"}})},
      {"d.jsonl.gz", Compress("{\"text\":\"a\"}\n{\"text\":\"b\"}\n", "gzip")},
      {"d.jsonl.zst", Compress("{\"text\":\"a\"}\n{\"text\":\"b\"}\n", "zstd")},
  };
  const int64_t rounds = std::max<int64_t>(20, fuzz::Iterations() / 20);
  int64_t rows_read = 0;
  for (int64_t i = 0; i < rounds; ++i) {
    for (size_t s = 0; s < seeds.size(); ++s) {
      fuzz::Mutator mutate(40 + s, static_cast<uint64_t>(i));
      const std::string path = folder_ + "/" + seeds[s].first;
      {
        std::ofstream file(path, std::ios::binary);
        const std::string bytes = mutate(seeds[s].second, 600);
        file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
      }
      try {
        const auto rows = OpenRows(path);
        rows->Fingerprint();
        for (int64_t r = 0; r < rows->size(); ++r) {
          rows->Read(r);
          ++rows_read;
        }
      } catch (const Error& e) {
        ASSERT_TRUE(std::string(e.what()).starts_with(path)) << e.what();
      }
    }
  }
  EXPECT_GT(rows_read, 0);
}

}  // namespace
}  // namespace lapidary
