#include "train/tensorboard.h"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <ctime>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "autograd/base/error.h"

namespace lapidary {
namespace {

namespace fs = std::filesystem;

constexpr uint32_t kPolynomial = 0x82f63b78;  // Castagnoli's, bits reversed

constexpr std::array<uint32_t, 256> MakeTable() {
  std::array<uint32_t, 256> table{};
  for (uint32_t i = 0; i < 256; ++i) {
    uint32_t c = i;
    for (int bit = 0; bit < 8; ++bit) c = c & 1 ? c >> 1 ^ kPolynomial : c >> 1;
    table[i] = c;
  }
  return table;
}

// Little-endian bytes.
template <class T>
std::string Fixed(T value) {
  std::string out(sizeof(T), '\0');
  std::memcpy(out.data(), &value, sizeof(T));
  return out;
}

uint32_t Masked(std::string_view bytes) {
  const uint32_t c = Crc32c(bytes);
  return (c >> 15 | c << 17) + 0xa282ead8u;
}

// Wire types of protocol buffers.
enum Wire { kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5 };

std::string Varint(uint64_t value) {
  std::string out;
  for (; value >= 0x80; value >>= 7) out += static_cast<char>(value | 0x80);
  return out + static_cast<char>(value);
}
std::string Key(int field, Wire wire) {
  return Varint(static_cast<uint64_t>(field) << 3 | static_cast<uint64_t>(wire));
}
std::string Bytes(int field, std::string_view data) {
  return Key(field, kBytes) + Varint(data.size()) + std::string(data);
}

// Event: wall_time = 1, step = 2, file_version = 3, summary = 5, session_log = 7.
std::string Event(double wall_time, int64_t step) {
  std::string event = Key(1, kFixed64) + Fixed(wall_time);
  if (step != 0) event += Key(2, kVarint) + Varint(static_cast<uint64_t>(step));
  return event;
}

double Now() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

std::string HostName() {
  char name[256] = {};
  if (::gethostname(name, sizeof(name) - 1) != 0 || name[0] == '\0') return "localhost";
  return name;
}

}  // namespace

uint32_t Crc32c(std::string_view bytes) {
  static constexpr std::array<uint32_t, 256> kTable = MakeTable();
  uint32_t c = 0xffffffffu;
  for (const char byte : bytes) c = c >> 8 ^ kTable[(c ^ static_cast<uint8_t>(byte)) & 0xff];
  return c ^ 0xffffffffu;
}

std::string TfRecord(std::string_view data) {
  const std::string length = Fixed(static_cast<uint64_t>(data.size()));
  return length + Fixed(Masked(length)) + std::string(data) + Fixed(Masked(data));
}

std::string VersionEvent(double wall_time) {
  return Event(wall_time, 0) + Bytes(3, "brain.Event:2");
}

std::string SessionStartEvent(double wall_time, int64_t step) {
  constexpr uint64_t kStart = 1;  // SessionLog: status = 1
  return Event(wall_time, step) + Bytes(7, Key(1, kVarint) + Varint(kStart));
}

std::string ScalarsEvent(double wall_time, int64_t step, const Scalars& scalars) {
  std::string summary;  // Summary: value = 1; Value: tag = 1, simple_value = 2
  for (const auto& [tag, value] : scalars) {
    summary += Bytes(1, Bytes(1, tag) + Key(2, kFixed32) + Fixed(static_cast<float>(value)));
  }
  return Event(wall_time, step) + Bytes(5, summary);
}

Scalars ScalarsOf(const nlohmann::ordered_json& line) {
  constexpr std::string_view kEval = "eval_";
  Scalars scalars;
  for (const auto& [key, value] : line.items()) {
    if (!value.is_number() || key == "step") continue;
    scalars.emplace_back(
        key.rfind(kEval, 0) == 0 ? "eval/" + key.substr(kEval.size()) : "train/" + key,
        value.get<double>());
  }
  return scalars;
}

EventWriter::EventWriter(const std::string& folder, int64_t step) {
  std::error_code failed;
  fs::create_directories(folder, failed);
  const double now = Now();
  for (int n = 0; fd_ < 0; ++n) {
    char seconds[32];
    std::snprintf(seconds, sizeof(seconds), "%010lld", static_cast<long long>(now));
    path_ =
        StrCat(folder, "/events.out.tfevents.", seconds, ".", HostName(), ".", ::getpid(), ".", n);
    fd_ = ::open(path_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC, 0644);
    LAPIDARY_CHECK(fd_ >= 0 || errno == EEXIST, path_, ": cannot be created; got ",
                   std::strerror(errno));
  }
  Append(VersionEvent(now));
  if (step > 0) Append(SessionStartEvent(now, step + 1));
}

EventWriter::~EventWriter() { ::close(fd_); }

void EventWriter::Add(const nlohmann::ordered_json& line) {
  const Scalars scalars = ScalarsOf(line);
  if (!scalars.empty()) Append(ScalarsEvent(Now(), line.value("step", int64_t{0}), scalars));
}

void EventWriter::Append(const std::string& data) {
  const std::string record = TfRecord(data);
  for (size_t done = 0; done < record.size();) {
    const ssize_t n = ::write(fd_, record.data() + done, record.size() - done);
    if (n < 0 && errno == EINTR) continue;
    LAPIDARY_CHECK(n >= 0, path_, ": cannot write; got ", std::strerror(errno),
                   errno == ENOSPC ? "; try freeing disk space" : "");
    done += static_cast<size_t>(n);
  }
}

std::string EventFolder(const std::string& logging_dir, const std::string& output_dir,
                        bool resumed) {
  if (!logging_dir.empty()) return logging_dir;
  const std::string runs = output_dir + "/runs";
  std::error_code none;
  if (resumed && fs::is_directory(runs, none)) {
    std::string newest;
    fs::file_time_type when = fs::file_time_type::min();
    for (const auto& entry : fs::directory_iterator(runs, none)) {
      if (!entry.is_directory() || entry.last_write_time() < when) continue;
      when = entry.last_write_time();
      newest = entry.path().string();
    }
    if (!newest.empty()) return newest;
  }
  const std::time_t now = std::time(nullptr);
  std::tm local = {};
  ::localtime_r(&now, &local);
  char date[64];
  std::strftime(date, sizeof(date), "%b%d_%H-%M-%S", &local);
  return StrCat(runs, "/", date, "_", HostName());
}

}  // namespace lapidary
