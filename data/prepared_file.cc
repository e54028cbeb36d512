#include "data/prepared_file.h"

#include <fcntl.h>
#include <hdf5.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <mutex>
#include <utility>

#include "autograd/base/error.h"
#include "autograd/base/file.h"

namespace lapidary {
namespace {

constexpr int64_t kVersion = kPreparedVersion;
constexpr uint64_t kMaxElements = uint64_t{1} << 48;
constexpr uint64_t kMaxChunk = uint64_t{1} << 24;

// HDF5 keeps state of the process: one call at a time, whether the library was built for threads or
// not.
std::mutex& Hdf5Mutex() {
  static std::mutex mutex;
  return mutex;
}

class Handle {
 public:
  Handle() = default;
  Handle(hid_t id, herr_t (*close)(hid_t), const std::string& path, const char* what)
      : id_(id), close_(close) {
    LAPIDARY_CHECK(id >= 0, path, ": must be a whole prepared data set; got an error at ", what);
  }
  ~Handle() { Close(); }
  Handle(Handle&& other) noexcept : id_(std::exchange(other.id_, -1)), close_(other.close_) {}
  Handle& operator=(Handle&& other) noexcept {
    Close();
    id_ = std::exchange(other.id_, -1);
    close_ = other.close_;
    return *this;
  }
  operator hid_t() const { return id_; }  // NOLINT: passed to the C interface everywhere
  void Close() {
    if (id_ >= 0) close_(id_);
    id_ = -1;
  }

 private:
  hid_t id_ = -1;
  herr_t (*close_)(hid_t) = nullptr;
};

void Check(bool good, const std::string& path, const char* what) {
  LAPIDARY_CHECK(good, path, ": must be a whole prepared data set; got an error at ", what);
}

// A data set of one or two dimensions: rows of `width` elements.
struct Column {
  const char* name;
  hid_t stored;
  hid_t memory;
};

enum Id {
  kFirst,
  kBroken,
  kWhere,
  kWhereText,
  kNote,
  kNoteText,
  kTokens,
  kVision,
  kAudio,
  kImages,
  kSounds,
  kVideos,
  kChecksum,
  kIds,
  kWeights,
  kTypes,
  kCodes,
  kPositions,
  kVisionPlaces,
  kSamples,
  kAudioPlaces,
  kColumns
};

const Column& ColumnOf(int id) {
  static const Column columns[kColumns] = {
      {"records/first", H5T_STD_I64LE, H5T_NATIVE_INT64},
      {"records/broken", H5T_STD_U8LE, H5T_NATIVE_UINT8},
      {"records/where_end", H5T_STD_I64LE, H5T_NATIVE_INT64},
      {"records/where_text", H5T_STD_U8LE, H5T_NATIVE_UINT8},
      {"records/note_end", H5T_STD_I64LE, H5T_NATIVE_INT64},
      {"records/note_text", H5T_STD_U8LE, H5T_NATIVE_UINT8},
      {"documents/tokens_end", H5T_STD_I64LE, H5T_NATIVE_INT64},
      {"documents/vision_end", H5T_STD_I64LE, H5T_NATIVE_INT64},
      {"documents/audio_end", H5T_STD_I64LE, H5T_NATIVE_INT64},
      {"documents/images", H5T_STD_I64LE, H5T_NATIVE_INT64},
      {"documents/sounds", H5T_STD_I64LE, H5T_NATIVE_INT64},
      {"documents/videos", H5T_STD_I64LE, H5T_NATIVE_INT64},
      {"documents/checksum", H5T_STD_U64LE, H5T_NATIVE_UINT64},
      {"tokens/ids", H5T_STD_I32LE, H5T_NATIVE_INT32},
      {"tokens/weights", H5T_IEEE_F32LE, H5T_NATIVE_FLOAT},
      {"tokens/types", H5T_STD_U8LE, H5T_NATIVE_UINT8},
      {"vision/pixels", H5T_STD_U8LE, H5T_NATIVE_UINT8},
      {"vision/positions", H5T_STD_I32LE, H5T_NATIVE_INT32},
      {"vision/places", H5T_STD_I64LE, H5T_NATIVE_INT64},
      {"audio/samples", H5T_IEEE_F32LE, H5T_NATIVE_FLOAT},
      {"audio/places", H5T_STD_I64LE, H5T_NATIVE_INT64}};
  return columns[id];
}

int64_t WidthOf(int id, const MediaConfig& media) {
  return id == kCodes       ? media.image.features()
         : id == kSamples   ? media.audio.audio_samples_per_token
         : id == kPositions ? 2
                            : 1;
}

// A quick 64-bit sum of everything in a document, in four lanes of words.
class Checksum {
 public:
  void Add(const void* data, size_t bytes) {
    const auto* at = static_cast<const uint8_t*>(data);
    size_t i = 0;
    for (; i + 32 <= bytes; i += 32) {
      for (int lane = 0; lane < 4; ++lane) {
        uint64_t word;
        std::memcpy(&word, at + i + 8 * lane, 8);
        Mix(lane, word);
      }
    }
    for (; i < bytes; ++i) Mix(0, at[i]);
    Mix(1, bytes);
  }
  uint64_t value() const {
    uint64_t all = 0;
    for (const uint64_t lane : lanes_) all = (all ^ lane ^ lane >> 31) * 0x9e3779b97f4a7c15u;
    return all ^ all >> 29;
  }

