// Rows of JSON that a long command writes one by one, so that a call which was broken off goes on
// where it ended. Beside PATH stands PATH.settings.json: what the rows depend on.
#ifndef LAPIDARY_TRAIN_JOURNAL_H_
#define LAPIDARY_TRAIN_JOURNAL_H_

#include <cstdio>
#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <string>

namespace lapidary {

class Journal {
 public:
  // Calls `read` for every row that an earlier call wrote; a line that it did not finish is taken
  // away. Throws Error "PATH: ...; try `other`" if the settings beside are others, a line is no
  // object, or `read` says false.
  Journal(const std::string& path, const nlohmann::ordered_json& settings, const std::string& other,
          const std::function<bool(const nlohmann::ordered_json& row)>& read);
  ~Journal();
  Journal(const Journal&) = delete;
  Journal& operator=(const Journal&) = delete;

  // Written to the file, not held back. Throws Error if the disk is full.
  void Add(const nlohmann::ordered_json& row);
  // Takes both files away, if they are there.
  static void Remove(const std::string& path);

 private:
  const std::string path_;
  std::FILE* file_ = nullptr;
};

}  // namespace lapidary

#endif  // LAPIDARY_TRAIN_JOURNAL_H_
