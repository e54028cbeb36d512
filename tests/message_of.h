// The text of the error that a call ends with.
#ifndef LAPIDARY_TESTS_MESSAGE_OF_H_
#define LAPIDARY_TESTS_MESSAGE_OF_H_

#include <functional>
#include <string>

#include "autograd/base/error.h"

namespace lapidary {

// "no error" if there is none.
inline std::string MessageOf(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

}  // namespace lapidary

#endif  // LAPIDARY_TESTS_MESSAGE_OF_H_
