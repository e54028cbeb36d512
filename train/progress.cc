#include "train/progress.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>

#include "autograd/base/error.h"

namespace lapidary {
namespace {

int Columns(std::FILE* out) {
  winsize size = {};
  if (::ioctl(::fileno(out), TIOCGWINSZ, &size) == 0 && size.ws_col > 0) return size.ws_col;
  return 80;
}

std::string Fixed(double value, int digits) {
  char text[64];
  std::snprintf(text, sizeof(text), "%.*f", digits, value);
  return text;
}

}  // namespace

std::string ClockText(double seconds) {
  if (!(seconds >= 0 && seconds < 1e9)) return "?";
  const int64_t s = static_cast<int64_t>(seconds + 0.5);
  char text[64];
  if (s >= 3600) {
    std::snprintf(text, sizeof(text), "%lld:%02lld:%02lld", static_cast<long long>(s / 3600),
                  static_cast<long long>(s / 60 % 60), static_cast<long long>(s % 60));
  } else {
    std::snprintf(text, sizeof(text), "%lld:%02lld", static_cast<long long>(s / 60),
                  static_cast<long long>(s % 60));
  }
  return text;
}

std::string BytesText(double bytes) {
  if (bytes >= 1e9) return Fixed(bytes * 1e-9, bytes >= 1e10 ? 1 : 2) + " GB";
  if (bytes >= 1e6) return Fixed(bytes * 1e-6, 0) + " MB";
  return Fixed(bytes * 1e-3, 0) + " kB";
}

std::string CountText(int64_t n) {
  const std::string digits = std::to_string(n < 0 ? -n : n);
  std::string text = n < 0 ? "-" : "";
  for (size_t i = 0; i < digits.size(); ++i) {
    if (i > 0 && (digits.size() - i) % 3 == 0) text += ',';
    text += digits[i];
  }
  return text;
}

Progress::Progress(std::FILE* out, std::string label, int64_t total)
    : out_(out),
      label_(std::move(label)),
      total_(std::max<int64_t>(1, total)),
      terminal_(out && ::isatty(::fileno(out)) == 1),
      start_(std::chrono::steady_clock::now()),
      last_(start_) {}

Progress::~Progress() { Finish(); }

void Progress::StartAt(int64_t done) { first_ = done; }

std::string Progress::Bar(int64_t done, const std::string& note, double seconds,
                          int columns) const {
  const double share = std::clamp(static_cast<double>(done) / static_cast<double>(total_), 0., 1.);
  const int64_t fresh = done - first_;
  const double rate = seconds > 0 ? static_cast<double>(fresh) / seconds : 0;
  const double left = rate > 0 ? static_cast<double>(total_ - done) / rate : NAN;
  const std::string text = StrCat(" ", done, "/", total_, "  ", ClockText(seconds), " < ",
                                  ClockText(left), note.empty() ? "" : "  ", note);
  const int width = std::clamp(
      columns - static_cast<int>(label_.size()) - static_cast<int>(text.size()) - 4, 4, 24);
  const int full = static_cast<int>(share * width);
  std::string line = label_ + " [";
  for (int i = 0; i < width; ++i) line += i < full ? '=' : i == full && share > 0 ? '>' : ' ';
  line += "]" + text;
  if (static_cast<int>(line.size()) > columns - 1) {
    line.resize(static_cast<size_t>(std::max(1, columns - 1)));
  }
  return line;
}

void Progress::Update(int64_t done, const std::string& note) {
  if (!out_) return;
  const auto now = std::chrono::steady_clock::now();
  const double seconds = std::chrono::duration<double>(now - start_).count();
  if (terminal_) {
    std::fprintf(out_, "\r\033[K%s", Bar(done, note, seconds, Columns(out_)).c_str());
    std::fflush(out_);
    drawn_ = true;
    return;
  }
  const bool due =
      !printed_ || done >= total_ || std::chrono::duration<double>(now - last_).count() >= 10;
  if (!due) return;
  last_ = now;
  printed_ = true;
  const int64_t fresh = done - first_;
  const double left =
      fresh > 0 ? seconds / static_cast<double>(fresh) * static_cast<double>(total_ - done) : NAN;
  std::fprintf(out_, "%s %lld/%lld, %s left%s%s\n", label_.c_str(), static_cast<long long>(done),
               static_cast<long long>(total_), ClockText(left).c_str(), note.empty() ? "" : ": ",
               note.c_str());
  std::fflush(out_);
}

void Progress::Clear() {
  if (drawn_) std::fputs("\r\033[K", out_);
  drawn_ = false;
}

void Progress::Say(const std::string& line) {
  if (!out_) return;
  Clear();
  std::fprintf(out_, "%s\n", line.c_str());
  std::fflush(out_);
}

void Progress::Finish() {
  if (out_ && drawn_) {
    std::fputs("\n", out_);
    std::fflush(out_);
  }
  drawn_ = false;
}

}  // namespace lapidary
