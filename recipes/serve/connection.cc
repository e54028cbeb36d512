#include "recipes/serve/connection.h"

#include <netdb.h>
#include <poll.h>
#include <sys/socket.h>

#include <charconv>
#include <filesystem>

namespace lapidary {

Connection::Connection(const std::string& address, int port) {
  const std::string service = std::to_string(port);
  std::error_code failed;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd", failed)) {
    const std::string name = entry.path().filename();
    int fd = -1;
    std::from_chars(name.data(), name.data() + name.size(), fd);
    sockaddr_storage peer = {};
    socklen_t size = sizeof peer;
    if (fd < 0 || ::getpeername(fd, reinterpret_cast<sockaddr*>(&peer), &size) != 0) continue;
    char host[NI_MAXHOST], number[NI_MAXSERV];
    if (::getnameinfo(reinterpret_cast<sockaddr*>(&peer), size, host, sizeof host, number,
                      sizeof number, NI_NUMERICHOST | NI_NUMERICSERV) == 0 &&
        host == address && number == service) {
      socket_ = fd;
      return;
    }
  }
}

bool Connection::closed() const {
  if (socket_ < 0) return false;
  pollfd ask = {socket_, POLLRDHUP, 0};
  return ::poll(&ask, 1, 0) == 1 && (ask.revents & (POLLRDHUP | POLLHUP | POLLERR)) != 0;
}

}  // namespace lapidary
