// Learning rates as pure functions of the step: the schedules of Hugging Face's get_scheduler, by
// their names there.
#ifndef LAPIDARY_TRAIN_SCHEDULE_H_
#define LAPIDARY_TRAIN_SCHEDULE_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace lapidary {

// With s the step, counted from 0, w = warmup_steps, T = total_steps, p = (s - w) / (T - w). While
// s < w the factor is s / w (except constant); afterwards:
//   constant, constant_with_warmup   1
//   linear                           1 - p
//   cosine                           (1 + cos(2 pi num_cycles p)) / 2,  num_cycles 0.5
//   cosine_with_restarts             (1 + cos(pi (num_cycles p mod 1))) / 2,  num_cycles 1
//   cosine_with_min_lr               cosine scaled into [min_lr_rate, 1]; or min_lr, absolute
//   polynomial                       (lr - lr_end) (1 - p)^power + lr_end;  lr_end 1e-7, power 1
//   inverse_sqrt                     sqrt(t / (s + t - w)),  t = timescale, else w, else 10,000
//   warmup_stable_decay              1 for num_stable_steps, then a decay over num_decay_steps down
//                                    to min_lr_ratio; decay_type cosine, linear or 1-sqrt
struct ScheduleOptions {
  std::string type = "linear";
  double learning_rate = 5e-5;  // the peak
  int64_t warmup_steps = 0;
  int64_t total_steps = 0;
  // What lr_scheduler_kwargs may set; each schedule knows only its own.
  std::optional<double> num_cycles = {}, power = {}, lr_end = {}, min_lr = {}, min_lr_rate = {},
                        min_lr_ratio = {}, timescale = {};
  std::optional<int64_t> num_decay_steps = {}, num_stable_steps = {};
  std::optional<std::string> decay_type = {}, warmup_type = {};
};

// The rate of optimizer step `step` (0: the first). Throws Error for an unknown type, an option
// that the type does not know, or one out of range.
double LearningRate(const ScheduleOptions& options, int64_t step);

// Throws what LearningRate would, without computing anything.
void CheckSchedule(const ScheduleOptions& options);

std::vector<std::string> ScheduleNames();

}  // namespace lapidary

#endif  // LAPIDARY_TRAIN_SCHEDULE_H_
