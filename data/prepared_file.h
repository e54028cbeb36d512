// The HDF5 file of a prepared data set: writing it record by record, reading any record. For .cc
// files of data/.
#ifndef LAPIDARY_DATA_PREPARED_FILE_H_
#define LAPIDARY_DATA_PREPARED_FILE_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "data/media_config.h"
#include "data/sample_source.h"

namespace lapidary {

inline constexpr int64_t kPreparedVersion = 1;  // of the layout

// Appends records to a new file; Finish syncs and renames it to `path`. Not thread-safe; several
// writers may work at once.
class PreparedWriter {
 public:
  // `header` is stored as the attribute "header".
  PreparedWriter(const std::string& path, const std::string& header, const MediaConfig& media,
                 bool compress);
  // Removes an unfinished file.
  ~PreparedWriter();
  void Append(const RecordOutcome& outcome, const std::string& where);
  void Finish();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Const and thread-safe.
class PreparedReader {
 public:
  // Throws Error naming the path for files that are not of this kind or contradict themselves.
  PreparedReader(const std::string& path, const MediaConfig& media);
  ~PreparedReader();
  int64_t records() const;
  int64_t documents() const;
  int64_t tokens() const;
  const std::string& header() const;
  // Throws Error if a checksum does not match.
  RecordOutcome Read(int64_t record) const;
  std::vector<int64_t> Lengths(int64_t record) const;
  // Rows of media of one document.
  int64_t VisionRows(int64_t document) const;
  int64_t AudioRows(int64_t document) const;
  bool broken(int64_t record) const;
  const std::string& Where(int64_t record) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace lapidary

#endif  // LAPIDARY_DATA_PREPARED_FILE_H_
