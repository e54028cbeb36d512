// The parts of the pages of train/ (reports, results, comparisons, a run as it goes): one
// self-contained HTML file without scripts, readable on a phone, light or dark as the reader's.
#ifndef LAPIDARY_TRAIN_PAGE_H_
#define LAPIDARY_TRAIN_PAGE_H_

#include <string>
#include <vector>

namespace lapidary {

// The title is escaped here; `subtitle` and `head`, more of the <head>, are HTML.
std::string PageHead(const std::string& title, const std::string& subtitle,
                     const std::string& head = "");
std::string PageEnd();
// A table, names and cells escaped here; it scrolls sideways in its own box where the screen is
// narrow.
std::string TableHead(const std::vector<std::string>& names);
// `style`: "good", "bad" or "" for the whole row. Cells that are numbers stand to the right.
std::string TableRow(const std::vector<std::string>& cells, const std::string& style);
std::string TableEnd();

}  // namespace lapidary

#endif  // LAPIDARY_TRAIN_PAGE_H_
