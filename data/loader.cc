#include "data/loader.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <map>
#include <mutex>
#include <nlohmann/json.hpp>
#include <thread>
#include <utility>

#include "autograd/base/error.h"

namespace lapidary {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kCursorVersion = 2;

// What became of one record of the order.
struct Outcome {
  int64_t record = 0;
  RecordOutcome built;
};

int64_t BytesOf(const Outcome& outcome) {
  int64_t bytes = 0;
  for (const Sample& sample : outcome.built.samples) bytes += sample.bytes();
  return bytes;
}

// Builds the records of the order ahead of their use, on its own threads, each as soon as there is
// room.
class Builders {
 public:
  Builders(const SampleSource& source, int64_t epoch_size, const LoaderOptions& options,
           int64_t first)
      : source_(source),
        epoch_size_(epoch_size),
        options_(options),
        shares_(source.Shares()),
        next_(first),
        wanted_(first) {
    if (options.epochs > 0) end_ = options.epochs * epoch_size;
    for (int i = 0; i < options.threads; ++i) {
      threads_.emplace_back([this] { Work(); });
    }
  }
  ~Builders() {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      stop_ = true;
    }
    changed_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }

  // The outcome of ticket `ticket` (epoch * records + position); each is taken once, in order.
  Outcome Take(int64_t ticket) {
    std::unique_lock<std::mutex> lock(mutex_);
    wanted_ = ticket;
    changed_.notify_all();
    changed_.wait(lock, [&] { return done_.contains(ticket); });
    Outcome outcome = std::move(done_.at(ticket));
    done_.erase(ticket);
    bytes_ -= BytesOf(outcome);
    wanted_ = ticket + 1;
    changed_.notify_all();
    return outcome;
  }

 private:
  void Work() {
    std::unique_lock<std::mutex> lock(mutex_);
    while (true) {
      // The record that is wanted next is built whatever the others take.
      changed_.wait(lock, [&] {
        return stop_ ||
               (next_ < end_ && (next_ == wanted_ || (next_ < wanted_ + options_.prefetch &&
                                                      bytes_ < options_.prefetch_bytes)));
      });
      if (stop_) return;
      const int64_t ticket = next_++;
      Outcome outcome;
      outcome.record = RecordOf(ticket);
      lock.unlock();
      outcome.built = source_.Build(outcome.record, ticket / epoch_size_);
      lock.lock();
      bytes_ += BytesOf(outcome);
      done_.emplace(ticket, std::move(outcome));
      changed_.notify_all();
    }
  }

  // Called with the lock held. Tickets come in order, so at most two epochs are in use.
  int64_t RecordOf(int64_t ticket) {
    const int64_t epoch = ticket / epoch_size_;
    if (epoch != epoch_) {
      order_ = EpochOrder(shares_, options_.seed, epoch, options_.shuffle);
      epoch_ = epoch;
    }
    return order_[ticket % epoch_size_];
  }

  const SampleSource& source_;
  const int64_t epoch_size_;
  const LoaderOptions& options_;
  const std::vector<Dataset::Share> shares_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<int64_t, Outcome> done_;
  int64_t next_;    // ticket that is built next
  int64_t wanted_;  // ticket that is taken next
  int64_t end_ = int64_t{1} << 62;
  int64_t bytes_ = 0;
  int64_t epoch_ = -1;
  std::vector<int64_t> order_;
  bool stop_ = false;
  std::vector<std::thread> threads_;
};

// The oldest document and those nearest to it in length, as many as a micro-batch takes.
std::vector<size_t> Nearest(const std::vector<int64_t>& sizes, const LoaderOptions& options) {
  std::vector<size_t> near(sizes.size());
  for (size_t i = 0; i < near.size(); ++i) near[i] = i;
  const auto distance = [&](size_t i) { return std::abs(sizes[i] - sizes[0]); };
  std::stable_sort(near.begin() + 1, near.end(),
                   [&](size_t a, size_t b) { return distance(a) < distance(b); });
  std::vector<size_t> chosen;
  int64_t tokens = 0;
  for (const size_t i : near) {
    if (static_cast<int64_t>(chosen.size()) == options.batch_size) break;
    if (options.max_tokens > 0 && !chosen.empty() && tokens + sizes[i] > options.max_tokens) break;
    tokens += sizes[i];
    chosen.push_back(i);
  }
  return chosen;
}