 private:
  void Mix(int lane, uint64_t word) {
    lanes_[lane] = (lanes_[lane] ^ word) * 0x9e3779b97f4a7c15u;
    lanes_[lane] ^= lanes_[lane] >> 32;
  }
  uint64_t lanes_[4] = {1, 2, 3, 4};
};

// A document as it is stored.
struct Stored {
  std::vector<uint8_t> pixels;
  uint64_t checksum = 0;
};

uint64_t ChecksumOf(const Sample& s, const std::vector<uint8_t>& pixels) {
  Checksum sum;
  sum.Add(s.ids.data(), s.ids.size() * 4);
  sum.Add(s.weights.data(), s.weights.size() * 4);
  sum.Add(s.types.data(), s.types.size());
  sum.Add(pixels.data(), pixels.size());
  sum.Add(s.vision.positions.data(), s.vision.positions.size() * 4);
  sum.Add(s.vision.places.data(), s.vision.places.size() * 8);
  sum.Add(s.audio.rows.data(), s.audio.rows.size() * 4);
  sum.Add(s.audio.places.data(), s.audio.places.size() * 8);
  return sum.value();
}

// The float of every byte, as media.cc makes them.
void PixelValues(const ImageProcessorConfig& config, float* values) {
  for (int i = 0; i < 256; ++i) {
    values[i] = config.divide ? static_cast<float>(i) / 255.0f
                              : static_cast<float>(i) * static_cast<float>(config.rescale_factor);
  }
}

// Syncs a closed file and moves it into place.
void CommitFile(const std::string& temporary, const std::string& path) {
  CallFileHook("sync", path);
  const int fd = ::open(temporary.c_str(), O_RDONLY | O_CLOEXEC);
  const bool synced = fd >= 0 && ::fsync(fd) == 0;
  if (fd >= 0) ::close(fd);
  CallFileHook("rename", path);
  LAPIDARY_CHECK(synced && std::rename(temporary.c_str(), path.c_str()) == 0, path,
                 ": cannot be put into place; got ", std::strerror(errno));
  const std::string folder = std::filesystem::path(path).parent_path().string();
  SyncFolder(folder.empty() ? "." : folder);
}

Handle WithoutTimes(hid_t list, const std::string& path) {
  return Handle(H5Pcreate(list), H5Pclose, path, "properties");
}

}  // namespace

struct PreparedWriter::Impl {
  std::string path, temporary;
  MediaConfig media;
  bool compress = false;
  Handle file;
  Handle sets[kColumns];
  int64_t rows[kColumns] = {};
  int64_t tokens = 0, vision = 0, audio = 0, documents = 0;
  int64_t where_end = 0, note_end = 0;
  bool finished = false;

