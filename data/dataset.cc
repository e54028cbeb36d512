#include "data/dataset.h"

#include <glob.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <utility>

#include "autograd/base/error.h"
#include "autograd/base/random.h"
#include "data/json.h"
#include "data/readers.h"
#include "data/rows.h"
#include "data/rows_media.h"

namespace lapidary {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

// Records that are looked at to tell the format.
constexpr int64_t kProbed = 16;
constexpr int64_t kMaxEpoch = int64_t{1} << 40;

std::string KnownShapes() {
  std::string shapes;
  for (const RecordFormat& format : RecordFormats()) {
    shapes += StrCat(shapes.empty() ? "" : ", ", format.name, " ", format.shape);
  }
  return shapes;
}

std::string Keys(const Json& row) {
  std::string keys;
  for (const auto& [key, value] : row.items()) {
    keys += (keys.empty() ? "" : ", ") + key;
    if (keys.size() > 80) return keys + ", ...";
  }
  return keys;
}

bool IsShard(const std::string& path) {
  const std::string name = PlainName(path);
  for (const char* extension :
       {".parquet", ".arrow", ".jsonl", ".json", ".csv", ".tsv", ".tar", ".tgz"}) {
    if (name.ends_with(extension)) return true;
  }
  return false;
}

// A folder of shards, unless it has metadata or media of its own.
std::vector<std::string> ShardsOf(const std::string& folder) {
  std::vector<std::string> shards;
  for (const auto& entry : fs::directory_iterator(folder)) {
    if (!entry.is_regular_file()) continue;
    const std::string name = entry.path().filename().string();
    if (name == "metadata.jsonl" || name == "metadata.csv") return {};
    // What `datasets` writes beside its shards.
    if (name == "dataset_info.json" || name == "state.json" || name == "dataset_dict.json") {
      continue;
    }
    if (IsShard(name)) shards.push_back(entry.path().string());
  }
  std::sort(shards.begin(), shards.end());
  return shards;
}

std::vector<std::string> Expand(const std::string& path) {
  std::error_code ignored;
  if (fs::is_directory(path, ignored)) {
    const std::vector<std::string> shards = ShardsOf(path);
    return shards.empty() ? std::vector<std::string>{path} : shards;
  }
  if (path.find_first_of("*?") == std::string::npos || fs::exists(path, ignored)) return {path};
  glob_t found = {};
  std::vector<std::string> paths;
  if (::glob(path.c_str(), 0, nullptr, &found) == 0) {
    paths.assign(found.gl_pathv, found.gl_pathv + found.gl_pathc);
  }
  ::globfree(&found);
  LAPIDARY_CHECK(!paths.empty(), path, ": a pattern must match files; got none");
  return paths;
}

// Reads columns under the names that the format knows.
void Rename(const SourceSpec& spec, const std::string& where, Json& row) {
  for (const auto& [known, theirs] : spec.columns) {
    if (known == theirs) continue;
    const auto found = row.find(theirs);
    LAPIDARY_CHECK(found != row.end(), where, ": must have the column '", theirs, "' (columns.",
                   known, "); got ", Keys(row));
    Json value = std::move(*found);
    row.erase(theirs);
    row[known] = std::move(value);
  }
}

}  // namespace

std::shared_ptr<const Dataset> Dataset::Open(const std::vector<std::string>& paths,
                                             const DatasetOptions& options) {
  std::vector<SourceSpec> sources;
  for (const std::string& path : paths) sources.push_back({.path = path});
  return Open(sources, options);
}

std::shared_ptr<const Dataset> Dataset::Open(const std::vector<SourceSpec>& sources,
                                             const DatasetOptions& options) {
  LAPIDARY_CHECK(!sources.empty(), "data set: there must be at least one file; got none");
  std::shared_ptr<Dataset> dataset(new Dataset);
  dataset->options_ = options;
  for (const SourceSpec& spec : sources) dataset->Add(spec);
  LAPIDARY_CHECK(dataset->size() > 0, sources[0].path, ": must have at least one record; got ",
                 sources.size(), " source(s) without any");
  dataset->InheritFormats();
  dataset->ResolveWeights();
  return dataset;
}

void Dataset::Add(const SourceSpec& spec) {
  LAPIDARY_CHECK(spec.repeat > 0 && spec.repeat <= 1e6, spec.path,
                 ": repeat must be above 0 and at most 1e6; got ", spec.repeat);
  LAPIDARY_CHECK(spec.weight >= 0 && spec.weight <= 1e6, spec.path,
                 ": weight must be from 0 to 1e6; got ", spec.weight);
  LAPIDARY_CHECK(spec.max_samples >= 0, spec.path, ": max_samples must be at least 0; got ",
                 spec.max_samples);
  const auto source = std::make_shared<Source>();
  source->spec = spec;
  const auto index = static_cast<int32_t>(sources_.size());
  const int64_t first = size();
  const int64_t most = spec.max_samples > 0 ? first + spec.max_samples : kMaxEpoch;
  for (const std::string& path : Expand(spec.path)) {
    if (size() >= most) break;
    source->rows.push_back(OpenRows(path, spec.container));
    const int64_t rows = source->rows.back()->size();
    for (int64_t r = 0; r < rows && size() < most; ++r) {
      entries_.push_back({index, static_cast<int32_t>(source->rows.size() - 1), r});
    }
  }
  sources_.push_back(source);
  repeats_.push_back(spec.repeat);
  if (size() > first) ChooseFormat(*source, first);
}