// Which of the waiting documents make the next micro-batch. `sizes` are their tokens, oldest first;
// `full` says that no more can be asked for. Returns indices in the order in which they are laid
// out, or nothing if more documents should come first.
std::vector<size_t> Choose(const std::vector<int64_t>& sizes, bool full,
                           const LoaderOptions& options) {
  std::vector<size_t> chosen;
  if (sizes.empty()) return chosen;
  if (!full && (options.packing || options.group_by_length) &&
      static_cast<int64_t>(sizes.size()) < options.pack_window) {
    return chosen;
  }
  if (options.group_by_length && !options.packing) return Nearest(sizes, options);
  if (!options.packing) {
    int64_t tokens = 0;
    for (size_t i = 0; i < sizes.size() && static_cast<int64_t>(i) < options.batch_size; ++i) {
      if (options.max_tokens > 0 && i > 0 && tokens + sizes[i] > options.max_tokens) {
        return chosen;  // the next one does not fit: this is all
      }
      tokens += sizes[i];
      chosen.push_back(i);
    }
    if (full || static_cast<int64_t>(chosen.size()) == options.batch_size) return chosen;
    return {};
  }
  // The oldest one, so that none waits for ever, then always the longest that still fits.
  chosen.push_back(0);
  int64_t room = options.max_tokens - sizes[0];
  std::vector<bool> taken(sizes.size(), false);
  while (true) {
    size_t best = 0;
    for (size_t i = 1; i < sizes.size(); ++i) {
      if (!taken[i] && sizes[i] <= room && (best == 0 || sizes[i] > sizes[best])) best = i;
    }
    if (best == 0) return chosen;
    taken[best] = true;
    room -= sizes[best];
    chosen.push_back(best);
  }
}

void Check(const LoaderOptions& o) {
  LAPIDARY_CHECK(o.batch_size >= 1, "batch_size: must be at least 1; got ", o.batch_size);
  LAPIDARY_CHECK(o.max_tokens >= 0, "max_tokens: must be at least 0; got ", o.max_tokens);
  LAPIDARY_CHECK(!o.packing || o.max_tokens > 0,
                 "packing: max_tokens must say how long a packed run may be; got 0");
  LAPIDARY_CHECK(o.pack_window >= 1 && o.pack_window <= 4096,
                 "pack_window: must be from 1 to 4096; got ", o.pack_window);
  LAPIDARY_CHECK(o.prefetch >= 1, "prefetch: must be at least 1; got ", o.prefetch);
  LAPIDARY_CHECK(o.threads >= 1 && o.threads <= 256, "threads: must be from 1 to 256; got ",
                 o.threads);
  LAPIDARY_CHECK(o.epochs >= 0 && o.epochs <= 1'000'000'000, "epochs: must be from 0 to 1e9; got ",
                 o.epochs);
}

}  // namespace

class Loader::Impl {
 public:
  Impl(std::shared_ptr<const SampleSource> source, LoaderOptions options, const Json* cursor)
      : source_(std::move(source)),
        options_(std::move(options)),
        epoch_size_(EpochSizeOf(source_->Shares())),
        fingerprint_(source_->Fingerprint()) {
    Check(options_);
    if (cursor != nullptr) Restore(*cursor);
    builders_ = std::make_unique<Builders>(*source_, epoch_size_, options_, ticket_);
  }

  std::optional<Batch> Next() {
    const int64_t n = epoch_size_;
    while (true) {
      const int64_t epoch = Epoch();
      if (options_.epochs > 0 && epoch >= options_.epochs) return std::nullopt;
      const bool full = ticket_ >= (epoch + 1) * n;
      std::vector<int64_t> sizes;
      for (const Waiting& waiting : waiting_) sizes.push_back(waiting.sample.size());
      const std::vector<size_t> chosen = Choose(sizes, full, options_);
      if (!chosen.empty()) return Emit(chosen, epoch);
      if (full) {
        LAPIDARY_CHECK(in_epoch_ > 0, source_->Where(0),
                       ": the data set must have a record that can be used; got ", n,
                       " records, none of them usable");
        ++finished_;
        in_epoch_ = 0;
        continue;
      }
      const int64_t ticket = ticket_++;
      const auto asked = std::chrono::steady_clock::now();
      Outcome outcome = builders_->Take(ticket);
      waited_ += std::chrono::steady_clock::now() - asked;
      Receive(std::move(outcome), ticket % n);
    }
  }