  void Create(int id) {
    const int64_t width = WidthOf(id, media);
    const int dimensions = width > 1 ? 2 : 1;
    const hsize_t none[2] = {0, static_cast<hsize_t>(width)};
    const hsize_t most[2] = {H5S_UNLIMITED, static_cast<hsize_t>(width)};
    const auto row_bytes = static_cast<int64_t>(H5Tget_size(ColumnOf(id).memory)) * width;
    // Chunks of media as large as a read should be; those of short columns hold a few thousand.
    const int64_t chunk_bytes = id == kCodes || id == kSamples ? 1 << 20
                                : id >= kIds                   ? 1 << 17
                                                               : 1 << 14;
    const hsize_t chunk[2] = {static_cast<hsize_t>(std::max<int64_t>(1, chunk_bytes / row_bytes)),
                              static_cast<hsize_t>(width)};
    const Handle space(H5Screate_simple(dimensions, none, most), H5Sclose, path, "space");
    const Handle list = WithoutTimes(H5P_DATASET_CREATE, path);
    Check(H5Pset_obj_track_times(list, false) >= 0 && H5Pset_chunk(list, dimensions, chunk) >= 0,
          path, "chunks");
    if (compress) {
      Check(H5Pset_shuffle(list) >= 0 && H5Pset_deflate(list, 4) >= 0, path, "gzip");
    }
    const Handle access(H5Pcreate(H5P_DATASET_ACCESS), H5Pclose, path, "cache");
    Check(H5Pset_chunk_cache(access, 521, 4 << 20, 1.0) >= 0, path, "cache");
    sets[id] = Handle(
        H5Dcreate2(file, ColumnOf(id).name, ColumnOf(id).stored, space, H5P_DEFAULT, list, access),
        H5Dclose, path, ColumnOf(id).name);
  }

  template <class T>
  void Put(int id, const std::vector<T>& values) {
    Put(id, values.data(), static_cast<int64_t>(values.size()) / WidthOf(id, media));
  }
  void Put(int id, const void* data, int64_t count) {
    if (count == 0) return;
    const int64_t width = WidthOf(id, media);
    const int dimensions = width > 1 ? 2 : 1;
    const hsize_t size[2] = {static_cast<hsize_t>(rows[id] + count), static_cast<hsize_t>(width)};
    const hsize_t begin[2] = {static_cast<hsize_t>(rows[id]), 0};
    const hsize_t extent[2] = {static_cast<hsize_t>(count), static_cast<hsize_t>(width)};
    Check(H5Dset_extent(sets[id], size) >= 0, path, "writing (is the disk full?)");
    const Handle to(H5Dget_space(sets[id]), H5Sclose, path, "space");
    const Handle from(H5Screate_simple(dimensions, extent, nullptr), H5Sclose, path, "space");
    Check(H5Sselect_hyperslab(to, H5S_SELECT_SET, begin, nullptr, extent, nullptr) >= 0 &&
              H5Dwrite(sets[id], ColumnOf(id).memory, from, to, H5P_DEFAULT, data) >= 0,
          path, "writing (is the disk full?)");
    rows[id] += count;
  }

