// Golden data: expected numbers under the roots in LAPIDARY_GOLDEN (colon-separated; default: this
// repository's tests/golden). A root may hold only some of the folders; other shapes, names and
// counts may stand in them. Tests iterate over what they find, print every case with its measured
// error, print what is absent, and fail when no root has a case at all.
#ifndef LAPIDARY_TESTS_GOLDEN_H_
#define LAPIDARY_TESTS_GOLDEN_H_

#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

namespace lapidary::golden {

inline std::vector<std::string> Roots() {
  const char* env = std::getenv("LAPIDARY_GOLDEN");
  std::string list = env && *env ? env : LAPIDARY_SOURCE_DIR "/tests/golden";
  std::vector<std::string> roots;
  for (size_t begin = 0; begin <= list.size();) {
    const size_t end = std::min(list.find(':', begin), list.size());
    if (end > begin) roots.push_back(list.substr(begin, end - begin));
    begin = end + 1;
  }
  return roots;
}

// Files or folders `relative` that exist, one per root at most; prints the roots that lack it.
inline std::vector<std::string> Find(const std::string& relative) {
  std::vector<std::string> found;
  for (const std::string& root : Roots()) {
    const std::string path = root + "/" + relative;
    if (std::filesystem::exists(path)) {
      found.push_back(path);
    } else {
      std::printf("absent: %s\n", path.c_str());
    }
  }
  return found;
}

// The sub-folders of `relative` in all roots, sorted (golden/model/*).
inline std::vector<std::string> FindFolders(const std::string& relative) {
  std::vector<std::string> found;
  for (const std::string& parent : Find(relative)) {
    std::vector<std::string> here;
    for (const auto& entry : std::filesystem::directory_iterator(parent)) {
      if (entry.is_directory()) here.push_back(entry.path().string());
    }
    std::sort(here.begin(), here.end());
    found.insert(found.end(), here.begin(), here.end());
  }
  return found;
}

}  // namespace lapidary::golden

#endif  // LAPIDARY_TESTS_GOLDEN_H_
