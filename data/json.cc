#include "data/json.h"

#include <charconv>
#include <cmath>
#include <nlohmann/json.hpp>
#include <utility>

#include "autograd/base/error.h"
#include "data/json_builder.h"
#include "data/unicode.h"

namespace lapidary {
namespace {

using Json = nlohmann::ordered_json;

struct Sax {
  JsonBuilder builder;
  std::string error;

  bool null() { return builder.Value(nullptr); }
  bool boolean(bool v) { return builder.Value(v); }
  bool number_integer(int64_t v) { return builder.Value(v); }
  bool number_unsigned(uint64_t v) { return builder.Value(v); }
  bool number_float(double v, const std::string& text) { return builder.Float(v, text); }
  bool string(std::string& v) { return builder.Value(std::move(v)); }
  bool binary(std::vector<uint8_t>&) { return false; }
  bool start_object(size_t) { return builder.Start(Json::object()); }
  bool key(std::string& v) { return builder.Key(std::move(v)); }
  bool end_object() { return builder.End(); }
  bool start_array(size_t) { return builder.Start(Json::array()); }
  bool end_array() { return builder.End(); }
  bool parse_error(size_t position, const std::string&, const nlohmann::detail::exception& e) {
    // "[json.exception.parse_error.101] parse error at line 1, column 5: syntax error ..."
    const std::string_view what = e.what();
    const size_t column = what.find(": ");
    error = StrCat("byte ", position, ": ",
                   column == std::string_view::npos ? what : what.substr(column + 2));
    return false;
  }
};

// The text of a binary value: an integer's digits, or how many raw bytes there are.
std::string BigDigits(const Json& value) {
  if (IsRawBytes(value)) return StrCat("<", value.get_binary().size(), " bytes>");
  const auto& bytes = value.get_binary();
  std::string digits(bytes.begin(), bytes.end());
  const size_t sign = digits[0] == '-' ? 1 : 0;
  const size_t first = std::min(digits.find_first_not_of('0', sign), digits.size() - 1);
  return digits.substr(0, sign) + digits.substr(first);
}

// repr(float): the shortest digits that read back equal; exponent form below 1e-4 and from 1e16.
std::string PythonFloat(double v) {
  if (std::isnan(v)) return "nan";
  if (std::isinf(v)) return v < 0 ? "-inf" : "inf";
  char buffer[40];
  const auto end = std::to_chars(buffer, buffer + sizeof buffer, v, std::chars_format::scientific);
  std::string text(buffer, end.ptr);  // [-]d[.ddd]e[+-]xx
  std::string out;
  if (text[0] == '-') {
    out = "-";
    text.erase(0, 1);
  }
  const size_t e = text.find('e');
  const int exponent = std::atoi(text.c_str() + e + 1);
  std::string digits = text.substr(0, 1);
  if (e > 2) digits += text.substr(2, e - 2);
  const int count = static_cast<int>(digits.size());
  if (exponent < -4 || exponent >= 16) {
    out += digits.substr(0, 1);
    if (count > 1) out += "." + digits.substr(1);
    const int magnitude = std::abs(exponent);
    out += StrCat("e", exponent < 0 ? "-" : "+", magnitude < 10 ? "0" : "", magnitude);
  } else if (exponent < 0) {
    out += "0." + std::string(-exponent - 1, '0') + digits;
  } else if (count <= exponent + 1) {
    out += digits + std::string(exponent + 1 - count, '0') + ".0";
  } else {
    out += digits.substr(0, exponent + 1) + "." + digits.substr(exponent + 1);
  }
  return out;
}

// Whether repr() shows a character above U+007F as it is (the common non-printable blocks of
// Unicode).
bool IsPrintable(uint32_t v) {
  return !(v < 0xa1 || v == 0xad || v == 0x1680 || (v >= 0x2000 && v <= 0x200f) ||
           (v >= 0x2028 && v <= 0x202f) || (v >= 0x205f && v <= 0x206f) || v == 0x3000 ||
           (v >= 0xe000 && v <= 0xf8ff) || v == 0xfeff || (v >= 0xfff0 && v <= 0xfffb) ||
           (v & 0xfffe) == 0xfffe || v >= 0xe0000);
}

std::string PythonRepr(const std::string& text) {
  const char quote =
      text.find('\'') != std::string::npos && text.find('"') == std::string::npos ? '"' : '\'';
  std::string out(1, quote);
  for (size_t i = 0; i < text.size();) {
    const CodePoint c = DecodeUtf8(text.data() + i, text.size() - i);
    i += c.length;
    char hex[16];
    if (c.value == static_cast<uint32_t>(quote) || c.value == '\\') {
      out += '\\';
      out += static_cast<char>(c.value);
    } else if (c.value == '\n') {
      out += "\\n";
    } else if (c.value == '\r') {
      out += "\\r";
    } else if (c.value == '\t') {
      out += "\\t";
    } else if (c.value >= 0x20 && (c.value < 0x7f || (c.value > 0x7f && IsPrintable(c.value)))) {
      AppendUtf8(out, c.value);
    } else {
      const char* format = c.value < 0x100 ? "\\x%02x" : c.value < 0x10000 ? "\\u%04x" : "\\U%08x";
      std::snprintf(hex, sizeof hex, format, c.value);
      out += hex;
    }
  }
  return out + quote;
}

std::string Repr(const Json& value) {
  return value.is_string() ? PythonRepr(value.get_ref<const std::string&>()) : PythonStr(value);
}

}  // namespace

Json ParseJson(std::string_view text, const std::string& where) {
  Sax sax;
  if (!Json::sax_parse(text.begin(), text.end(), &sax)) {
    throw Error(
        StrCat(where, ": must be JSON; got ", sax.error.empty() ? sax.builder.error : sax.error));
  }
  return std::move(sax.builder.root);
}

Json RawBytes(std::string_view bytes) {
  return Json::binary({bytes.begin(), bytes.end()}, kRawBytes);
}

bool IsRawBytes(const Json& value) {
  return value.is_binary() && value.get_binary().has_subtype() &&
         value.get_binary().subtype() == kRawBytes;
}

std::string_view GetRawBytes(const Json& value) {
  const auto& bytes = value.get_binary();
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

bool IsJsonInteger(const Json& value) {
  return value.is_number_integer() || (value.is_binary() && !IsRawBytes(value));
}

std::string PythonStr(const Json& value) {
  switch (value.type()) {
    case Json::value_t::null:
      return "None";
    case Json::value_t::boolean:
      return value.get<bool>() ? "True" : "False";
    case Json::value_t::string:
      return value.get<std::string>();
    case Json::value_t::number_float:
      return PythonFloat(value.get<double>());
    case Json::value_t::binary:
      return BigDigits(value);
    case Json::value_t::array: {
      std::string out = "[";
      for (const Json& item : value) out += (out.size() > 1 ? ", " : "") + Repr(item);
      return out + "]";
    }
    case Json::value_t::object: {
      std::string out = "{";
      for (const auto& [key, item] : value.items()) {
        out += (out.size() > 1 ? ", " : "") + PythonRepr(key) + ": " + Repr(item);
      }
      return out + "}";
    }
    default:
      return value.dump();
  }
}

std::string DumpJson(const Json& value) {
  if (value.is_binary()) return BigDigits(value);
  if (value.is_array()) {
    std::string out = "[";
    for (const Json& item : value) out += (out.size() > 1 ? "," : "") + DumpJson(item);
    return out + "]";
  }
  if (value.is_object()) {
    std::string out = "{";
    for (const auto& [key, item] : value.items()) {
      out += (out.size() > 1 ? "," : "") + Json(key).dump() + ":" + DumpJson(item);
    }
    return out + "}";
  }
  return value.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace lapidary