  Stored Encode(const Sample& sample) const {
    Stored out;
    out.pixels.resize(sample.vision.rows.size());
    const int64_t width = sample.vision.features;
    float values[2][256];
    PixelValues(media.image, values[0]);
    PixelValues(media.video.frame, values[1]);
    for (int64_t r = 0; r < sample.vision.count(); ++r) {
      const float* table = values[sample.types[sample.vision.places[r]] == kVideoToken];
      for (int64_t i = r * width; i < (r + 1) * width; ++i) {
        const float v = sample.vision.rows[i];
        const int code = std::clamp(static_cast<int>(v * 255.0f + 0.5f), 0, 255);
        LAPIDARY_CHECK(table[code] == v, sample.where,
                       ": pixels must be whole bytes to be stored; got ", v);
        out.pixels[i] = static_cast<uint8_t>(code);
      }
    }
    out.checksum = ChecksumOf(sample, out.pixels);
    return out;
  }
};

PreparedWriter::PreparedWriter(const std::string& path, const std::string& header,
                               const MediaConfig& media, bool compress)
    : impl_(std::make_unique<Impl>()) {
  const std::lock_guard<std::mutex> lock(Hdf5Mutex());
  H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
  impl_->path = path;
  impl_->temporary = StrCat(path, ".tmp-", ::getpid());
  impl_->media = media;
  impl_->compress = compress;
  // The newest file format of HDF5 1.10: all that describes the data has checksums of its own.
  const Handle access(H5Pcreate(H5P_FILE_ACCESS), H5Pclose, path, "properties");
  Check(H5Pset_libver_bounds(access, H5F_LIBVER_V110, H5F_LIBVER_V110) >= 0, path, "properties");
  impl_->file =
      Handle(H5Fcreate(impl_->temporary.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, access), H5Fclose,
             path, "creating the file (must be in a folder that can be written)");
  for (const char* group : {"records", "documents", "tokens", "vision", "audio"}) {
    const Handle list = WithoutTimes(H5P_GROUP_CREATE, path);
    H5Pset_obj_track_times(list, false);
    const Handle made(H5Gcreate2(impl_->file, group, H5P_DEFAULT, list, H5P_DEFAULT), H5Gclose,
                      path, group);
  }
  for (int id = 0; id < kColumns; ++id) impl_->Create(id);
  const Handle text(H5Tcopy(H5T_C_S1), H5Tclose, path, "header");
  H5Tset_size(text, std::max<size_t>(1, header.size()));
  H5Tset_cset(text, H5T_CSET_UTF8);
  const Handle scalar(H5Screate(H5S_SCALAR), H5Sclose, path, "header");
  const Handle attribute(H5Acreate2(impl_->file, "header", text, scalar, H5P_DEFAULT, H5P_DEFAULT),
                         H5Aclose, path, "header");
  Check(H5Awrite(attribute, text, header.data()) >= 0, path, "header");
  const Handle version(
      H5Acreate2(impl_->file, "version", H5T_STD_I64LE, scalar, H5P_DEFAULT, H5P_DEFAULT), H5Aclose,
      path, "version");
  Check(H5Awrite(version, H5T_NATIVE_INT64, &kVersion) >= 0, path, "version");
}

PreparedWriter::~PreparedWriter() {
  const std::lock_guard<std::mutex> lock(Hdf5Mutex());
  for (Handle& set : impl_->sets) set.Close();
  impl_->file.Close();
  if (!impl_->finished) std::remove(impl_->temporary.c_str());
}

void PreparedWriter::Append(const RecordOutcome& outcome, const std::string& where) {
  Impl& w = *impl_;
  std::vector<Stored> stored;
  for (const Sample& sample : outcome.samples) stored.push_back(w.Encode(sample));
  const std::lock_guard<std::mutex> lock(Hdf5Mutex());
  for (size_t d = 0; d < outcome.samples.size(); ++d) {
    const Sample& s = outcome.samples[d];
    w.Put(kIds, s.ids);
    w.Put(kWeights, s.weights);
    w.Put(kTypes, s.types);
    w.Put(kCodes, stored[d].pixels);
    w.Put(kPositions, s.vision.positions);
    w.Put(kVisionPlaces, s.vision.places);
    w.Put(kSamples, s.audio.rows);
    w.Put(kAudioPlaces, s.audio.places);
    w.tokens += s.size();
    w.vision += s.vision.count();
    w.audio += s.audio.count();
    ++w.documents;
    w.Put(kTokens, &w.tokens, 1);
    w.Put(kVision, &w.vision, 1);
    w.Put(kAudio, &w.audio, 1);
    w.Put(kImages, &s.images, 1);
    w.Put(kSounds, &s.sounds, 1);
    w.Put(kVideos, &s.videos, 1);
    w.Put(kChecksum, &stored[d].checksum, 1);
  }
  const uint8_t broken = outcome.broken;
  w.where_end += static_cast<int64_t>(where.size());
  w.note_end += static_cast<int64_t>(outcome.note.size());
  w.Put(kFirst, &w.documents, 1);
  w.Put(kBroken, &broken, 1);
  w.Put(kWhere, &w.where_end, 1);
  w.Put(kWhereText, where.data(), static_cast<int64_t>(where.size()));
  w.Put(kNote, &w.note_end, 1);
  w.Put(kNoteText, outcome.note.data(), static_cast<int64_t>(outcome.note.size()));
}

void PreparedWriter::Finish() {
  {
    const std::lock_guard<std::mutex> lock(Hdf5Mutex());
    for (Handle& set : impl_->sets) set.Close();
    Check(H5Fflush(impl_->file, H5F_SCOPE_GLOBAL) >= 0, impl_->path, "writing (is the disk full?)");
    impl_->file.Close();
  }
  CommitFile(impl_->temporary, impl_->path);
  impl_->finished = true;
}

struct PreparedReader::Impl {
  std::string path, header;
  MediaConfig media;
  Handle file;
  Handle sets[kColumns];
  int64_t sizes[kColumns] = {};
  std::vector<int64_t> first, tokens, vision, audio, images, sounds, videos;
  std::vector<uint64_t> checksums;
  std::vector<uint8_t> broken;
  std::vector<std::string> where, notes;
  float values[2][256];

