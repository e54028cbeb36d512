// One page over HTTP, to this machine alone.
#ifndef LAPIDARY_RECIPES_WATCH_PAGE_H_
#define LAPIDARY_RECIPES_WATCH_PAGE_H_

#include <csignal>
#include <functional>
#include <string>

namespace lapidary {

// Answers GET / on 127.0.0.1:`port` with what `page` returns (an Error: its text, status 500),
// until
// `*stop` is set. Requests that name another host are refused, so that pages of the web cannot read
// it through a name of their own. `ready` is called when it listens. Throws Error if it cannot.
void ServePage(int port, const std::function<std::string()>& page,
               const std::function<void()>& ready, const volatile std::sig_atomic_t* stop);

}  // namespace lapidary

#endif  // LAPIDARY_RECIPES_WATCH_PAGE_H_
