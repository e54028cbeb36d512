// Rows in text files: JSON Lines, a JSON array, CSV and TSV. The file is scanned once for where its
// rows begin and end; a row is parsed when it is read.
#include <algorithm>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <utility>

#include "autograd/base/error.h"
#include "autograd/base/random.h"
#include "data/json.h"
#include "data/rows.h"
#include "data/spool.h"
#include "data/unicode.h"

namespace lapidary {
namespace {

using Json = nlohmann::ordered_json;

bool IsBlank(std::string_view text) {
  return text.find_first_not_of(" \t\r\n") == std::string_view::npos;
}

struct Span {
  int64_t begin = 0;
  int64_t end = 0;
  int64_t line = 1;  // where it begins, from 1
};

// What the text containers share.
class TextRows : public RowSource {
 public:
  explicit TextRows(const std::string& path) : file_(SpooledFile::Open(path)) {
    text_ = file_->bytes();
    if (text_.starts_with("\xef\xbb\xbf")) text_.remove_prefix(3);  // byte order mark
    LAPIDARY_CHECK(!text_.starts_with("\xff\xfe") && !text_.starts_with("\xfe\xff"), path,
                   ": text must be UTF-8; got UTF-16; try converting it with iconv");
  }
  int64_t size() const override { return static_cast<int64_t>(rows_.size()); }
  std::string Where(int64_t row) const override {
    return StrCat(file_->path(), ":", rows_[row].line);
  }
  std::string folder() const override {
    return std::filesystem::path(file_->path()).parent_path().string();
  }
  uint64_t Fingerprint() const override {
    uint64_t hash = static_cast<uint64_t>(size());
    for (const Span& row : rows_) {
      hash = MixFingerprint(hash, static_cast<uint64_t>(row.end - row.begin));
    }
    for (const int64_t i : {int64_t{0}, size() / 2, size() - 1}) {
      if (size() > 0) hash = (hash ^ HashName(Text(i))) * 0x100000001b3u;
    }
    return hash;
  }

 protected:
  std::string_view Text(int64_t row) const {
    return text_.substr(rows_[row].begin, rows_[row].end - rows_[row].begin);
  }
  Json ReadJson(int64_t row) const {
    const std::string where = Where(row);
    Json value = ParseJson(Text(row), where);
    LAPIDARY_CHECK(value.is_object(), where, ": must be a JSON object; got ",
                   DumpJson(value).substr(0, 40));
    return value;
  }

  std::shared_ptr<const SpooledFile> file_;
  std::string_view text_;
  std::vector<Span> rows_;
};

class JsonLines : public TextRows {
 public:
  explicit JsonLines(const std::string& path) : TextRows(path) {
    const auto size = static_cast<int64_t>(text_.size());
    int64_t begin = 0;
    for (int64_t line = 1; begin < size; ++line) {
      const void* found =
          std::memchr(text_.data() + begin, '\n', static_cast<size_t>(size - begin));
      const int64_t end = found == nullptr ? size : static_cast<const char*>(found) - text_.data();
      if (!IsBlank(text_.substr(begin, end - begin))) rows_.push_back({begin, end, line});
      begin = end + 1;
    }
  }
  Json Read(int64_t row) const override { return ReadJson(row); }
};

// [ {...}, {...} ]: the elements are found by their brackets, strings aside.
class JsonArray : public TextRows {
 public:
  explicit JsonArray(const std::string& path) : TextRows(path) {
    size_t at = text_.find_first_not_of(" \t\r\n");
    LAPIDARY_CHECK(at != std::string_view::npos && text_[at] == '[', path,
                   ": must be a JSON list of objects; got something else");
    int64_t line = 1 + std::count(text_.begin(), text_.begin() + static_cast<int64_t>(at), '\n');
    int64_t depth = 1;
    bool in_string = false, closed = false;
    Span row = {-1, 0, 0};
    const auto finish = [&](size_t end) {
      if (row.begin < 0) return;
      row.end = static_cast<int64_t>(end);
      rows_.push_back(row);
      row.begin = -1;
    };
    for (++at; at < text_.size() && !closed; ++at) {
      const char c = text_[at];
      if (c == '\n') ++line;
      if (in_string) {
        if (c == '\\') {
          ++at;
        } else if (c == '"') {
          in_string = false;
        }
        continue;
      }
      const bool space = c == ' ' || c == '\t' || c == '\r' || c == '\n';
      if (depth == 1 && (c == ',' || c == ']')) {
        finish(at);
      } else if (row.begin < 0 && !space) {
        row = {static_cast<int64_t>(at), 0, line};
      }
      if (c == '"') in_string = true;
      if (c == '[' || c == '{') ++depth;
      if (c == ']' || c == '}') closed = --depth == 0;
    }
    LAPIDARY_CHECK(closed && IsBlank(text_.substr(at)), path, ": must be one whole JSON list; got ",
                   closed ? "more text behind it" : "the end of the file in it");
  }
  Json Read(int64_t row) const override { return ReadJson(row); }
};

// RFC 4180: fields quoted where they hold the separator, quotes or line feeds; the first row names
// the columns.
class Csv : public TextRows {
 public:
  Csv(const std::string& path, char separator) : TextRows(path), separator_(separator) {
    Scan();
    LAPIDARY_CHECK(!rows_.empty(), path, ": must begin with the names of its columns; got none");
    names_ = Fields(0);
    rows_.erase(rows_.begin());
    for (size_t i = 0; i < names_.size(); ++i) {
      for (size_t j = 0; j < i; ++j) {
        LAPIDARY_CHECK(names_[i] != names_[j], path, ":1: columns must have different names; got '",
                       names_[i], "' twice");
      }
    }
  }
  Json Read(int64_t row) const override {
    std::vector<std::string> fields = Fields(row);
    LAPIDARY_CHECK(fields.size() == names_.size(), Where(row), ": must have ", names_.size(),
                   " fields, as the first line; got ", fields.size());
    Json object = Json::object();
    for (size_t i = 0; i < fields.size(); ++i) {
      LAPIDARY_CHECK(IsUtf8(fields[i]), Where(row), ": text must be UTF-8; got other bytes in '",
                     names_[i], "'");
      object[names_[i]] = std::move(fields[i]);
    }
    return object;
  }