  void Open(int id) {
    const Handle access(H5Pcreate(H5P_DATASET_ACCESS), H5Pclose, path, "cache");
    sets[id] =
        Handle(H5Dopen2(file, ColumnOf(id).name, H5P_DEFAULT), H5Dclose, path, ColumnOf(id).name);
    const Handle list(H5Dget_create_plist(sets[id]), H5Pclose, path, ColumnOf(id).name);
    // Without filters pieces of chunks are read straight into place.
    Check(H5Pset_chunk_cache(access, 521, H5Pget_nfilters(list) > 0 ? 8 << 20 : 0, 1.0) >= 0, path,
          "cache");
    sets[id] = Handle(H5Dopen2(file, ColumnOf(id).name, access), H5Dclose, path, ColumnOf(id).name);
    const Handle space(H5Dget_space(sets[id]), H5Sclose, path, ColumnOf(id).name);
    const Handle type(H5Dget_type(sets[id]), H5Tclose, path, ColumnOf(id).name);
    const int64_t width = WidthOf(id, media);
    hsize_t size[H5S_MAX_RANK] = {};
    const int dimensions = H5Sget_simple_extent_ndims(space);
    Check(dimensions == (width > 1 ? 2 : 1), path, ColumnOf(id).name);
    H5Sget_simple_extent_dims(space, size, nullptr);
    LAPIDARY_CHECK((width == 1 || static_cast<int64_t>(size[1]) == width) &&
                       size[0] < kMaxElements && H5Tequal(type, ColumnOf(id).stored) > 0,
                   path, ": ", ColumnOf(id).name, " must have rows of ", width,
                   " and its documented type; got others");
    // What is not stored would be read as zeros, however much of it there is; gzip shrinks to a
    // thousandth at best. A chunk is inflated whole.
    const uint64_t bytes = size[0] * static_cast<uint64_t>(width) * H5Tget_size(type);
    const uint64_t ratio = H5Pget_nfilters(list) > 0 ? 1100 : 1;
    Check(H5Dget_storage_size(sets[id]) >= bytes / ratio, path, ColumnOf(id).name);
    hsize_t chunk[H5S_MAX_RANK] = {};
    Check(H5Pget_chunk(list, dimensions, chunk) == dimensions, path, ColumnOf(id).name);
    LAPIDARY_CHECK(chunk[0] <= kMaxChunk && chunk[0] * static_cast<uint64_t>(width) <= kMaxChunk &&
                       (width == 1 || chunk[1] <= static_cast<hsize_t>(width)),
                   path, ": ", ColumnOf(id).name, " must have chunks of at most ", kMaxChunk,
                   " numbers; got ", chunk[0], " rows");
    sizes[id] = static_cast<int64_t>(size[0]);
  }

  void Get(int id, int64_t begin, int64_t count, void* out) const {
    if (count == 0) return;
    const int64_t width = WidthOf(id, media);
    const int dimensions = width > 1 ? 2 : 1;
    const hsize_t start[2] = {static_cast<hsize_t>(begin), 0};
    const hsize_t extent[2] = {static_cast<hsize_t>(count), static_cast<hsize_t>(width)};
    const Handle from(H5Dget_space(sets[id]), H5Sclose, path, "space");
    const Handle to(H5Screate_simple(dimensions, extent, nullptr), H5Sclose, path, "space");
    Check(H5Sselect_hyperslab(from, H5S_SELECT_SET, start, nullptr, extent, nullptr) >= 0 &&
              H5Dread(sets[id], ColumnOf(id).memory, to, from, H5P_DEFAULT, out) >= 0,
          path, ColumnOf(id).name);
  }
  template <class T>
  void All(int id, std::vector<T>& out) const {
    out.resize(sizes[id] * WidthOf(id, media));
    Get(id, 0, sizes[id], out.data());
  }
  // Ends of stretches: ascending, the last one the whole.
  void CheckEnds(const std::vector<int64_t>& ends, int64_t whole, const char* what) const {
    int64_t last = 0;
    for (const int64_t end : ends) {
      LAPIDARY_CHECK(end >= last, path, ": ", what, " must ascend; got ", end, " after ", last);
      last = end;
    }
    LAPIDARY_CHECK(last == whole, path, ": ", what, " must end at ", whole, "; got ", last);
  }
  std::vector<std::string> Texts(int ends_id, int text_id) const {
    std::vector<int64_t> ends;
    std::vector<char> text;
    All(ends_id, ends);
    All(text_id, text);
    CheckEnds(ends, static_cast<int64_t>(text.size()), ColumnOf(ends_id).name);
    std::vector<std::string> out;
    int64_t begin = 0;
    for (const int64_t end : ends) {
      out.emplace_back(text.data() + begin, static_cast<size_t>(end - begin));
      begin = end;
    }
    return out;
  }

