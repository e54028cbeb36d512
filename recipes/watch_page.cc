#include "recipes/watch_page.h"

#include <httplib.h>

#include <chrono>
#include <thread>

#include "autograd/base/error.h"

namespace lapidary {

void ServePage(int port, const std::function<std::string()>& page,
               const std::function<void()>& ready, const volatile std::sig_atomic_t* stop) {
  httplib::Server server;
  server.new_task_queue = [] { return new httplib::ThreadPool(2); };
  server.set_payload_max_length(1);
  server.Get("/", [&](const httplib::Request& request, httplib::Response& response) {
    const std::string host = request.get_header_value("Host");
    if (host != StrCat("127.0.0.1:", port) && host != StrCat("localhost:", port)) {
      response.status = 403;
      response.set_content("this page is for this machine alone\n", "text/plain");
      return;
    }
    response.set_header("Cache-Control", "no-store");
    try {
      response.set_content(page(), "text/html; charset=utf-8");
    } catch (const Error& error) {
      response.status = 500;
      response.set_content(std::string(error.what()) + "\n", "text/plain; charset=utf-8");
    }
  });
  LAPIDARY_CHECK(server.bind_to_port("127.0.0.1", port), "watch: port ", port,
                 " must be free; got one that is taken; try another --serve");
  ready();
  std::thread listener([&] { server.listen_after_bind(); });
  while (!*stop) std::this_thread::sleep_for(std::chrono::milliseconds(50));
  server.stop();
  listener.join();
}

}  // namespace lapidary
