// The tokenizers of golden/tokenizer, by name, and small helpers of the text tests.
#ifndef LAPIDARY_TESTS_DATA_TEXT_GOLDEN_H_
#define LAPIDARY_TESTS_DATA_TEXT_GOLDEN_H_

#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "autograd/base/error.h"
#include "autograd/base/file.h"
#include "data/tokenizer.h"
#include "tests/golden.h"

namespace lapidary::golden {

// A file's bytes; those ending in .xz are unpacked with the program xz.
inline std::string ReadPacked(const std::string& path) {
  if (!path.ends_with(".xz")) return ReadFile(path);
  std::FILE* pipe = popen(("xz -dc '" + path + "'").c_str(), "r");
  LAPIDARY_CHECK(pipe != nullptr, path, ": xz must run");
  std::string bytes;
  std::vector<char> buffer(1 << 20);
  for (size_t n; (n = std::fread(buffer.data(), 1, buffer.size(), pipe)) > 0;) {
    bytes.append(buffer.data(), n);
  }
  LAPIDARY_CHECK(pclose(pipe) == 0 && !bytes.empty(), path, ": xz must unpack it");
  return bytes;
}

// Files of a folder whose names end in `suffix`, sorted.
inline std::vector<std::string> FilesEndingIn(const std::string& folder,
                                              const std::string& suffix) {
  std::vector<std::string> found;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    const std::string path = entry.path().string();
    if (path.ends_with(suffix)) found.push_back(path);
  }
  std::sort(found.begin(), found.end());
  return found;
}

// The golden tokenizer whose file name begins with `name` ("small", "gemma4"): that of `root` if it
// has one, else the first of all roots; null if there is none.
inline std::unique_ptr<Tokenizer> FindTokenizer(const std::string& name, const std::string& root) {
  std::vector<std::string> roots = {root};
  for (const std::string& other : Roots()) roots.push_back(other);
  for (const std::string& folder : roots) {
    for (const char* suffix : {"-tokenizer.json", "-tokenizer.json.xz"}) {
      const std::string path = folder + "/tokenizer/" + name + suffix;
      if (!std::filesystem::exists(path)) continue;
      return std::make_unique<Tokenizer>(ParseTokenizerJson(ReadPacked(path), path));
    }
  }
  std::printf("absent: tokenizer/%s-tokenizer.json\n", name.c_str());
  return nullptr;
}

}  // namespace lapidary::golden

#endif  // LAPIDARY_TESTS_DATA_TEXT_GOLDEN_H_
