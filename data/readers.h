// The table of record formats: how one JSON object becomes a Record (formats.md 8.3). To add one,
// write its two functions and add a row in readers.cc.
#ifndef LAPIDARY_DATA_READERS_H_
#define LAPIDARY_DATA_READERS_H_

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "data/record.h"

namespace lapidary {

// Where a record stands.
struct RecordPlace {
  std::string where;   // "file:line", for messages
  std::string folder;  // relative media paths start here
};

struct RecordFormat {
  const char* name;
  const char* shape;  // one line for the user
  bool (*fits)(const nlohmann::ordered_json& row);
  // Throws Error beginning with place.where.
  Record (*read)(nlohmann::ordered_json row, const RecordPlace& place);
};

// In the order in which they are tried.
const std::vector<RecordFormat>& RecordFormats();

}  // namespace lapidary

#endif  // LAPIDARY_DATA_READERS_H_