void Dataset::ChooseFormat(Source& source, int64_t first) {
  const std::string name = source.spec.format == "auto" ? options_.format : source.spec.format;
  if (name != "auto") {
    source.format = FindRecordFormat(name);
    std::string known = "auto";
    for (const RecordFormat& format : RecordFormats()) known += StrCat(" ", format.name);
    LAPIDARY_CHECK(source.format != nullptr, "data set: format must be one of ", known, "; got '",
                   name, "'");
    return;
  }
  std::vector<Json> rows;
  std::string first_error;
  int64_t first_row = -1;
  for (int64_t i = first; i < std::min(size(), first + kProbed); ++i) {
    try {
      rows.push_back(ReadRow(i));
      if (first_row < 0) first_row = i;
    } catch (const Error& e) {
      if (first_error.empty()) first_error = e.what();
    }
  }
  if (rows.empty()) {
    source.unreadable = first_error;
    return;
  }
  source.format = RecognizeFormat(rows);
  LAPIDARY_CHECK(source.format != nullptr, Where(first_row), ": a record must be one of ",
                 KnownShapes(), "; got an object with the keys ", Keys(rows[0]),
                 "; try naming the columns (columns) or the format");
}

// A source that begins with broken rows is taken for what the first readable one is.
void Dataset::InheritFormats() {
  const RecordFormat* known = nullptr;
  for (const auto& source : sources_) {
    if (known == nullptr) known = source->format;
  }
  for (const auto& source : sources_) {
    if (source->format != nullptr || source->unreadable.empty()) continue;
    LAPIDARY_CHECK(known != nullptr, source->unreadable,
                   "; try a file with one JSON object a line");
    source->format = known;
  }
}

void Dataset::ResolveWeights() {
  double sum = 0;
  for (const auto& source : sources_) sum += source->spec.weight;
  if (sum == 0) return;
  const std::vector<Share> shares = Shares();
  for (size_t s = 0; s < sources_.size(); ++s) {
    const SourceSpec& spec = sources_[s]->spec;
    LAPIDARY_CHECK(spec.weight > 0 && shares[s].records > 0, spec.path,
                   ": all sources or none must have a weight and records; got one without");
    LAPIDARY_CHECK(spec.repeat == 1, spec.path, ": must have a weight or a repeat; got both");
    repeats_[s] =
        spec.weight / sum * static_cast<double>(size()) / static_cast<double>(shares[s].records);
  }
}

std::vector<Dataset::Share> Dataset::Shares() const {
  std::vector<Share> shares(sources_.size());
  for (size_t s = 0; s < shares.size(); ++s) shares[s].repeat = repeats_[s];
  for (const Entry& entry : entries_) ++shares[entry.source].records;
  return shares;
}

namespace {

// How many records of a share an epoch takes as copies of all, and how many as a sample.
std::pair<int64_t, int64_t> Parts(const Dataset::Share& share) {
  const double whole = std::floor(share.repeat);
  const double rest = (share.repeat - whole) * static_cast<double>(share.records);
  return {static_cast<int64_t>(whole), static_cast<int64_t>(std::llround(rest))};
}

void Shuffle(const RandomKey& key, std::vector<int64_t>& list) {
  for (int64_t i = static_cast<int64_t>(list.size()) - 1; i > 0; --i) {
    std::swap(list[i], list[RandomBelow(key, i, static_cast<uint64_t>(i) + 1)]);
  }
}

// `count` of [0, n), ascending.
std::vector<int64_t> Draw(const RandomKey& key, int64_t n, int64_t count) {
  std::vector<int64_t> all(n);
  for (int64_t i = 0; i < n; ++i) all[i] = i;
  Shuffle(key, all);
  all.resize(count);
  std::sort(all.begin(), all.end());
  return all;
}

}  // namespace

