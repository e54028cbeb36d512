// Which test must notice a change in which golden file.
#ifndef LAPIDARY_TESTS_ALTERED_RULES_H_
#define LAPIDARY_TESTS_ALTERED_RULES_H_

#include <string>
#include <vector>

namespace lapidary::altered {

struct Rule {
  std::string files;    // regular expression for the whole path below the root
  std::string program;  // the test program that must fail, by its name
  std::string filter;   // of GoogleTest
  // Regular expressions of the files that the copy holds besides the altered one; $1, $2: what the
  // groups of `files` matched. A golden root may lack files, so this only saves time.
  std::vector<std::string> keep;
  // Every one that the file has (alter.h) is tried; at least one must be there.
  std::vector<std::string> alterations;
};

const std::vector<Rule>& Rules();

// Files without an expected value, and why no test looks at them.
struct Exception {
  std::string files;
  std::string reason;
};

const std::vector<Exception>& Exceptions();

}  // namespace lapidary::altered

#endif  // LAPIDARY_TESTS_ALTERED_RULES_H_
