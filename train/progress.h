// The line that a user watches: a bar with rate, time left, loss and memory on a terminal; a plain
// line every so often elsewhere. One thread.
#ifndef LAPIDARY_TRAIN_PROGRESS_H_
#define LAPIDARY_TRAIN_PROGRESS_H_

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <string>

namespace lapidary {

// "1:02:03", "4:05"; "?" for what is not finite.
std::string ClockText(double seconds);
// "1.5 GB", "12 MB".
std::string BytesText(double bytes);
// "1,234,567".
std::string CountText(int64_t n);

class Progress {
 public:
  // `out` null: silent. Bars are drawn only if `out` is a terminal.
  Progress(std::FILE* out, std::string label, int64_t total);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  // `done` of `total`; `note` follows ("loss 1.234 | 812 tok/s"). Where no terminal is: at most one
  // line in ten seconds, and the first and last.
  void Update(int64_t done, const std::string& note);
  // Steps that an earlier run did: they do not count in the rate.
  void StartAt(int64_t done);
  // Prints a line of its own above the bar.
  void Say(const std::string& line);
  void Finish();

  // What Update would draw, `columns` wide (for tests).
  std::string Bar(int64_t done, const std::string& note, double seconds, int columns) const;

 private:
  void Clear();

  std::FILE* out_;
  std::string label_;
  int64_t total_;
  int64_t first_ = 0;
  bool terminal_ = false;
  bool drawn_ = false;
  bool printed_ = false;
  std::chrono::steady_clock::time_point start_, last_;
};

}  // namespace lapidary

#endif  // LAPIDARY_TRAIN_PROGRESS_H_
