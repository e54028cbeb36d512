// The format table: published vectors, corner cases, scale rules, thread counts.
#include "quant/format.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "autograd/base/error.h"
#include "autograd/base/float16.h"
#include "autograd/base/parallel.h"
#include "autograd/base/random.h"
#include "autograd/kernels/isa.h"
#include "quant/formats/iq4.h"

namespace lapidary {
namespace {

std::string Hex(const std::vector<uint8_t>& bytes) {
  std::string out;
  for (const uint8_t byte : bytes) {
    out += "0123456789abcdef"[byte >> 4];
    out += "0123456789abcdef"[byte & 15];
  }
  return out;
}

std::vector<uint8_t> Quantize(const char* name, const std::vector<float>& x,
                              const char* rule = "ggml") {
  const Format& format = GetFormat(name);
  std::vector<uint8_t> out(
      static_cast<size_t>(FormatBytes(format, static_cast<int64_t>(x.size()))));
  GetScaleRule(format, rule).quantize(x.data(), static_cast<int64_t>(x.size()), out.data());
  return out;
}

std::vector<float> Dequantize(const char* name, const std::vector<uint8_t>& bytes) {
  const Format& format = GetFormat(name);
  std::vector<float> out(bytes.size() / static_cast<size_t>(format.block_bytes) *
                         static_cast<size_t>(format.block_size));
  format.dequantize(bytes.data(), static_cast<int64_t>(out.size()), out.data());
  return out;
}

std::vector<float> Normal(int64_t n, uint64_t seed, float scale = 0.02f) {
  std::vector<float> out(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i)
    out[static_cast<size_t>(i)] = scale * RandomNormal({seed, 0, 0}, static_cast<uint64_t>(i));
  return out;
}

// formats.md 3.4: x[i] = (((i * 37) mod 101) - 50) / 64.
std::vector<float> Published(int n) {
  std::vector<float> x;
  for (int i = 0; i < n; ++i) x.push_back(static_cast<float>((i * 37) % 101 - 50) / 64.0f);
  return x;
}

TEST(Format, PublishedVectors) {
  EXPECT_EQ(Hex(Quantize("Q4_0", Published(32))), "402ee046acf258bd1379df358be046acf268");
  EXPECT_EQ(Hex(Quantize("Q8_0", Published(32))),
            "4d1e81df3d9af856b41270cd2b89e745a2005ebb1977d53390ee4caa0866c3217fdc");
  EXPECT_EQ(Hex(Quantize("Q6_K", Published(256))),
            "d158bf37be25ad048b047bf37ad159d0c941ea63eb74fb741d951ea72fc841c9bf35ad169b048df26be069"
            "d147cf38bd1a922c840d85ed77ff"
            "57d038b04aa22b67df58c139b22aa22b931c85fd76ee57ce5ad137b31a902c830f86ec78ff55d1c841da62"
            "eb63fc840d951ea63fb840c9d129"
            "b30b931c74fe86de67ff47d129b118b1c66cb11b6c861b71c61cb1c76cb22453f9248ef9138ef4538d2452"
            "f9248ed4a209d47e09a37e14a349"
            "d4ae09d77ec863be1463c9147ec923bec463bd1463807f897a867a84877f737d7a81877c89758a");
  EXPECT_EQ(Hex(Quantize("Q4_1", Published(32))), "ab2e40bad0369bf257bd1369ce258ae0469cf258");
  EXPECT_EQ(Hex(Quantize("Q5_0", Published(32))), "402aa4a52d6dc07c38f3bf6b26e2ae5a15d18d49f4c0");
  EXPECT_EQ(Hex(Quantize("IQ4_NL", Published(32))), "ab1ee035acf157ce1369df249be136adf258");
  EXPECT_EQ(Hex(Quantize("MXFP4", Published(32))), "7c6fdb257ec946fea267ec146fda357eb0");
  EXPECT_EQ(Hex(Quantize("NVFP4", Published(64))),
            "202020207fcb45fea956ee0266ed1267dc347fba45ffb956ee0167dd0267dc347fca56fe");
  EXPECT_EQ(Hex(Quantize("Q4_K", Published(256))),
            "de162c22fefffffcfffdfefecfdcfffea0156bc1278cd3489e045ab0167bc2378de349ae056ab1267cd2"
            "389de459af15268ce248ad0459b0157bd1379ce348ae046ac0267bd2379df359be156ac1268c9df359be"
            "157ac1268ce248ad0459b0157bd1379ce348ae046ac0267bd2379df3156ac1268cd2489df459b0157bc1"
            "378ce348ae046ab0267bd2379de359ae156a");
  EXPECT_EQ(Hex(Quantize("Q5_K", Published(256))),
            "8e125322fffdfdfdfffcfeffdfeffdcf326c9936cc9366c9b36499324c9926cc9366c9336c99364c9b66"
            "cdb366d9336c702be7a35f1ad6824d09c5813cf8b46f2be7935e1ad6824d09c5703cf8a36f2b5e1ad591"
            "4d09c4803cf8b36f2be6a25e1ad5914d09c4703cf7b36f2be6a25e1a3be8b36e2be6925e19c5814c08b4"
            "703cf7a36f2ad6925d19c5814c08b4703be71bd7824e0ab5713de9a4602cd8935f1bc6824e0ab5713de9"
            "a4601cd7935f1bc6");
}

TEST(Format, ZeroBlocks) {
  std::vector<uint8_t> q4(18, 0x88);
  q4[0] = 0x00;
  q4[1] = 0x80;  // d = 0 / -8 = -0
  EXPECT_EQ(Quantize("Q4_0", std::vector<float>(32)), q4);
  EXPECT_EQ(Quantize("Q4_0", std::vector<float>(32), "qat"), q4);
  EXPECT_EQ(Quantize("Q8_0", std::vector<float>(32)), std::vector<uint8_t>(34));
  EXPECT_EQ(Quantize("Q6_K", std::vector<float>(256)), std::vector<uint8_t>(210));
  for (const Format* format : AllFormats()) {
    for (const ScaleRule& rule : format->rules) {
      const std::vector<float> zeros(256);
      for (const float x : Dequantize(format->name, Quantize(format->name, zeros, rule.name)))
        EXPECT_EQ(x, 0.0f);
    }
  }
}

// The extremum becomes code 0 (-8) whatever its sign, so it is exact up to the scale's rounding;
// the other end is clipped.
TEST(Format, Q4ExtremumOfEitherSign) {
  for (const float sign : {1.0f, -1.0f}) {
    std::vector<float> x(32, 0.0f);
    x[7] = 4.0f * sign;
    x[9] = -4.0f * sign;
    const std::vector<float> back = Dequantize("Q4_0", Quantize("Q4_0", x));
    EXPECT_EQ(back[7], 4.0f * sign);
    EXPECT_EQ(back[9], -3.5f * sign);
  }
}

TEST(Format, TinyAndHugeMagnitudesStayFinite) {
  for (const Format* format : AllFormats()) {
    for (const float magnitude : {1e-38f, 1e-30f, 1e-7f, 6e4f}) {
      std::vector<float> x = Normal(256, 7, 1.0f);
      for (float& v : x) v = std::clamp(v / 4, -1.0f, 1.0f) * magnitude;
      for (const float v : Dequantize(format->name, Quantize(format->name, x))) {
        EXPECT_TRUE(std::isfinite(v)) << format->name << " " << magnitude;
        EXPECT_LE(std::fabs(v), magnitude * 1.1f + 1e-6f) << format->name << " " << magnitude;
      }
    }
  }
}

// The bound of each row: a block at max_abs is finite; far above it the scale overflows.
TEST(Format, MaxAbs) {
  for (const Format* format : AllFormats()) {
    std::vector<float> x(256, 0.0f);
    x[3] = format->max_abs;
    for (const float v : Dequantize(format->name, Quantize(format->name, x)))
      EXPECT_TRUE(std::isfinite(v)) << format->name;
  }
}

TEST(Format, SixteenBitConversionsEqualTheScalarOnes) {
  std::vector<float> x = Normal(4096, 3, 1.0f);
  for (size_t i = 0; i < x.size(); ++i) x[i] = std::ldexp(x[i], static_cast<int>(i % 64) - 40);
  x[0] = -0.0f;
  x[1] = std::numeric_limits<float>::infinity();
  x[2] = -std::numeric_limits<float>::infinity();
  x[3] = std::numeric_limits<float>::quiet_NaN();
  const std::vector<uint8_t> f16 = Quantize("F16", x), bf16 = Quantize("BF16", x);
  const std::vector<float> from_f16 = Dequantize("F16", f16);
  for (size_t i = 0; i < x.size(); ++i) {
    uint16_t a, b;
    std::memcpy(&a, &f16[2 * i], 2);
    std::memcpy(&b, &bf16[2 * i], 2);
    EXPECT_EQ(a, F16FromF32(x[i]));
    EXPECT_EQ(b, Bf16FromF32(x[i]));
    EXPECT_EQ(std::bit_cast<uint32_t>(from_f16[i]), std::bit_cast<uint32_t>(F32FromF16(a)));
  }
  std::vector<uint8_t> every(2 * 65536);
  for (size_t i = 0; i < 65536; ++i)
    every[2 * i] = static_cast<uint8_t>(i), every[2 * i + 1] = static_cast<uint8_t>(i >> 8);
  const std::vector<float> values = Dequantize("F16", every);
  for (size_t i = 0; i < 65536; ++i) {
    ASSERT_EQ(std::bit_cast<uint32_t>(values[i]),
              std::bit_cast<uint32_t>(F32FromF16(static_cast<uint16_t>(i))))
        << i;
  }
}

// The promise of the qat rule (formats.md 4.2): stored as bf16 and quantized by ggml's rule, codes
// and scales come back.
TEST(Format, QatGridSurvivesBf16AndGgml) {
  const std::vector<float> x = Normal(1000 * 32, 11);
  const std::vector<uint8_t> trained = Quantize("Q4_0", x, "qat");
  const std::vector<float> shipped =
      Dequantize("BF16", Quantize("BF16", Dequantize("Q4_0", trained)));
  EXPECT_EQ(Quantize("Q4_0", shipped), trained);
  EXPECT_NE(Quantize("Q4_0", x), trained);  // the rules differ
}

// The code book of IQ4 by comparison with the borders, against the nearest entry as ggml finds it:
// every float within 2,000 steps of a border and of an entry, and a sweep of all exponents.
TEST(Format, Iq4CodesAreTheNearestEntries) {
  using formats::F8;
  const auto nearest = [](float v) {
    const float* book = formats::kIq4Book;
    if (v <= book[0]) return 0;
    if (v >= book[15]) return 15;
    int k = 0;
    while (v >= book[k + 1]) ++k;
    return v - book[k] < book[k + 1] - v ? k : k + 1;
  };
  std::vector<float> values;
  const auto around = [&](float v) {
    for (int i = -2000; i <= 2000; ++i) {
      const int32_t bits = std::bit_cast<int32_t>(v);
      values.push_back(std::bit_cast<float>(v == 0 ? std::max(i, 0) : bits + i));
    }
  };
  for (int k = 0; k < 15; ++k) around(formats::Iq4Border(k));
  for (const float entry : formats::kIq4Book) around(entry);
  around(0);
  for (int e = -149; e < 128; ++e)
    for (const float m : {1.0f, 1.37f, -1.0f, -1.93f}) values.push_back(std::ldexp(m, e));
  values.resize((values.size() + 7) / 8 * 8, 0.0f);
  for (size_t i = 0; i < values.size(); i += 8) {
    F8 v;
    std::memcpy(&v, &values[i], sizeof(v));
    const formats::I8 codes = formats::Iq4Code(v);
    const F8 entries = formats::Iq4Nearest(v);
    for (size_t k = 0; k < 8; ++k) {
      ASSERT_EQ(codes[k], nearest(values[i + k])) << values[i + k];
      ASSERT_EQ(entries[k], formats::kIq4Book[codes[k]]) << values[i + k];
    }
  }
}

// The plain and the widened quantizers, on values that make scale searches stumble.
TEST(Format, SameBytesForEveryInstructionSet) {
  const Isa before = ActiveIsa();
  for (const Format* format : AllFormats()) {
    for (const ScaleRule& rule : format->rules) {
      // 37 blocks where the format's are small: a tail beside the eight lanes.
      const int64_t n =
          format->block_size == 256 ? 5 * 256 : 37 * std::max<int64_t>(32, format->block_size);
      std::vector<float> x = Normal(n, 17, 1.0f);
      for (size_t i = 0; i < x.size(); ++i) {
        const size_t kind = i / 32 % 7;
        if (kind == 1) x[i] = 0;
        if (kind == 2) x[i] = std::copysign(1.0f, x[i]);
        if (kind == 3) x[i] = std::round(x[i] * 4) / 4;
        if (kind == 4) x[i] *= 1e-39f;
        if (kind == 5) x[i] = std::ldexp(x[i], static_cast<int>(i % 40) - 30);
      }
      std::vector<uint8_t> reference;
      for (const Isa isa : SupportedIsas()) {
        SetIsa(isa);
        const std::vector<uint8_t> bytes = Quantize(format->name, x, rule.name);
        if (reference.empty()) reference = bytes;
        EXPECT_EQ(bytes, reference) << format->name << " " << rule.name << " " << IsaName(isa);
      }
    }
  }
  SetIsa(before);
}

TEST(Format, SameBytesForAnyThreadCount) {
  const int before = Threads();
  const int64_t rows = 67, cols = 1024;
  const std::vector<float> x = Normal(rows * cols, 5);
  for (const Format* format : AllFormats()) {
    std::vector<uint8_t> reference;
    for (const int threads : {1, 2, 3, 7}) {
      SetThreads(threads);
      std::vector<uint8_t> bytes(static_cast<size_t>(rows * FormatBytes(*format, cols)));
      QuantizeRows(*format, format->rules[0], x.data(), rows, cols, bytes.data());
      if (reference.empty()) reference = bytes;
      EXPECT_EQ(bytes, reference) << format->name << " with " << threads << " threads";
      std::vector<float> values(x.size());
      DequantizeRows(*format, bytes.data(), rows, cols, values.data());
      EXPECT_EQ(values, Dequantize(format->name, reference)) << format->name;
    }
  }
  SetThreads(before);
}

TEST(Format, TableLookups) {
  EXPECT_EQ(FindFormat("q4_0"), FindFormat("Q4_0"));
  EXPECT_EQ(FindFormat(14), FindFormat("q6_k"));
  EXPECT_EQ(FindFormat("q3_z"), nullptr);
  EXPECT_EQ(UserName(GetFormat("Q6_K")), "q6_k");
  EXPECT_THROW(GetFormat("int4"), Error);
  EXPECT_THROW(GetScaleRule(GetFormat("F32"), "qat"), Error);
  EXPECT_THROW(FormatBytes(GetFormat("Q4_0"), 33), Error);
  EXPECT_THROW(FormatBytes(GetFormat("Q4_0"), -32), Error);
  EXPECT_THROW(FormatBytes(GetFormat("F64"), INT64_MAX), Error);
  for (size_t i = 1; i < AllFormats().size(); ++i)
    EXPECT_LT(AllFormats()[i - 1]->id, AllFormats()[i]->id);
}

}  // namespace
}  // namespace lapidary
