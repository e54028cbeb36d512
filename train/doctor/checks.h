// The table of checks: one row a thing that goes wrong. A new check is a row here, a test that
// finds it in examine_*.cc, and a planted file in tests/train/doctor_test.cc.
#ifndef LAPIDARY_TRAIN_DOCTOR_CHECKS_H_
#define LAPIDARY_TRAIN_DOCTOR_CHECKS_H_

#include <array>
#include <string_view>
#include <vector>

#include "train/doctor/doctor.h"

namespace lapidary {

struct Subject;
struct RepairPlan;

struct DoctorCheck {
  const char* id;
  Severity severity;
  const char* what;
  // What each runtime does with such a file, in the order of kDoctorRuntimeNames. "": it does not
  // read such files, or does not look.
  std::array<const char*, kDoctorRuntimes> effects;
  // Adds what mends it to the plan; null: only the user can.
  void (*repair)(const Subject& subject, const DoctorFinding& finding, RepairPlan* plan);
};

const std::vector<DoctorCheck>& DoctorChecks();
// Throws Error if there is no such row.
const DoctorCheck& FindDoctorCheck(std::string_view id);

}  // namespace lapidary

#endif  // LAPIDARY_TRAIN_DOCTOR_CHECKS_H_