std::vector<int64_t> EpochOrder(const std::vector<Dataset::Share>& shares, uint64_t seed,
                                int64_t epoch, bool shuffle) {
  std::vector<int64_t> order;
  int64_t first = 0;
  for (size_t s = 0; s < shares.size(); ++s) {
    const auto [copies, sampled] = Parts(shares[s]);
    for (int64_t copy = 0; copy < copies; ++copy) {
      for (int64_t i = 0; i < shares[s].records; ++i) order.push_back(first + i);
    }
    if (sampled > 0) {
      const RandomKey key = {seed, static_cast<uint64_t>(epoch), HashName(StrCat("mixture", s))};
      for (const int64_t i : Draw(key, shares[s].records, sampled)) order.push_back(first + i);
    }
    first += shares[s].records;
  }
  if (shuffle) {
    Shuffle({seed, static_cast<uint64_t>(epoch), HashName(std::string("order"))}, order);
  }
  return order;
}

std::vector<int64_t> Dataset::Order(uint64_t seed, int64_t epoch, bool shuffle) const {
  return EpochOrder(Shares(), seed, epoch, shuffle);
}

int64_t Dataset::EpochSize() const {
  int64_t total = 0;
  for (const Share& share : Shares()) {
    const auto [copies, sampled] = Parts(share);
    total += copies * share.records + sampled;
  }
  LAPIDARY_CHECK(total > 0, "data set: an epoch must have records; got none; try a larger repeat");
  LAPIDARY_CHECK(total < kMaxEpoch, "data set: an epoch may have at most 2^40 records; got ",
                 total);
  return total;
}

std::pair<std::shared_ptr<const Dataset>, std::shared_ptr<const Dataset>> Dataset::Split(
    double held_out, uint64_t seed) const {
  LAPIDARY_CHECK(held_out > 0 && held_out < 1,
                 "data set: the share held out must be in (0, 1); got ", held_out);
  const int64_t count = std::max<int64_t>(1, std::llround(held_out * static_cast<double>(size())));
  LAPIDARY_CHECK(count < size(), "data set: a split must leave records to train on; got ", size(),
                 " records and ", count, " held out");
  const RandomKey key = {seed, 0, HashName(std::string("split"))};
  const std::vector<int64_t> held = Draw(key, size(), count);
  std::shared_ptr<Dataset> rest(new Dataset(*this)), part(new Dataset(*this));
  rest->entries_.clear();
  part->entries_.clear();
  part->repeats_.assign(repeats_.size(), 1.0);
  size_t next = 0;
  for (int64_t i = 0; i < size(); ++i) {
    const bool out = next < held.size() && held[next] == i;
    next += out;
    (out ? part : rest)->entries_.push_back(entries_[i]);
  }
  return {rest, part};
}

std::string Dataset::format() const {
  std::string names;
  for (const auto& source : sources_) {
    if (source->format == nullptr) continue;
    const std::string name = source->format->name;
    if (names.find(name) == std::string::npos) names += (names.empty() ? "" : ", ") + name;
  }
  return names;
}

std::string Dataset::Describe() const {
  const std::vector<Share> shares = Shares();
  std::string out;
  for (size_t s = 0; s < sources_.size(); ++s) {
    const RecordFormat* format = sources_[s]->format;
    out +=
        StrCat(s > 0 ? ", " : "", sources_[s]->spec.path, " (",
               format != nullptr ? format->name : "no format", ", ", shares[s].records, " records");
    if (shares[s].repeat != 1) out += StrCat(", x ", shares[s].repeat);
    out += ")";
  }
  return out;
}

std::string Dataset::Where(int64_t index) const {
  const Entry& entry = entries_[index];
  return sources_[entry.source]->rows[entry.rows]->Where(entry.row);
}

Json Dataset::ReadRow(int64_t index) const {
  LAPIDARY_CHECK(index >= 0 && index < size(), "data set: a record must be in [0, ", size(),
                 "); got ", index);
  const Entry& entry = entries_[index];
  const Source& source = *sources_[entry.source];
  const RowSource& rows = *source.rows[entry.rows];
  Json row = rows.Read(entry.row);
  if (!source.spec.columns.empty()) Rename(source.spec, rows.Where(entry.row), row);
  return row;
}

Record Dataset::Read(int64_t index) const {
  Json row = ReadRow(index);
  const Entry& entry = entries_[index];
  const Source& source = *sources_[entry.source];
  RecordPlace place;
  place.where = Where(index);
  place.folder = source.rows[entry.rows]->folder();
  place.outside = options_.allow_outside_paths;
  place.prompt = source.spec.prompt;
  return source.format->read(std::move(row), place);
}

uint64_t Dataset::Fingerprint() const {
  uint64_t hash = static_cast<uint64_t>(size());
  for (const auto& source : sources_) {
    for (const auto& rows : source->rows) hash = MixFingerprint(hash, rows->Fingerprint());
  }
  for (const Share& share : Shares()) {
    hash = MixFingerprint(hash, static_cast<uint64_t>(share.records));
    hash = MixFingerprint(hash, static_cast<uint64_t>(share.repeat * 1e6));
  }
  // Which rows a split has left.
  for (const Entry& entry : entries_) hash = MixFingerprint(hash, static_cast<uint64_t>(entry.row));
  return hash;
}

}  // namespace lapidary
