// What containers of media files share: which extension is which kind. For .cc files of data/.
#ifndef LAPIDARY_DATA_ROWS_MEDIA_H_
#define LAPIDARY_DATA_ROWS_MEDIA_H_

#include <string>
#include <string_view>

namespace lapidary {

inline std::string LowerAscii(std::string text) {
  for (char& c : text) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c + 32);
  }
  return text;
}

// "images", "audios" or "videos" by a file's extension in lower case; null for other files.
inline const char* MediaColumnOf(std::string_view extension) {
  for (const std::string_view e : {"png", "jpg", "jpeg", "webp", "gif", "bmp", "tif", "tiff"}) {
    if (e == extension) return "images";
  }
  for (const std::string_view e : {"wav", "flac", "ogg", "opus", "mp3", "aiff", "aif", "oga"}) {
    if (e == extension) return "audios";
  }
  for (const std::string_view e : {"mp4", "webm", "mkv", "avi", "mov", "m4v"}) {
    if (e == extension) return "videos";
  }
  return nullptr;
}

// Whether a member of this name holds the name of a medium.
inline bool IsMediaKey(std::string_view key) {
  for (const std::string_view k :
       {"image", "images", "audio", "audios", "video", "videos", "path", "url", "file_name"}) {
    if (k == key) return true;
  }
  return false;
}

}  // namespace lapidary

#endif  // LAPIDARY_DATA_ROWS_MEDIA_H_
