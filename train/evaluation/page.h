// The parts of a results page: one self-contained HTML file without scripts, readable on a phone.
#ifndef LAPIDARY_TRAIN_EVALUATION_PAGE_H_
#define LAPIDARY_TRAIN_EVALUATION_PAGE_H_

#include <string>
#include <vector>

namespace lapidary {

// All texts are escaped here.
std::string PageHead(const std::string& title, const std::string& subtitle);
std::string PageEnd();
// A table; it scrolls sideways in its own box where the screen is narrow.
std::string TableHead(const std::vector<std::string>& names);
// `style`: "good", "bad" or "" for the whole row. Cells that are numbers stand to the right.
std::string TableRow(const std::vector<std::string>& cells, const std::string& style);
std::string TableEnd();

}  // namespace lapidary

#endif  // LAPIDARY_TRAIN_EVALUATION_PAGE_H_
