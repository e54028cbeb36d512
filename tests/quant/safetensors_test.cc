// safetensors: round trips, the reference order, shards, and every rule of formats.md 1.3 broken
// once.
#include "quant/safetensors.h"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <limits>

#include "autograd/base/error.h"
#include "autograd/base/file.h"
#include "tests/quant/temp_folder.h"

namespace lapidary {
namespace {

std::string Raw(const std::string& header, const std::string& data) {
  std::string out(8, '\0');
  for (size_t i = 0; i < 8; ++i) out[i] = static_cast<char>(header.size() >> (8 * i) & 0xff);
  return out + header + data;
}

SafetensorsFile Parse(const std::string& bytes) {
  static std::string keep;
  keep = bytes;
  return SafetensorsFile::Parse(reinterpret_cast<const uint8_t*>(keep.data()), keep.size(), "x");
}

// The message of the Error that reading `bytes` throws; empty if it is read.
std::string Refusal(const std::string& bytes) {
  try {
    Parse(bytes);
    return "";
  } catch (const Error& e) {
    return e.what();
  }
}

TEST(Safetensors, RoundTrip) {
  const TempFolder folder;
  const std::vector<NamedTensor> tensors = {
      {"b", {2, 3}, {1, -2, 3.5f, 0, 1e-3f, -65504}}, {"a", {}, {7}}, {"c", {0, 4}, {}}};
  for (const char* dtype : {"F32", "F16", "BF16", "F64"}) {
    WriteSafetensors(folder / "x.safetensors", tensors, dtype, {{"format", "pt"}, {"k", "v"}});
    const SafetensorsFile file = SafetensorsFile::Open(folder / "x.safetensors");
    EXPECT_EQ(file.metadata().at("k"), "v");
    ASSERT_EQ(file.tensors().size(), 3u);
    EXPECT_EQ(file.tensors()[0].name, "a");
    const TensorSet set = OpenCheckpoint(folder / "x.safetensors");
    EXPECT_EQ(set.Get("b").shape, (TensorShape{2, 3}));
    EXPECT_EQ(set.Get("b").dtype, dtype);
    const std::vector<float> back = set.Get("b", {2, 3}).ReadAll();
    for (size_t i = 0; i < back.size(); ++i)
      EXPECT_NEAR(back[i], tensors[0].values[i], std::fabs(back[i]) / 200) << dtype;
    float row[3];
    set.Get("b").ReadRows(1, 1, row);
    EXPECT_EQ(row[0], back[3]);
    EXPECT_THROW(set.Get("b").ReadRows(1, 2, row), Error);
    EXPECT_THROW(set.Get("b", {3, 2}), Error);
    EXPECT_THROW(set.Get("d"), Error);
    EXPECT_EQ(set.Find("d"), nullptr);
  }
}

TEST(Safetensors, WriterKeepsTheReferenceOrder) {
  const TempFolder folder;
  SafetensorsWriter writer(folder / "x", {{"b", "BF16", {1}},
                                          {"Z", "BF16", {1}},
                                          {"a", "I64", {1}},
                                          {"q", "F32", {1}},
                                          {"u", "U8", {1}}});
  std::string order;
  for (const TensorSpec& spec : writer.order()) order += spec.name;
  EXPECT_EQ(order, "aqZbu");
  const std::string data(8 + 4 + 2 + 2 + 1, 'x');
  EXPECT_THROW(writer.Commit(), Error);  // nothing appended yet
  writer.Append(data.data(), 3);
  writer.Append(data.data() + 3, data.size() - 3);
  EXPECT_THROW(writer.Append("y", 1), Error);
  writer.Commit();
  const std::string bytes = ReadFile(folder / "x");
  EXPECT_EQ(bytes.size(), SafetensorsFileBytes(writer.order()));
  EXPECT_EQ(static_cast<uint8_t>(bytes[0]) % 8, 0);
  EXPECT_EQ(bytes.substr(8, 36), "{\"__metadata__\":{\"format\":\"pt\"},\"a\":");
}

TEST(Safetensors, WriterRefuses) {
  const TempFolder folder;
  EXPECT_THROW(SafetensorsWriter(folder / "x", {{"a", "F32", {1}}, {"a", "F32", {1}}}), Error);
  EXPECT_THROW(SafetensorsWriter(folder / "x", {{"a", "Q4_0", {32}}}), Error);
  EXPECT_THROW(SafetensorsWriter(folder / "x", {{"a", "F32", {-1}}}), Error);
  EXPECT_THROW(SafetensorsWriter(folder / "x", {{"a", "F32", {INT64_MAX, 2}}}), Error);
  EXPECT_THROW(SafetensorsWriter(folder / "x", {{"__metadata__", "F32", {1}}}), Error);
  EXPECT_THROW(WriteSafetensors(folder / "x", {{"a", {2}, {1}}}), Error);
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));  // nothing is left behind
}