  Sample Document(int64_t d) const {
    const auto before = [&](const std::vector<int64_t>& ends) { return d == 0 ? 0 : ends[d - 1]; };
    const int64_t t = before(tokens), n = tokens[d] - t;
    const int64_t v = before(vision), nv = vision[d] - v;
    const int64_t a = before(audio), na = audio[d] - a;
    Sample s;
    s.ids.resize(n), s.weights.resize(n), s.types.resize(n);
    std::vector<uint8_t> pixels(nv * WidthOf(kCodes, media));
    s.vision.positions.resize(nv * 2), s.vision.places.resize(nv);
    s.audio.rows.resize(na * WidthOf(kSamples, media)), s.audio.places.resize(na);
    {
      const std::lock_guard<std::mutex> lock(Hdf5Mutex());
      Get(kIds, t, n, s.ids.data());
      Get(kWeights, t, n, s.weights.data());
      Get(kTypes, t, n, s.types.data());
      Get(kCodes, v, nv, pixels.data());
      Get(kPositions, v, nv, s.vision.positions.data());
      Get(kVisionPlaces, v, nv, s.vision.places.data());
      Get(kSamples, a, na, s.audio.rows.data());
      Get(kAudioPlaces, a, na, s.audio.places.data());
    }
    LAPIDARY_CHECK(ChecksumOf(s, pixels) == checksums[d], path, ": document ", d,
                   " must match its checksum; got damaged bytes; try preparing the data again");
    for (const MediaRows* rows : {&s.vision, &s.audio}) {
      for (const int64_t place : rows->places) {
        LAPIDARY_CHECK(place >= 0 && place < n, path, ": document ", d,
                       " must have media at its own tokens; got token ", place, " of ", n);
      }
    }
    s.images = images[d], s.sounds = sounds[d], s.videos = videos[d];
    if (na > 0) s.audio.features = WidthOf(kSamples, media);
    if (nv == 0) return s;
    s.vision.features = WidthOf(kCodes, media);
    s.vision.rows.resize(pixels.size());
    for (int64_t r = 0; r < nv; ++r) {
      const float* table = values[s.types[s.vision.places[r]] == kVideoToken];
      const uint8_t* in = &pixels[r * s.vision.features];
      float* out = &s.vision.rows[r * s.vision.features];
      for (int64_t i = 0; i < s.vision.features; ++i) out[i] = table[in[i]];
    }
    return s;
  }
};

PreparedReader::PreparedReader(const std::string& path, const MediaConfig& media)
    : impl_(std::make_unique<Impl>()) {
  const std::lock_guard<std::mutex> lock(Hdf5Mutex());
  H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
  Impl& r = *impl_;
  r.path = path;
  r.media = media;
  PixelValues(media.image, r.values[0]);
  PixelValues(media.video.frame, r.values[1]);
  r.file = Handle(H5Fopen(path.c_str(), H5F_ACC_RDONLY, H5P_DEFAULT), H5Fclose, path, "opening");
  int64_t version = 0;
  {
    const Handle attribute(H5Aopen(r.file, "version", H5P_DEFAULT), H5Aclose, path, "version");
    const Handle type(H5Aget_type(attribute), H5Tclose, path, "version");
    const Handle space(H5Aget_space(attribute), H5Sclose, path, "version");
    Check(H5Tget_class(type) == H5T_INTEGER && H5Sget_simple_extent_npoints(space) == 1 &&
              H5Aread(attribute, H5T_NATIVE_INT64, &version) >= 0,
          path, "version");
  }
  LAPIDARY_CHECK(version == kVersion, path, ": version must be ", kVersion, "; got ", version,
                 "; try preparing the data again");
  {
    const Handle attribute(H5Aopen(r.file, "header", H5P_DEFAULT), H5Aclose, path, "header");
    const Handle type(H5Aget_type(attribute), H5Tclose, path, "header");
    const Handle space(H5Aget_space(attribute), H5Sclose, path, "header");
    const size_t size = H5Tget_size(type);
    Check(H5Tget_class(type) == H5T_STRING && H5Tis_variable_str(type) == 0 &&
              size < (size_t{1} << 26) && H5Sget_simple_extent_npoints(space) == 1,
          path, "header");
    r.header.resize(size);
    Check(H5Aread(attribute, type, r.header.data()) >= 0, path, "header");
  }
  for (int id = 0; id < kColumns; ++id) r.Open(id);
  r.All(kFirst, r.first);
  r.All(kBroken, r.broken);
  r.All(kTokens, r.tokens);
  r.All(kVision, r.vision);
  r.All(kAudio, r.audio);
  r.All(kImages, r.images);
  r.All(kSounds, r.sounds);
  r.All(kVideos, r.videos);
  r.All(kChecksum, r.checksums);
  r.where = r.Texts(kWhere, kWhereText);
  r.notes = r.Texts(kNote, kNoteText);
  const size_t documents = r.tokens.size(), records = r.first.size();
  Check(r.broken.size() == records && r.where.size() == records && r.notes.size() == records &&
            r.vision.size() == documents && r.audio.size() == documents &&
            r.images.size() == documents && r.sounds.size() == documents &&
            r.videos.size() == documents && r.checksums.size() == documents,
        path, "the numbers of records and documents");
  r.CheckEnds(r.first, static_cast<int64_t>(documents), "records/first");
  r.CheckEnds(r.tokens, r.sizes[kIds], "documents/tokens_end");
  r.CheckEnds(r.vision, r.sizes[kCodes], "documents/vision_end");
  r.CheckEnds(r.audio, r.sizes[kSamples], "documents/audio_end");
  Check(r.sizes[kWeights] == r.sizes[kIds] && r.sizes[kTypes] == r.sizes[kIds] &&
            r.sizes[kPositions] == r.sizes[kCodes] && r.sizes[kVisionPlaces] == r.sizes[kCodes] &&
            r.sizes[kAudioPlaces] == r.sizes[kSamples],
        path, "the numbers of tokens and rows");
}

PreparedReader::~PreparedReader() {
  const std::lock_guard<std::mutex> lock(Hdf5Mutex());
  for (Handle& set : impl_->sets) set.Close();
  impl_->file.Close();
}

int64_t PreparedReader::records() const { return static_cast<int64_t>(impl_->first.size()); }
int64_t PreparedReader::documents() const { return static_cast<int64_t>(impl_->tokens.size()); }
int64_t PreparedReader::tokens() const { return impl_->sizes[kIds]; }
const std::string& PreparedReader::header() const { return impl_->header; }
bool PreparedReader::broken(int64_t record) const { return impl_->broken[record] != 0; }
const std::string& PreparedReader::Where(int64_t record) const { return impl_->where[record]; }

RecordOutcome PreparedReader::Read(int64_t record) const {
  RecordOutcome outcome;
  outcome.note = impl_->notes[record];
  outcome.broken = broken(record);
  for (int64_t d = record == 0 ? 0 : impl_->first[record - 1]; d < impl_->first[record]; ++d) {
    outcome.samples.push_back(impl_->Document(d));
    outcome.samples.back().where = impl_->where[record];
  }
  return outcome;
}

std::vector<int64_t> PreparedReader::Lengths(int64_t record) const {
  std::vector<int64_t> lengths;
  for (int64_t d = record == 0 ? 0 : impl_->first[record - 1]; d < impl_->first[record]; ++d) {
    lengths.push_back(impl_->tokens[d] - (d == 0 ? 0 : impl_->tokens[d - 1]));
  }
  return lengths;
}

int64_t PreparedReader::VisionRows(int64_t document) const {
  return impl_->vision[document] - (document == 0 ? 0 : impl_->vision[document - 1]);
}
int64_t PreparedReader::AudioRows(int64_t document) const {
  return impl_->audio[document] - (document == 0 ? 0 : impl_->audio[document - 1]);
}

}  // namespace lapidary
