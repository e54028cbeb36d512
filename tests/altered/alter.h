// Changes of one value in a copy of a golden file: what a test that looks at the file must notice.
#ifndef LAPIDARY_TESTS_ALTERED_ALTER_H_
#define LAPIDARY_TESTS_ALTERED_ALTER_H_

#include <string>

namespace lapidary::altered {

// How a file is altered. `what` is one of
//   json:/a/0/b       the value at a path of keys and indices; a step may also be `*` (the first
//                     element), `[k]` (the first element that has the key k), `[k=v,l=w]` (the
//                     first whose k prints as v and l as w), or `**k` (the first key k at any
//                     depth)
//   swap:/a           the first two values of the object at the path that differ, exchanged
//   tensor:REGEX      the largest element of the first tensor of a safetensors file whose name
//                     contains a match
//   bytes:F           32 bytes at the share F of the file
//   png:              one pixel of an RGB picture
//   text:A->B         the first A of the text
//   xz:A->B           the first A of the text that the file holds packed
// Numbers grow by half (0 becomes 1), integers by one, a letter of a string is exchanged.
struct Altered {
  bool found = false;    // whether the file has such a value
  std::string bytes;     // the altered file
  std::string describe;  // what was altered: place, old and new value
};

// Throws Error if `what` is malformed or the file cannot be read.
Altered Alter(const std::string& path, const std::string& what);

}  // namespace lapidary::altered

#endif  // LAPIDARY_TESTS_ALTERED_ALTER_H_
