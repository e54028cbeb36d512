// The table of record formats: how one JSON object becomes a Record (formats.md 8.3). To add one,
// write its two functions and add a row in readers.cc.
#ifndef LAPIDARY_DATA_READERS_H_
#define LAPIDARY_DATA_READERS_H_

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "data/record.h"

namespace lapidary {

// Where a record stands, and what its source says about reading it.
struct RecordPlace {
  std::string where;   // "file:line", for messages
  std::string folder;  // relative media paths start here
  // Whether media may be named by absolute paths, and by relative ones that leave `folder`.
  bool outside = true;
  // What a pair {audio, text} or {image, text} is asked; "": the default of its format.
  std::string prompt = {};
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
// The row of this name; null if there is none.
const RecordFormat* FindRecordFormat(const std::string& name);
// The format that fits most of the rows (of equals the first of the table); null if none fits any.
const RecordFormat* RecognizeFormat(const std::vector<nlohmann::ordered_json>& rows);

// The two sides of a preference pair as conversations or prompts of their own. Throws Error for
// other kinds.
Record ChosenOf(const Record& pair);
Record RejectedOf(const Record& pair);
// The record as a prompt and completion that nobody has judged.
Record WithoutLabel(Record record);

}  // namespace lapidary

#endif  // LAPIDARY_DATA_READERS_H_
