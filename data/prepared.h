// Prepared data sets: records tokenized, masked, resized and resampled once into one HDF5 file,
// from which training reads the same documents bit for bit without decoding anything.
// data/README.md has the layout; any HDF5 reader opens it.
#ifndef LAPIDARY_DATA_PREPARED_H_
#define LAPIDARY_DATA_PREPARED_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "data/dataset.h"
#include "data/sample.h"
#include "data/sample_source.h"

namespace lapidary {

struct PrepareOptions {
  int threads = 1;        // that build records, each a part of the file at a time
  bool compress = false;  // gzip; media hardly shrink, and inflating costs more than reading
  // Called with the records done and all of them, from any thread, one call at a time.
  std::function<void(int64_t, int64_t)> progress = {};
};

struct PrepareSummary {
  int64_t records = 0, documents = 0, tokens = 0;
  int64_t broken = 0, dropped = 0;
  int64_t resumed = 0;  // records taken from an earlier call that was broken off
  uint64_t bytes = 0;   // of the file
};

// What a prepared file depends on beside its sources: tokenizer, template, media settings, masks
// and policies. Two builders with one fingerprint make the same samples.
nlohmann::ordered_json BuilderFingerprint(const SampleBuilder& builder);

// Writes `path`. Parts of it are kept in the folder `path`.parts until it is whole: a call that was
// broken off goes on with them. Broken records are stored with their error. Throws Error if the
// builder augments (that changes with the epoch), `path` exists, or parts are of other data.
PrepareSummary PrepareDataset(const std::shared_ptr<const Dataset>& dataset,
                              const SampleBuilder& builder, const std::string& path,
                              const PrepareOptions& options);

// Whether the file begins like HDF5.
bool IsPrepared(const std::string& path);

// The documents of a prepared file. Throws Error if it is no such file, is damaged, or was made
// with another fingerprint than `builder` has. Damage to a document shows when it is read
// (checksums), as a broken record.
std::shared_ptr<const SampleSource> OpenPrepared(const std::string& path,
                                                 const SampleBuilder& builder);

}  // namespace lapidary

#endif  // LAPIDARY_DATA_PREPARED_H_