TEST(Safetensors, EveryRuleOfTheReaderIsEnforced) {
  const std::string four = "abcd";
  const std::string good = R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})";
  EXPECT_EQ(Refusal(Raw(good, four)), "");
  EXPECT_EQ(Refusal(Raw(good + "   ", four)), "");
  EXPECT_EQ(Refusal(Raw("{}", "")), "");
  const auto refused = [&](const std::string& header, const std::string& data,
                           const std::string& part) {
    const std::string message = Refusal(Raw(header, data));
    EXPECT_NE(message.find(part), std::string::npos) << header << " gave: " << message;
  };
  refused(good, four + "e", "data must end with the last tensor");
  refused(good, "abc", "must lie inside the data");
  refused("[]", "", "must be a JSON object");
  refused(" " + good, four, "must be a JSON object");
  refused("{\"a\":", "", "must be JSON");
  refused(
      R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})",
      four, "unique");
  refused(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[1,5]}})", four + "e", "a hole");
  refused(
      R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[2,6]}})",
      four + "ef", "an overlap");
  refused(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}})", four, "backwards");
  refused(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}})", four, "must span 8 bytes");
  refused(R"({"a":{"dtype":"F33","shape":[1],"data_offsets":[0,4]}})", four, "dtype must be known");
  refused(R"({"a":{"dtype":"F4","shape":[3],"data_offsets":[0,2]}})", "ab", "whole bytes");
  refused(R"({"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}})", four, "non-negative");
  refused(R"({"a":{"dtype":"F32","shape":[1.0],"data_offsets":[0,4]}})", four,
          "non-negative integers");
  refused(R"({"a":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,4]}})", four,
          "must fit 63 bits");
  refused(R"({"a":{"dtype":"F32","shape":[18446744073709551615],"data_offsets":[0,4]}})", four,
          "must fit 63 bits");
  refused(R"({"a":{"dtype":"F64","shape":[2305843009213693952],"data_offsets":[0,0]}})", "",
          "must fit 63 bits");
  refused(R"({"a":{"shape":[1],"data_offsets":[0,4]}})", four, "must have dtype");
  refused(R"({"a":7})", four, "must have dtype");
  refused(R"({"__metadata__":{"format":1}})", "", "must hold strings");
  refused("{\"\xff\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", four,
          "must be JSON");
  EXPECT_NE(Refusal("1234567").find("at least 8 bytes"), std::string::npos);
  EXPECT_NE(Refusal(std::string(8, '\xff') + "{}").find("100000000"), std::string::npos);
  EXPECT_NE(Refusal(std::string("\x40\0\0\0\0\0\0\0{}", 10)).find("inside the file"),
            std::string::npos);
}

TEST(Safetensors, DeepNestingIsRefused) {
  const std::string deep(100000, '[');
  EXPECT_NE(Refusal(Raw("{\"a\":" + deep, "")).find("levels deep"), std::string::npos);
}

