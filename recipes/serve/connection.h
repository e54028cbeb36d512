// The TCP connection that a request came over, found by the address of its other end: cpp-httplib
// of Debian 12 does not say whether a client is still there.
#ifndef LAPIDARY_RECIPES_SERVE_CONNECTION_H_
#define LAPIDARY_RECIPES_SERVE_CONNECTION_H_

#include <string>

namespace lapidary {

class Connection {
 public:
  // The socket of this process whose other end is `address` (in digits) and `port`.
  Connection(const std::string& address, int port);
  bool found() const { return socket_ >= 0; }
  // Whether the other end has closed its sending side: what a client does that goes away, and no
  // ordinary one that waits for its reply. False for a connection that was not found. For any
  // thread, as long as the request is being answered.
  bool closed() const;

 private:
  int socket_ = -1;
};

}  // namespace lapidary

#endif  // LAPIDARY_RECIPES_SERVE_CONNECTION_H_