  Json Cursor() const {
    Json waiting = Json::array();
    for (const Waiting& w : waiting_) waiting.push_back({w.position, w.part});
    return {{"version", kCursorVersion},   {"records", epoch_size_},
            {"fingerprint", fingerprint_}, {"seed", options_.seed},
            {"shuffle", options_.shuffle}, {"epoch", Epoch()},
            {"ticket", ticket_},           {"waiting", waiting},
            {"used", in_epoch_},           {"skipped", skipped_}};
  }

  int64_t BatchesInEpoch(int64_t epoch) {
    const int64_t n = epoch_size_;
    const bool simple = !options_.packing && options_.max_tokens == 0 &&
                        options_.on_error == OnError::kStop && source_->OneEach();
    if (simple) return (n + options_.batch_size - 1) / options_.batch_size;
    if (lengths_.empty()) {
      for (int64_t i = 0; i < source_->size(); ++i) lengths_.push_back(source_->Measure(i));
    }
    std::vector<int64_t> sizes;
    int64_t batches = 0;
    const std::vector<int64_t> order =
        EpochOrder(source_->Shares(), options_.seed, epoch, options_.shuffle);
    for (int64_t next = 0;;) {
      const std::vector<size_t> chosen = Choose(sizes, next == n, options_);
      if (!chosen.empty()) {
        ++batches;
        Remove(sizes, chosen);
      } else if (next < n) {
        for (const int64_t length : lengths_[order[next++]]) sizes.push_back(length);
      } else {
        return batches;
      }
    }
  }

  int64_t skipped() const { return skipped_; }
  double wait_seconds() const { return std::chrono::duration<double>(waited_).count(); }
  double utilization() const {
    const auto room = static_cast<double>(batches_ * options_.max_tokens);
    return room > 0 ? static_cast<double>(tokens_) / room : 0;
  }

 private:
  struct Waiting {
    int64_t position;  // in the order of the epoch
    int64_t part;      // of the documents of its record
    int64_t record;
    Sample sample;
  };

  int64_t Epoch() const { return finished_; }

  template <class T>
  static void Remove(std::vector<T>& list, std::vector<size_t> chosen) {
    std::sort(chosen.begin(), chosen.end(), std::greater<>());
    for (const size_t i : chosen) list.erase(list.begin() + static_cast<int64_t>(i));
  }

  void Receive(Outcome outcome, int64_t position) {
    RecordOutcome& built = outcome.built;
    if (built.broken && options_.on_error == OnError::kStop) throw Error(built.note);
    if (!built.note.empty() && options_.report) {
      options_.report({source_->Where(outcome.record),
                       built.broken ? built.note + "; record skipped" : built.note});
    }
    if (built.samples.empty()) ++skipped_;
    for (size_t part = 0; part < built.samples.size(); ++part) {
      waiting_.push_back(
          {position, static_cast<int64_t>(part), outcome.record, std::move(built.samples[part])});
    }
  }

  static int64_t EpochSizeOf(const std::vector<Dataset::Share>& shares) {
    return static_cast<int64_t>(EpochOrder(shares, 0, 0, false).size());
  }

  Batch Emit(const std::vector<size_t>& chosen, int64_t epoch) {
    Batch batch;
    batch.epoch = epoch;
    for (const size_t i : chosen) batch.Add(waiting_[i].sample, waiting_[i].record);
    Remove(waiting_, chosen);
    in_epoch_ += static_cast<int64_t>(chosen.size());
    ++batches_;
    tokens_ += batch.size();
    return batch;
  }

