// GGUF: round trips of every value type, byte layout, and every rule of formats.md 2.1 broken once.
#include "quant/gguf.h"

#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>

#include "autograd/base/error.h"
#include "autograd/base/file.h"
#include "tests/quant/temp_folder.h"

namespace lapidary {
namespace {

// Builds files by hand, so that every field can lie.
struct Builder {
  std::string bytes;
  template <class T>
  Builder& Put(T value) {
    bytes.append(reinterpret_cast<const char*>(&value), sizeof(T));
    return *this;
  }
  Builder& Text(const std::string& text) {
    Put<uint64_t>(text.size());
    bytes += text;
    return *this;
  }
  Builder& Head(int64_t tensors, int64_t keys, uint32_t version = 3) {
    bytes += "GGUF";
    return Put<uint32_t>(version).Put<int64_t>(tensors).Put<int64_t>(keys);
  }
  Builder& Info(const std::string& name, std::vector<int64_t> ne, uint32_t type, uint64_t offset) {
    Text(name).Put<uint32_t>(static_cast<uint32_t>(ne.size()));
    for (const int64_t n : ne) Put<int64_t>(n);
    return Put<uint32_t>(type).Put<uint64_t>(offset);
  }
  Builder& Data(size_t n) {
    bytes.resize((bytes.size() + 31) / 32 * 32 + n);
    return *this;
  }
};

std::string Refusal(const std::string& bytes) {
  try {
    GgufFile::Parse(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size(), "x");
    return "";
  } catch (const Error& e) {
    return e.what();
  }
}

TEST(Gguf, RoundTrip) {
  const TempFolder folder;
  GgufKeys keys = {{"s", GgufValue::String("text \xe2\x96\x81")},
                   {"ss", GgufValue::Strings({"a", "", "c"})},
                   {"f", GgufValue::F32(0.95)},
                   {"fs", GgufValue::F32s({0, -1.5})},
                   {"b", GgufValue::Bool(true)},
                   {"bs", GgufValue::Bools({1, 0, 1})},
                   {"i", GgufValue::I32(-7)},
                   {"is", GgufValue::I32s({1, -2})},
                   {"u", GgufValue::U32(4294967295)},
                   {"d", {GgufType::kF64, false, {}, {1e300}, {}}}};
  for (const GgufType type : {GgufType::kU8, GgufType::kI8, GgufType::kU16, GgufType::kI16,
                              GgufType::kU64, GgufType::kI64}) {
    keys.push_back({GgufTypeName(type), {type, false, {100}, {}, {}}});
    keys.push_back({std::string("array ") + GgufTypeName(type), {type, true, {1, 2, 3}, {}, {}}});
  }
  GgufKeys with_empty = keys;
  with_empty.push_back({"empty", GgufValue::String("")});
  with_empty.push_back({"empties", GgufValue::Strings({})});
  const std::vector<TensorSpec> tensors = {
      {"a.weight", "F32", {3}}, {"b.weight", "Q8_0", {2, 32}}, {"c", "BF16", {2, 1, 3}}};
  std::string data;
  for (int i = 0; i < 12 + 68 + 12; ++i) data += static_cast<char>(i);
  GgufWriter writer(folder / "x.gguf", with_empty, tensors);
  for (const char c : data) writer.Append(&c, 1);
  EXPECT_THROW(writer.Append("x", 1), Error);
  writer.Commit();
  EXPECT_EQ(std::filesystem::file_size(folder / "x.gguf"), GgufFileBytes(with_empty, tensors));
  EXPECT_EQ(std::filesystem::file_size(folder / "x.gguf") % 32, 0u);

  const GgufFile file = GgufFile::Open(folder / "x.gguf");
  EXPECT_EQ(file.version(), 3u);
  EXPECT_EQ(file.keys(), keys);
  ASSERT_EQ(file.tensors().tensors().size(), 3u);
  size_t at = 0;
  for (size_t i = 0; i < 3; ++i) {
    const StoredTensor& tensor = file.tensors().tensors()[i];
    EXPECT_EQ(tensor.name, tensors[i].name);
    EXPECT_EQ(tensor.dtype, tensors[i].dtype);
    EXPECT_EQ(tensor.shape, tensors[i].shape);
    EXPECT_EQ(std::memcmp(tensor.data, data.data() + at, tensor.bytes), 0);
    at += tensor.bytes;
  }
  EXPECT_EQ(at, data.size());
  EXPECT_EQ(file.GetString("s"), "text \xe2\x96\x81");
  EXPECT_EQ(file.GetInt("uint16"), 100);
  EXPECT_EQ(file.GetFloat("f"), static_cast<double>(0.95f));
  EXPECT_TRUE(file.GetBool("b"));
  EXPECT_EQ(file.GetInts("bs"), (std::vector<int64_t>{1, 0, 1}));
  EXPECT_EQ(file.GetFloats("fs"), (std::vector<double>{0, -1.5}));
  EXPECT_EQ(file.GetStrings("ss").size(), 3u);
  EXPECT_THROW(file.GetInt("s"), Error);
  EXPECT_THROW(file.GetInt("is"), Error);
  EXPECT_THROW(file.GetInts("i"), Error);
  EXPECT_THROW(file.GetString("absent"), Error);
  EXPECT_EQ(file.Find("empty"), nullptr);
}

TEST(Gguf, WriterRefuses) {
  const TempFolder folder;
  const auto refused = [&](const GgufKeys& keys, const std::vector<TensorSpec>& tensors) {
    EXPECT_THROW(GgufWriter(folder / "x", keys, tensors), Error);
  };
  refused({{"", GgufValue::U32(1)}}, {});
  refused({{"a", GgufValue::U32(1)}, {"a", GgufValue::U32(1)}}, {});
  refused({{"a", GgufValue::U32(-1)}}, {});
  refused({{"a", GgufValue::I32(int64_t{1} << 31)}}, {});
  refused({{"general.alignment", GgufValue::U32(64)}}, {});
  refused({}, {{std::string(64, 'n'), "F32", {1}}});
  refused({}, {{"a", "F32", {1}}, {"a", "F32", {1}}});
  refused({}, {{"a", "F32", {1, 1, 1, 1, 1}}});
  refused({}, {{"a", "Q4_0", {2, 33}}});
  refused({}, {{"a", "Q9_9", {1}}});
  {
    GgufWriter writer(folder / "x", {}, {{"a", "F32", {2}}});
    writer.Append("abcd", 4);
    EXPECT_THROW(writer.Commit(), Error);
  }
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
}

TEST(Gguf, EveryRuleOfTheReaderIsEnforced) {
  const auto refused = [](const Builder& file, const std::string& part) {
    const std::string message = Refusal(file.bytes);
    EXPECT_NE(message.find(part), std::string::npos) << "got: " << message;
  };
  EXPECT_EQ(Refusal(Builder().Head(0, 0).bytes), "");
  EXPECT_EQ(Refusal(Builder().Head(0, 0, 2).bytes), "");
  EXPECT_EQ(Refusal(Builder().Head(1, 0).Info("a", {2}, 0, 0).Data(32).bytes), "");
  EXPECT_EQ(Refusal(Builder().Head(1, 0).Info("a", {2}, 0, 0).Data(8).bytes), "");
  refused(Builder(), "must be a GGUF file");
  refused(Builder().Head(0, 0, 1), "version must be 2 or 3");
  refused(Builder().Head(0, 0, 4), "version must be 2 or 3");
  refused(Builder().Head(0, 0, 0x03000000), "little-endian");
  refused(Builder().Head(-1, 0), "number of tensors");
  refused(Builder().Head(int64_t{1} << 60, 0), "number of tensors");
  refused(Builder().Head(0, -1), "number of keys");
  refused(Builder().Head(0, int64_t{1} << 60), "number of keys");
  refused(Builder().Head(0, 1).Put<uint64_t>(~uint64_t{0}).Data(64), "inside the file");
  refused(Builder().Head(0, 1).Text("").Put<uint32_t>(4).Put<uint32_t>(1).Data(32), "not empty");
  refused(Builder()
              .Head(0, 2)
              .Text("k")
              .Put<uint32_t>(4)
              .Put<uint32_t>(1)
              .Text("k")
              .Put<uint32_t>(4)
              .Put<uint32_t>(1),
          "unique");
  refused(Builder().Head(0, 1).Text("k\xff").Put<uint32_t>(4).Put<uint32_t>(1), "UTF-8");
  refused(Builder().Head(0, 1).Text(std::string("k\0", 2)).Put<uint32_t>(4).Put<uint32_t>(1),
          "UTF-8");
  refused(Builder().Head(0, 1).Text("k").Put<uint32_t>(13).Put<uint64_t>(1), "known type");
  refused(Builder().Head(0, 1).Text("k").Put<uint32_t>(9).Put<uint32_t>(9).Put<uint64_t>(1),
          "arrays hold no arrays");
  refused(Builder().Head(0, 1).Text("k").Put<uint32_t>(9).Put<uint32_t>(4).Put<uint64_t>(uint64_t{1}
                                                                                         << 31),
          "elements");
  refused(
      Builder().Head(0, 1).Text("k").Put<uint32_t>(9).Put<uint32_t>(8).Put<uint64_t>(5).Data(16),
      "elements");
  refused(Builder().Head(0, 1).Text("k").Put<uint32_t>(7).Put<uint8_t>(2), "0 or 1");
  refused(Builder().Head(0, 1).Text("k").Put<uint32_t>(10).Put<uint64_t>(~uint64_t{0}), "63 bits");
  refused(Builder().Head(0, 1).Text("general.alignment").Put<uint32_t>(4).Put<uint32_t>(24),
          "power of two");
  refused(Builder().Head(0, 1).Text("general.alignment").Put<uint32_t>(4).Put<uint32_t>(0),
          "power of two");
  refused(Builder().Head(0, 1).Text("general.alignment").Put<uint32_t>(10).Put<uint64_t>(32),
          "uint32");
  refused(Builder().Head(1, 0).Info("a", {1, 1, 1, 1, 1}, 0, 0).Data(32), "at most 4 axes");
  refused(Builder().Head(1, 0).Info(std::string(64, 'n'), {1}, 0, 0).Data(32), "1 to 63 bytes");
  refused(Builder().Head(1, 0).Info("", {1}, 0, 0).Data(32), "1 to 63 bytes");
  refused(Builder().Head(1, 0).Info("a", {-1}, 0, 0).Data(32), "negative");
  refused(Builder().Head(1, 0).Info("a", {1}, 4, 0).Data(32), "known type");
  refused(Builder().Head(1, 0).Info("a", {1}, 31, 0).Data(32), "known type");
  refused(Builder().Head(1, 0).Info("a", {33}, 2, 0).Data(32), "whole blocks");
  refused(Builder().Head(1, 0).Info("a", {int64_t{1} << 40, int64_t{1} << 40}, 0, 0).Data(32),
          "63 bits");
  refused(Builder().Head(1, 0).Info("a", {int64_t{1} << 62}, 0, 0).Data(32), "63 bits");
  refused(Builder().Head(1, 0).Info("a", {8}, 0, 32).Data(64), "at offset 0");
  refused(Builder().Head(2, 0).Info("a", {8}, 0, 0).Info("b", {8}, 0, 0).Data(64), "at offset 32");
  refused(Builder().Head(2, 0).Info("a", {8}, 0, 0).Info("a", {8}, 0, 32).Data(64), "unique");
  refused(Builder().Head(1, 0).Info("a", {8}, 0, 0).Data(31), "inside the file");
}

TEST(Gguf, OtherAlignmentsAreRead) {
  Builder file = Builder().Head(2, 1).Text("general.alignment").Put<uint32_t>(4).Put<uint32_t>(8);
  file.Info("a", {1}, 0, 0).Info("b", {1}, 0, 8);
  file.bytes.resize((file.bytes.size() + 7) / 8 * 8);
  file.bytes += std::string("\0\0\x80\x3f\0\0\0\0\0\0\0\x40", 12);
  const GgufFile read =
      GgufFile::Parse(reinterpret_cast<const uint8_t*>(file.bytes.data()), file.bytes.size(), "x");
  EXPECT_EQ(read.alignment(), 8);
  EXPECT_EQ(read.tensors().Get("b").ReadAll()[0], 2.0f);
}

// Types that exist in ggml and not in the table are listed, not read.
TEST(Gguf, UnreadableTypesAreListed) {
  const Builder file = Builder().Head(1, 0).Info("a", {256}, 21, 0).Data(110);
  const GgufFile read =
      GgufFile::Parse(reinterpret_cast<const uint8_t*>(file.bytes.data()), file.bytes.size(), "x");
  EXPECT_EQ(read.tensors().Get("a").dtype, "IQ3_S");
  EXPECT_THROW(read.tensors().Get("a").ReadAll(), Error);
}

}  // namespace
}  // namespace lapidary