TEST(Safetensors, SubByteAndUnknownToUsAreListedNotRead) {
  const SafetensorsFile file =
      Parse(Raw(R"({"a":{"dtype":"F4","shape":[4],"data_offsets":[0,2]}})", "ab"));
  EXPECT_EQ(file.tensors()[0].format, nullptr);
  EXPECT_THROW(file.tensors()[0].ReadAll(), Error);
}

class Shards : public testing::Test {
 protected:
  void Write(const std::string& name, const std::vector<std::string>& tensors) {
    std::vector<NamedTensor> list;
    for (const std::string& tensor : tensors)
      list.push_back({tensor, {1}, {static_cast<float>(tensor[0])}});
    WriteSafetensors(folder_ / name, list);
  }
  void Index(const std::string& map) {
    WriteFile(folder_ / "model.safetensors.index.json",
              "{\"metadata\":{},\"weight_map\":{" + map + "}}");
  }
  std::string Refusal() {
    try {
      OpenCheckpoint(folder_.path());
      return "";
    } catch (const Error& e) {
      return e.what();
    }
  }
  TempFolder folder_;
};

TEST_F(Shards, AreJoinedByTheIndex) {
  Write("model-00001-of-00002.safetensors", {"a", "b"});
  Write("model-00002-of-00002.safetensors", {"c"});
  Index(
      R"("a":"model-00001-of-00002.safetensors","b":"model-00001-of-00002.safetensors","c":"model-00002-of-00002.safetensors")");
  const TensorSet set = OpenCheckpoint(folder_.path());
  EXPECT_EQ(set.tensors().size(), 3u);
  EXPECT_EQ(set.Get("c").ReadAll()[0], static_cast<float>('c'));
  EXPECT_TRUE(set.warnings().empty());
  EXPECT_EQ(OpenCheckpoint(folder_ / "model.safetensors.index.json").tensors().size(), 3u);
  Write("model.safetensors", {"z"});  // the single file goes first, as in Transformers
  EXPECT_EQ(OpenCheckpoint(folder_.path()).tensors().size(), 1u);
}

TEST_F(Shards, IndexAndShardsMustAgree) {
  Write("s1.safetensors", {"a", "b"});
  Index(R"("a":"s1.safetensors")");
  EXPECT_NE(Refusal().find("must list every tensor of its shards"), std::string::npos);
  Index(R"("a":"s1.safetensors","b":"s1.safetensors","c":"s1.safetensors")");
  EXPECT_NE(Refusal().find("must hold 'c'"), std::string::npos);
  Index(R"("a":"s1.safetensors","b":"s2.safetensors")");
  EXPECT_NE(Refusal().find("got no s2.safetensors"), std::string::npos);
  Index(R"("a":"../s1.safetensors")");
  EXPECT_NE(Refusal().find("files of the same folder"), std::string::npos);
  Index(R"("a":3)");
  EXPECT_NE(Refusal().find("file names"), std::string::npos);
  Index("");
  EXPECT_NE(Refusal().find("must name tensors"), std::string::npos);
  Write("s2.safetensors", {"a"});
  Index(R"("a":"s1.safetensors","b":"s1.safetensors","c":"s2.safetensors")");
  EXPECT_NE(Refusal().find("unique"), std::string::npos);  // 'a' in both
}

TEST_F(Shards, StaleIndexFallsBackWithAWarning) {
  Write("model-00001-of-00001.safetensors", {"a"});
  Index(R"("a":"model-00001-of-00005.safetensors")");
  const TensorSet set = OpenCheckpoint(folder_.path());
  EXPECT_EQ(set.tensors().size(), 1u);
  ASSERT_EQ(set.warnings().size(), 1u);
  EXPECT_NE(set.warnings()[0].find("used all 1 *.safetensors files instead"), std::string::npos);
}

TEST_F(Shards, NothingThere) {
  EXPECT_NE(Refusal().find("must hold model.safetensors"), std::string::npos);
  EXPECT_THROW(OpenCheckpoint(folder_ / "absent"), Error);
}

}  // namespace
}  // namespace lapidary
