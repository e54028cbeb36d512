#include "train/schedule.h"

#include <cmath>
#include <numbers>

#include "autograd/base/error.h"

namespace lapidary {
namespace {

constexpr double kPi = std::numbers::pi;

double Real(int64_t n) { return static_cast<double>(n); }

// The share of the way from the end of the warm-up to the end, in [0, 1] within the run.
double Progress(const ScheduleOptions& o, int64_t step) {
  return Real(step - o.warmup_steps) / Real(std::max<int64_t>(1, o.total_steps - o.warmup_steps));
}

double Constant(const ScheduleOptions&, int64_t) { return 1; }

double Linear(const ScheduleOptions& o, int64_t step) {
  return std::max(
      0.0, Real(o.total_steps - step) / Real(std::max<int64_t>(1, o.total_steps - o.warmup_steps)));
}

double Cosine(const ScheduleOptions& o, int64_t step) {
  const double cycles = o.num_cycles.value_or(0.5);
  return std::max(0.0, 0.5 * (1.0 + std::cos(kPi * cycles * 2.0 * Progress(o, step))));
}

double CosineWithMinLr(const ScheduleOptions& o, int64_t step) {
  const double low = o.min_lr ? *o.min_lr / o.learning_rate : o.min_lr_rate.value_or(0.0);
  const double cycles = o.num_cycles.value_or(0.5);
  const double factor = 0.5 * (1.0 + std::cos(kPi * cycles * 2.0 * Progress(o, step)));
  return std::max(0.0, factor * (1 - low) + low);
}

double CosineWithRestarts(const ScheduleOptions& o, int64_t step) {
  const double progress = Progress(o, step);
  if (progress >= 1.0) return 0;
  const double phase = std::fmod(o.num_cycles.value_or(1.0) * progress, 1.0);
  return std::max(0.0, 0.5 * (1.0 + std::cos(kPi * phase)));
}

double Polynomial(const ScheduleOptions& o, int64_t step) {
  const double end = o.lr_end.value_or(1e-7);
  if (step > o.total_steps) return end / o.learning_rate;
  const double left =
      1 - Real(step - o.warmup_steps) / Real(std::max<int64_t>(1, o.total_steps - o.warmup_steps));
  const double decay = (o.learning_rate - end) * std::pow(left, o.power.value_or(1.0)) + end;
  return decay / o.learning_rate;
}

double InverseSqrt(const ScheduleOptions& o, int64_t step) {
  const double scale = o.timescale.value_or(o.warmup_steps > 0 ? Real(o.warmup_steps) : 10000.0);
  const double shift = scale - Real(o.warmup_steps);
  return 1.0 / std::sqrt((Real(step) + shift) / scale);
}

// Shapes of a ramp from 1 down to 0 over x in [0, 1].
double Ramp(const std::string& type, double cycles, double x) {
  if (type == "linear") return 1.0 - x;
  if (type == "1-sqrt") return 1.0 - std::sqrt(x);
  return 0.5 * (1.0 + std::cos(kPi * cycles * 2.0 * x));
}

double WarmupStableDecay(const ScheduleOptions& o, int64_t step) {
  const double low = o.min_lr_ratio.value_or(0.0);
  if (step < o.warmup_steps) {
    const double x = Real(step) / Real(std::max<int64_t>(1, o.warmup_steps));
    const std::string type = o.warmup_type.value_or("linear");
    const double factor = type == "linear"   ? x
                          : type == "1-sqrt" ? 1.0 - std::sqrt(1.0 - x)
                                             : 0.5 * (1.0 - std::cos(kPi * x));
    return std::max(0.0, factor * (1.0 - low) + low);
  }
  const int64_t decay = *o.num_decay_steps;
  const int64_t stable = o.num_stable_steps.value_or(o.total_steps - o.warmup_steps - decay);
  if (step < o.warmup_steps + stable) return 1;
  if (step >= o.warmup_steps + stable + decay) return low;
  const double x = Real(step - o.warmup_steps - stable) / Real(std::max<int64_t>(1, decay));
  const double factor = Ramp(o.decay_type.value_or("cosine"), o.num_cycles.value_or(0.5), x);
  return std::max(0.0, factor * (1.0 - low) + low);
}

struct Row {
  const char* name;
  double (*factor)(const ScheduleOptions&, int64_t step);
  bool warms_up;        // linearly, before `factor` is asked
  const char* options;  // names that it knows, each between spaces
};

constexpr Row kRows[] = {
    {"linear", Linear, true, " "},
    {"cosine", Cosine, true, " num_cycles "},
    {"cosine_with_restarts", CosineWithRestarts, true, " num_cycles "},
    {"cosine_with_min_lr", CosineWithMinLr, true, " num_cycles min_lr min_lr_rate "},
    {"polynomial", Polynomial, true, " power lr_end "},
    {"constant", Constant, false, " "},
    {"constant_with_warmup", Constant, true, " "},
    {"inverse_sqrt", InverseSqrt, true, " timescale "},
    {"warmup_stable_decay", WarmupStableDecay, false,
     " num_decay_steps num_stable_steps min_lr_ratio num_cycles decay_type warmup_type "},
};

const Row& Find(const std::string& type) {
  std::string names;
  for (const Row& row : kRows) {
    if (type == row.name) return row;
    names += StrCat(names.empty() ? "" : ", ", row.name);
  }
  throw Error(
      StrCat("lr_scheduler_type: must be a known schedule; got '", type, "'; try one of ", names));
}

template <class T>
void CheckKnown(const Row& row, const char* name, const std::optional<T>& value) {
  LAPIDARY_CHECK(
      !value || std::string(row.options).find(StrCat(" ", name, " ")) != std::string::npos,
      "lr_scheduler_kwargs.", name, ": the schedule '", row.name,
      "' must know it; got one that knows:", row.options);
}

void CheckAtLeast(const char* name, const std::optional<double>& value, double low, bool equal) {
  LAPIDARY_CHECK(!value || (std::isfinite(*value) && (equal ? *value >= low : *value > low)),
                 "lr_scheduler_kwargs.", name, ": must be ", equal ? ">= " : "> ", low, "; got ",
                 *value);
}

void CheckRamp(const char* name, const std::optional<std::string>& value) {
  LAPIDARY_CHECK(!value || *value == "linear" || *value == "cosine" || *value == "1-sqrt",
                 "lr_scheduler_kwargs.", name, ": must be linear, cosine or 1-sqrt; got '", *value,
                 "'");
}

}  // namespace

void CheckSchedule(const ScheduleOptions& o) {
  const Row& row = Find(o.type);
  LAPIDARY_CHECK(o.learning_rate > 0 && std::isfinite(o.learning_rate),
                 "learning_rate: must be > 0; got ", o.learning_rate, "; try 2e-4 for LoRA");
  LAPIDARY_CHECK(o.warmup_steps >= 0, "warmup_steps: must be >= 0; got ", o.warmup_steps);
  LAPIDARY_CHECK(o.total_steps >= 0, "max_steps: must be >= 0; got ", o.total_steps);
  CheckKnown(row, "num_cycles", o.num_cycles);
  CheckKnown(row, "power", o.power);
  CheckKnown(row, "lr_end", o.lr_end);
  CheckKnown(row, "min_lr", o.min_lr);
  CheckKnown(row, "min_lr_rate", o.min_lr_rate);
  CheckKnown(row, "min_lr_ratio", o.min_lr_ratio);
  CheckKnown(row, "timescale", o.timescale);
  CheckKnown(row, "num_decay_steps", o.num_decay_steps);
  CheckKnown(row, "num_stable_steps", o.num_stable_steps);
  CheckKnown(row, "decay_type", o.decay_type);
  CheckKnown(row, "warmup_type", o.warmup_type);
  CheckAtLeast("num_cycles", o.num_cycles, 0, false);
  CheckAtLeast("power", o.power, 0, true);
  CheckAtLeast("lr_end", o.lr_end, 0, true);
  CheckAtLeast("min_lr", o.min_lr, 0, true);
  CheckAtLeast("min_lr_rate", o.min_lr_rate, 0, true);
  CheckAtLeast("min_lr_ratio", o.min_lr_ratio, 0, true);
  CheckAtLeast("timescale", o.timescale, 0, false);
  CheckRamp("decay_type", o.decay_type);
  CheckRamp("warmup_type", o.warmup_type);
  LAPIDARY_CHECK(!o.lr_end || *o.lr_end < o.learning_rate,
                 "lr_scheduler_kwargs.lr_end: must be below learning_rate; got ", *o.lr_end);
  if (o.type == "warmup_stable_decay") {
    LAPIDARY_CHECK(o.num_decay_steps.has_value(),
                   "lr_scheduler_kwargs.num_decay_steps: warmup_stable_decay must have it; got "
                   "none");
    LAPIDARY_CHECK(*o.num_decay_steps >= 0 && o.num_stable_steps.value_or(0) >= 0,
                   "lr_scheduler_kwargs: num_decay_steps and num_stable_steps must be >= 0; got ",
                   *o.num_decay_steps, " and ", o.num_stable_steps.value_or(0));
  }
}

double LearningRate(const ScheduleOptions& o, int64_t step) {
  CheckSchedule(o);
  const Row& row = Find(o.type);
  if (row.warms_up && step < o.warmup_steps) {
    return o.learning_rate * (Real(step) / Real(std::max<int64_t>(1, o.warmup_steps)));
  }
  return o.learning_rate * row.factor(o, step);
}

std::vector<std::string> ScheduleNames() {
  std::vector<std::string> names;
  for (const Row& row : kRows) names.push_back(row.name);
  return names;
}

}  // namespace lapidary
