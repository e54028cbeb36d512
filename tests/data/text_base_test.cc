// The small things under the text pipeline: SHA-256, UTF-8 and case rules, JSON as Python sees it,
// base64.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "autograd/base/error.h"
#include "autograd/base/sha256.h"
#include "data/json.h"
#include "data/media_ref.h"
#include "data/unicode.h"

namespace lapidary {
namespace {

TEST(Sha256, KnownValues) {  // FIPS 180-4 examples
  EXPECT_EQ(Sha256Hex(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(Sha256Hex("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(Sha256Hex("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"),
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  EXPECT_EQ(Sha256Hex(std::string(1000000, 'a')),
            "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
  Sha256 pieces;
  for (int i = 0; i < 1000; ++i) pieces.Add(std::string(1000, 'a'));
  EXPECT_EQ(pieces.Hex(), Sha256Hex(std::string(1000000, 'a')));
}

TEST(Unicode, DecodesAndRejects) {
  EXPECT_EQ(DecodeUtf8("\xf0\x9f\x98\x80", 4).value, 0x1f600u);
  for (const char* bad : {"\xc0\x80", "\xe0\x80\x80", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xff",
                          "\x80", "\xe2\x96", "\xf5\x80\x80\x80"}) {
    const CodePoint c = DecodeUtf8(bad, std::strlen(bad));
    EXPECT_EQ(c.value, kInvalidByte + static_cast<uint8_t>(bad[0]));
    EXPECT_EQ(c.length, 1);
  }
  for (uint32_t v : {0x7fu, 0x80u, 0x7ffu, 0x800u, 0xffffu, 0x10000u, 0x10ffffu}) {
    std::string text;
    AppendUtf8(text, v);
    EXPECT_EQ(DecodeUtf8(text.data(), text.size()).value, v);
  }
}

TEST(Unicode, StripsLikePython) {
  EXPECT_EQ(PythonStrip(" \t\x1c\xc2\x85\xc2\xa0\xe3\x80\x80 a b \xe2\x80\x83\n"), "a b");
  EXPECT_EQ(PythonStrip("\xe2\x80\x8b"), "\xe2\x80\x8b") << "U+200B is not white space";
  EXPECT_EQ(PythonStrip(" \n"), "");
  EXPECT_EQ(PythonStrip("\x85"), "\x85") << "a stray byte is no character";
}

TEST(Unicode, ChangesCaseLikePython) {
  EXPECT_EQ(PythonUpper("stra\xc3\x9f"
                        "e \xc7\x86 \xc4\xb1"),
            "STRASSE \xc7\x84 I");
  EXPECT_EQ(PythonLower("\xc3\x84\xc4\xb0\xd0\x96"), "\xc3\xa4i\xcc\x87\xd0\xb6");
}

TEST(Json, NumbersPrintLikePython) {
  const auto print = [](const char* text) { return PythonStr(ParseJson(text, "t")); };
  EXPECT_EQ(print("1.0"), "1.0");
  EXPECT_EQ(print("1e-7"), "1e-07");
  EXPECT_EQ(print("0.0001"), "0.0001");
  EXPECT_EQ(print("1e16"), "1e+16");
  EXPECT_EQ(print("123456789012345.25"), "123456789012345.25");
  EXPECT_EQ(print("1e15"), "1000000000000000.0");
  EXPECT_EQ(print("-0.5"), "-0.5");
  EXPECT_EQ(print("-0.0"), "-0.0");
  EXPECT_EQ(print("-0"), "0");
  EXPECT_EQ(print("3.25e20"), "3.25e+20");
  EXPECT_EQ(print("5e-324"), "5e-324");
  EXPECT_EQ(print("123456789012345678901234567890"), "123456789012345678901234567890");
  EXPECT_EQ(print("-99999999999999999999"), "-99999999999999999999");
  EXPECT_EQ(print("[true, null, \"it's\", {\"a\": 1.5}, \"\\u0007\"]"),
            "[True, None, \"it's\", {'a': 1.5}, '\\x07']");
}

TEST(Json, KeepsOrderAndTheLastOfEqualKeys) {
  EXPECT_EQ(DumpJson(ParseJson(R"({"b":1,"a":{"z":[1,2]},"b":18446744073709551616})", "t")),
            R"({"b":18446744073709551616,"a":{"z":[1,2]}})");
}

TEST(Json, HostileTextIsAnError) {
  EXPECT_THROW(ParseJson(std::string(100000, '['), "t"), Error);
  EXPECT_THROW(ParseJson("{\"a\": 1", "t"), Error);
  EXPECT_THROW(ParseJson("\"\xff\"", "t"), Error);
  EXPECT_THROW(ParseJson("1e999", "t"), Error);
  EXPECT_THROW(ParseJson("", "t"), Error);
  EXPECT_THROW(ParseJson("1 2", "t"), Error);
  std::string wide = "{";
  for (int i = 0; i < 20000; ++i) wide += StrCat(i ? "," : "", "\"k", i, "\":0");
  EXPECT_THROW(ParseJson(wide + "}", "t"), Error);
}

TEST(Base64, Decodes) {
  EXPECT_EQ(DecodeBase64("TWFu"), "Man");
  EXPECT_EQ(DecodeBase64("TWE="), "Ma");
  EXPECT_EQ(DecodeBase64("TQ"), "M");
  EXPECT_EQ(DecodeBase64("_-8="), "\xff\xef");
  EXPECT_EQ(DecodeBase64("TQ=A"), std::nullopt);
  EXPECT_EQ(DecodeBase64("TWFuT"), std::nullopt);
  EXPECT_EQ(DecodeBase64("T!=="), std::nullopt);
}

}  // namespace
}  // namespace lapidary
