// Errors as one line a user can act on: `where: rule; got; try`. Library code throws Error and
// never prints or exits.
#ifndef LAPIDARY_AUTOGRAD_BASE_ERROR_H_
#define LAPIDARY_AUTOGRAD_BASE_ERROR_H_

#include <sstream>
#include <stdexcept>
#include <string>

namespace lapidary {

// Something the user (or a caller) can mend. Commands print it on one line and exit with 2.
class Error : public std::runtime_error {
 public:
  explicit Error(const std::string& message) : std::runtime_error(message) {}
};

// Concatenates its arguments as operator<< prints them.
template <class... Args>
std::string StrCat(const Args&... args) {
  std::ostringstream out;
  (out << ... << args);
  return out.str();
}

// Throws Error(StrCat(...)) unless `condition` holds. The message is only built on failure.
#define LAPIDARY_CHECK(condition, ...)                                          \
  do {                                                                          \
    if (!(condition)) throw ::lapidary::Error(::lapidary::StrCat(__VA_ARGS__)); \
  } while (false)

}  // namespace lapidary

#endif  // LAPIDARY_AUTOGRAD_BASE_ERROR_H_