  void Restore(const Json& cursor) {
    const auto number = [&](const char* key) {
      const bool good = cursor.is_object() && cursor.contains(key) &&
                        cursor[key].is_number_integer() &&
                        (cursor[key].is_number_unsigned() || cursor[key].get<int64_t>() >= 0);
      LAPIDARY_CHECK(good, "data cursor: must have the number '", key, "'; got ",
                     cursor.dump().substr(0, 80));
      return cursor[key].get<uint64_t>();
    };
    const auto same = [&](const char* key, uint64_t ours) {
      LAPIDARY_CHECK(number(key) == ours, "data cursor: ", key,
                     " must be that of the run that is resumed; got ", ours, " for ", number(key),
                     "; try the same data and options");
    };
    same("version", kCursorVersion);
    same("records", static_cast<uint64_t>(epoch_size_));
    same("fingerprint", fingerprint_);
    same("seed", options_.seed);
    LAPIDARY_CHECK(cursor.value("shuffle", !options_.shuffle) == options_.shuffle,
                   "data cursor: shuffle must be that of the run that is resumed");
    const int64_t n = epoch_size_;
    finished_ = static_cast<int64_t>(number("epoch"));
    ticket_ = static_cast<int64_t>(number("ticket"));
    in_epoch_ = static_cast<int64_t>(number("used"));
    skipped_ = static_cast<int64_t>(number("skipped"));
    LAPIDARY_CHECK(finished_ < (int64_t{1} << 40) && ticket_ / n >= finished_ &&
                       ticket_ <= (finished_ + 1) * n && cursor.contains("waiting") &&
                       cursor["waiting"].is_array(),
                   "data cursor: must be what a run has saved; got ", cursor.dump().substr(0, 80));
    const std::vector<int64_t> order =
        EpochOrder(source_->Shares(), options_.seed, finished_, options_.shuffle);
    for (const Json& entry : cursor["waiting"]) {
      const bool pair = entry.is_array() && entry.size() == 2 && entry[0].is_number_integer() &&
                        entry[1].is_number_integer();
      const int64_t position = pair ? entry[0].get<int64_t>() : -1;
      const int64_t part = pair ? entry[1].get<int64_t>() : -1;
      LAPIDARY_CHECK(position >= 0 && position < n && part >= 0,
                     "data cursor: waiting must hold positions and parts; got ", entry.dump());
      const int64_t record = order[position];
      RecordOutcome built = source_->Build(record, finished_);
      LAPIDARY_CHECK(part < static_cast<int64_t>(built.samples.size()),
                     "data cursor: a waiting record must give its documents again; got ",
                     built.note);
      waiting_.push_back({position, part, record, std::move(built.samples[part])});
    }
  }

  std::shared_ptr<const SampleSource> source_;
  LoaderOptions options_;
  const int64_t epoch_size_;
  uint64_t fingerprint_;
  int64_t finished_ = 0;  // epochs
  int64_t ticket_ = 0;    // next record, counted over all epochs
  int64_t in_epoch_ = 0;  // documents used in this epoch
  int64_t skipped_ = 0;
  std::vector<Waiting> waiting_;               // received, not yet in a micro-batch
  std::vector<std::vector<int64_t>> lengths_;  // tokens by record; empty: not measured
  int64_t batches_ = 0, tokens_ = 0;           // given out
  std::chrono::steady_clock::duration waited_ = {};
  std::unique_ptr<Builders> builders_;
};

Loader::Loader(std::shared_ptr<const Dataset> dataset, const SampleBuilder& builder,
               LoaderOptions options, const Json* cursor)
    : Loader(MakeRecordSource(std::move(dataset), builder), std::move(options), cursor) {}
Loader::Loader(std::shared_ptr<const SampleSource> source, LoaderOptions options,
               const Json* cursor)
    : impl_(std::make_unique<Impl>(std::move(source), std::move(options), cursor)) {}
Loader::~Loader() = default;

std::optional<Batch> Loader::Next() { return impl_->Next(); }
Json Loader::Cursor() const { return impl_->Cursor(); }
int64_t Loader::BatchesInEpoch(int64_t epoch) { return impl_->BatchesInEpoch(epoch); }
int64_t Loader::skipped() const { return impl_->skipped(); }
double Loader::wait_seconds() const { return impl_->wait_seconds(); }
double Loader::utilization() const { return impl_->utilization(); }

std::vector<int64_t> Loader::Order(int64_t records, uint64_t seed, int64_t epoch, bool shuffle) {
  return EpochOrder({{records, 1}}, seed, epoch, shuffle);
}

}  // namespace lapidary
