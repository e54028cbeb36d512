// Parquet and Arrow files by the plug-in: nested columns, pictures in cells, every common codec,
// broken files. The files are written by pyarrow (make_arrow.py). Built where the plug-in is.
#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>

#include "data/dataset.h"
#include "data/image.h"
#include "data/json.h"
#include "data/rows.h"
#include "tests/data/folder_test_base.h"
#include "tests/fuzz/mutate.h"

namespace lapidary {
namespace {

using Json = nlohmann::ordered_json;

class ArrowTest : public FolderTest {
 protected:
  void SetUp() override {
    FolderTest::SetUp();
    png_ = EncodePng({48, 96, std::vector<uint8_t>(48 * 96 * 3, 200)});
    const std::string png = Put("a.png", png_);
    std::filesystem::create_directories(folder_ + "/out");
    const std::string command =
        StrCat(LAPIDARY_ARROW_PYTHON " " LAPIDARY_SOURCE_DIR "/tests/data/make_arrow.py ", folder_,
               "/out ", png);
    ASSERT_EQ(std::system(command.c_str()), 0);
  }
  std::string png_;
};

TEST_F(ArrowTest, RowsOfEveryFile) {
  for (const char* name : {"snappy.parquet", "zstd.parquet", "gzip.parquet", "none.parquet",
                           "file.arrow", "stream.arrow"}) {
    const auto rows = OpenRows(folder_ + "/out/" + name);
    ASSERT_EQ(rows->size(), 150) << name;
    const Json row = rows->Read(100);
    EXPECT_EQ(row["messages"][1]["content"], "a100");
    EXPECT_EQ(GetRawBytes(row["images"][0]["bytes"]), png_);
    EXPECT_TRUE(row["images"][0]["path"].is_null());
    EXPECT_EQ(row["n"], 100);
    EXPECT_TRUE(rows->Read(3)["n"].is_null());
    EXPECT_EQ(row["kind"], "y");
    EXPECT_EQ(row["scores"][0], 50.0);
    EXPECT_TRUE(rows->Read(1)["images"].empty());
    EXPECT_EQ(rows->Where(100), folder_ + "/out/" + name + ":101");
    const auto data = Dataset::Open({folder_ + "/out/" + name});
    EXPECT_EQ(data->format(), "messages");
    EXPECT_EQ(data->Read(100).media.size(), 1u);
  }
}

TEST_F(ArrowTest, BrokenFilesAreErrors) {
  const std::vector<std::string> seeds = {"zstd.parquet", "file.arrow", "stream.arrow"};
  const int64_t rounds = std::max<int64_t>(10, fuzz::Iterations() / 200);
  for (int64_t i = 0; i < rounds; ++i) {
    for (size_t s = 0; s < seeds.size(); ++s) {
      fuzz::Mutator mutate(80 + s, static_cast<uint64_t>(i));
      const std::string path = folder_ + "/broken-" + seeds[s];
      {
        std::ofstream file(path, std::ios::binary);
        const std::string bytes = mutate(ReadFile(folder_ + "/out/" + seeds[s]), 200);
        file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
      }
      try {
        const auto rows = OpenRows(path);
        for (int64_t r = 0; r < rows->size(); ++r) rows->Read(r);
      } catch (const Error& e) {
        ASSERT_TRUE(std::string(e.what()).starts_with(path)) << e.what();
      }
    }
  }
  EXPECT_NE(ErrorOf([&] { OpenRows(Put("x.parquet", "PAR1")); }).find("must be a whole Parquet"),
            std::string::npos);
}

}  // namespace
}  // namespace lapidary