 private:
  // Walks over text: what a character is depends on those before it.
  class Walk {
   public:
    explicit Walk(char separator) : separator_(separator) {}
    enum class Is { kText, kQuote, kEscaped, kSeparator, kLineEnd };
    // `next` is the character behind, 0 at the end. A quote counts where a field begins with it.
    Is operator()(char c, char next) {
      if (escaped_) {
        escaped_ = false;
        return Is::kText;
      }
      if (quoted_) {
        if (c != '"') return Is::kText;
        escaped_ = next == '"';
        quoted_ = escaped_;
        return escaped_ ? Is::kEscaped : Is::kQuote;
      }
      const bool first = std::exchange(start_, false);
      if (first && c == '"') {
        quoted_ = true;
        return Is::kQuote;
      }
      if (c != separator_ && c != '\n') return Is::kText;
      start_ = true;
      return c == '\n' ? Is::kLineEnd : Is::kSeparator;
    }
    bool quoted() const { return quoted_; }

   private:
    const char separator_;
    bool start_ = true, quoted_ = false, escaped_ = false;
  };

  void Scan() {
    Walk walk(separator_);
    int64_t line = 1;
    Span row;
    const auto size = static_cast<int64_t>(text_.size());
    const auto finish = [&](int64_t end) {
      row.end = end;
      if (!IsBlank(text_.substr(row.begin, row.end - row.begin))) rows_.push_back(row);
    };
    for (int64_t at = 0; at < size; ++at) {
      const bool ends = walk(text_[at], at + 1 < size ? text_[at + 1] : '\0') == Walk::Is::kLineEnd;
      line += text_[at] == '\n';
      if (!ends) continue;
      finish(at);
      row = {at + 1, 0, line};
    }
    LAPIDARY_CHECK(!walk.quoted(), file_->path(), ":", row.line,
                   ": a quoted field must end; got the end of the file in it");
    if (row.begin < size) finish(size);
  }

  std::vector<std::string> Fields(int64_t row) const {
    std::string_view text = Text(row);
    if (text.ends_with('\r')) text.remove_suffix(1);
    std::vector<std::string> fields(1);
    Walk walk(separator_);
    for (size_t i = 0; i < text.size(); ++i) {
      const Walk::Is is = walk(text[i], i + 1 < text.size() ? text[i + 1] : '\0');
      if (is == Walk::Is::kText) fields.back() += text[i];
      if (is == Walk::Is::kSeparator) fields.emplace_back();
    }
    return fields;
  }

  const char separator_;
  std::vector<std::string> names_;
};

}  // namespace

std::unique_ptr<RowSource> OpenJsonLines(const std::string& path) {
  return std::make_unique<JsonLines>(path);
}
std::unique_ptr<RowSource> OpenJsonArray(const std::string& path) {
  return std::make_unique<JsonArray>(path);
}
std::unique_ptr<RowSource> OpenCsv(const std::string& path) {
  return std::make_unique<Csv>(path, ',');
}
std::unique_ptr<RowSource> OpenTsv(const std::string& path) {
  return std::make_unique<Csv>(path, '\t');
}

}  // namespace lapidary
