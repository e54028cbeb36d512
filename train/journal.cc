#include "train/journal.h"

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "autograd/base/error.h"
#include "autograd/base/file.h"

namespace lapidary {

using Json = nlohmann::ordered_json;

namespace {

std::string Beside(const std::string& path) { return path + ".settings.json"; }

void ReadRows(const std::string& path, const std::string& other,
              const std::function<bool(const Json&)>& read) {
  const std::string all = ReadFile(path);
  const size_t whole = all.rfind('\n') + 1;  // 0 if there is none
  for (size_t begin = 0; begin < whole;) {
    const size_t end = all.find('\n', begin);
    const std::string line = all.substr(begin, end - begin);
    const Json row = Json::parse(line, nullptr, false);
    LAPIDARY_CHECK(row.is_object() && read(row), path, ": lines must be answers; got ",
                   line.substr(0, 60), "; try ", other);
    begin = end + 1;
  }
  if (whole != all.size()) WriteFile(path, all.substr(0, whole));
}

}  // namespace

Journal::Journal(const std::string& path, const Json& settings, const std::string& other,
                 const std::function<bool(const Json&)>& read)
    : path_(path) {
  const std::string text = settings.dump(1, ' ', false, Json::error_handler_t::replace) + "\n";
  if (std::filesystem::exists(path)) {
    LAPIDARY_CHECK(std::filesystem::exists(Beside(path)) && ReadFile(Beside(path)) == text, path,
                   ": must hold answers of the same model, data and settings; got others (",
                   Beside(path), "); try ", other);
    ReadRows(path, other, read);
  } else {
    WriteFile(Beside(path), text);
    WriteFile(path, "");
  }
  file_ = std::fopen(path.c_str(), "ab");
  LAPIDARY_CHECK(file_, path, ": cannot open; got ", std::strerror(errno));
}

Journal::~Journal() {
  if (file_) std::fclose(file_);
}

void Journal::Add(const Json& row) {
  const std::string line = row.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
  LAPIDARY_CHECK(
      std::fwrite(line.data(), 1, line.size(), file_) == line.size() && std::fflush(file_) == 0,
      path_, ": cannot write; got ", std::strerror(errno), "; try freeing disk space");
}

void Journal::Remove(const std::string& path) {
  std::error_code ignored;
  std::filesystem::remove(path, ignored);
  std::filesystem::remove(Beside(path), ignored);
}

}  // namespace lapidary
