// WebDataset shards: a tar file (plain or compressed) in which files that share a name up to its
// first dot make one row: 0001.jpg + 0001.json. `.json` gives the columns, `.txt` the text;
// pictures, sounds and clips stand where the JSON names them, else in the columns images, audios
// and videos. Nothing is unpacked to disk, so names cannot point anywhere.
#include <archive.h>
#include <archive_entry.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <utility>

#include "autograd/base/error.h"
#include "autograd/base/random.h"
#include "data/json.h"
#include "data/media.h"
#include "data/rows.h"
#include "data/rows_media.h"
#include "data/spool.h"

namespace lapidary {
namespace {

using Json = nlohmann::ordered_json;
using Archive = std::unique_ptr<archive, int (*)(archive*)>;

struct Member {
  std::string name;  // of the file, without its folders
  std::string extension;
  std::string_view bytes;
};

class TarRows : public RowSource {
 public:
  explicit TarRows(const std::string& path) : file_(SpooledFile::Open(path)) {
    const std::string_view bytes = file_->bytes();
    const Archive a(archive_read_new(), archive_read_free);
    LAPIDARY_CHECK(a != nullptr, path, ": must have memory; got none");
    archive_read_support_format_tar(a.get());
    archive_read_support_format_gnutar(a.get());
    LAPIDARY_CHECK(archive_read_open_memory(a.get(), bytes.data(), bytes.size()) == ARCHIVE_OK,
                   path, ": must be a tar file; got ", Reason(a.get()));
    std::map<std::string, size_t> index;
    for (archive_entry* entry = nullptr;;) {
      const int status = archive_read_next_header(a.get(), &entry);
      if (status == ARCHIVE_EOF) break;
      LAPIDARY_CHECK(status == ARCHIVE_OK || status == ARCHIVE_WARN, path,
                     ": must be a whole tar file; got broken data (", Reason(a.get()), ")");
      if (archive_entry_filetype(entry) != AE_IFREG) continue;
      Add(a.get(), entry, index);
    }
    LAPIDARY_CHECK(!rows_.empty(), path, ": must hold files; got none");
  }

  int64_t size() const override { return static_cast<int64_t>(rows_.size()); }
  std::string Where(int64_t row) const override {
    return StrCat(file_->path(), ":", rows_[row].key);
  }
  std::string folder() const override { return ""; }
  uint64_t Fingerprint() const override {
    uint64_t hash = static_cast<uint64_t>(size());
    for (const Row& row : rows_) {
      hash = MixFingerprint(hash, HashName(row.key));
      for (const Member& member : row.members) hash = MixFingerprint(hash, member.bytes.size());
    }
    return hash;
  }

  Json Read(int64_t index) const override {
    const Row& row = rows_[index];
    const std::string where = Where(index);
    Json object = Json::object();
    for (const Member& member : row.members) {
      if (member.extension == "json") {
        Json value = ParseJson(member.bytes, where);
        LAPIDARY_CHECK(value.is_object(), where, ": ", member.name,
                       " must hold a JSON object; got ", DumpJson(value).substr(0, 40));
        object.update(value);
      } else if (member.extension == "txt") {
        object["text"] = std::string(member.bytes);
      }
    }
    int64_t named = 0;
    Resolve(object, "", row, named);
    if (named > 0) return object;
    for (const Member& member : row.members) {
      const char* column = MediaColumnOf(member.extension);
      if (column == nullptr) continue;
      Json cell = {{"bytes", RawBytes(member.bytes)}, {"path", member.name}};
      object[column].push_back(std::move(cell));
    }
    return object;
  }

 private:
  struct Row {
    std::string key;
    std::vector<Member> members;
  };

  static std::string Reason(archive* a) {
    const char* text = archive_error_string(a);
    return text == nullptr ? "something else" : text;
  }

  void Add(archive* a, archive_entry* entry, std::map<std::string, size_t>& index) {
    const char* raw = archive_entry_pathname(entry);
    const std::string name = raw == nullptr ? "" : raw;
    const size_t slash = name.rfind('/');
    const size_t base = slash == std::string::npos ? 0 : slash + 1;
    const size_t dot = name.find('.', base);
    if (dot == std::string::npos || dot == base) return;  // no kind, or a hidden file
    const int64_t size = archive_entry_size(entry);
    LAPIDARY_CHECK(size >= 0 && static_cast<uint64_t>(size) <= kMaxMediaBytes, file_->path(), ": ",
                   name, " may have at most ", kMaxMediaBytes, " bytes; got ", size);
    // The reader hands out pieces of the mapped file itself.
    const char* begin = nullptr;
    int64_t have = 0;
    for (;;) {
      const void* block = nullptr;
      size_t length = 0;
      la_int64_t offset = 0;
      const int status = archive_read_data_block(a, &block, &length, &offset);
      if (status == ARCHIVE_EOF) break;
      LAPIDARY_CHECK(status == ARCHIVE_OK, file_->path(), ": ", name,
                     " must be whole; got broken data (", Reason(a), ")");
      if (length == 0) continue;
      const char* piece = static_cast<const char*>(block);
      if (begin == nullptr) begin = piece;
      LAPIDARY_CHECK(offset == have && piece == begin + have && Inside(piece, length),
                     file_->path(), ": ", name, " must be stored in one piece; got a sparse file");
      have += static_cast<int64_t>(length);
    }
    LAPIDARY_CHECK(have == size, file_->path(), ": ", name, " must have ", size, " bytes; got ",
                   have);
    const std::string key = name.substr(0, dot);
    const auto [found, fresh] = index.try_emplace(key, rows_.size());
    if (fresh) rows_.push_back({key, {}});
    const size_t last = name.rfind('.');
    rows_[found->second].members.push_back(
        {name.substr(base), LowerAscii(name.substr(last + 1)), {begin, static_cast<size_t>(size)}});
  }

  bool Inside(const char* piece, size_t length) const {
    const std::string_view all = file_->bytes();
    return piece >= all.data() && piece + length <= all.data() + all.size();
  }

  // Puts the bytes of members in the place of their names, where media are named.
  static void Resolve(Json& value, std::string_view key, const Row& row, int64_t& named) {
    if (value.is_object()) {
      for (auto& [inner, child] : value.items()) Resolve(child, inner, row, named);
    } else if (value.is_array()) {
      for (Json& child : value) Resolve(child, key, row, named);
    } else if (value.is_string() && IsMediaKey(key)) {
      const std::string& name = value.get_ref<const std::string&>();
      for (const Member& member : row.members) {
        if (member.name != name.substr(name.rfind('/') + 1)) continue;
        value = RawBytes(member.bytes);
        ++named;
        return;
      }
    }
  }

  std::shared_ptr<const SpooledFile> file_;
  std::vector<Row> rows_;
};

}  // namespace

std::unique_ptr<RowSource> OpenTar(const std::string& path) {
  return std::make_unique<TarRows>(path);
}

}  // namespace lapidary
