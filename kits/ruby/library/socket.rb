# Stands for `socket`, which Ruby for WASI does not have: what a library needs to be loaded. A connection cannot be made.

class SocketError < StandardError; end

class BasicSocket < IO
  def self.refuse(*)
    raise NotImplementedError, "a worker has no sockets: use fetch(), and [features.http_requests] in the worker's TOML"
  end
  private_class_method :refuse

  class << self
    def new(*, **) = refuse

    def open(*, **) = refuse

    def for_fd(*) = refuse

    def do_not_reverse_lookup = true

    def do_not_reverse_lookup=(value)
      value
    end
  end
end

class Socket < BasicSocket
  class ResolutionError < SocketError; end

  # As Linux has them.
  module Constants
    AF_UNSPEC = PF_UNSPEC = 0
    AF_UNIX = PF_UNIX = 1
    AF_INET = PF_INET = 2
    AF_INET6 = PF_INET6 = 10
    SOCK_STREAM = 1
    SOCK_DGRAM = 2
    SOL_SOCKET = 1
    SO_REUSEADDR = 2
    SO_KEEPALIVE = 9
    SO_LINGER = 13
    SOMAXCONN = 4096
    IPPROTO_IP = 0
    IPPROTO_TCP = 6
    IPPROTO_UDP = 17
    IPPROTO_IPV6 = 41
    TCP_NODELAY = 1
    TCP_KEEPIDLE = 4
    TCP_KEEPINTVL = 5
    TCP_KEEPCNT = 6
    AI_PASSIVE = 1
    NI_NUMERICHOST = 1
  end
  include Constants

  class << self
    def gethostname = "localhost"

    %i[tcp tcp_server_sockets udp_server_sockets unix getaddrinfo getnameinfo gethostbyname getservbyname pair socketpair].each do |name|
      define_method(name) { |*, **| refuse }
    end
  end
end

class IPSocket < BasicSocket
  def self.getaddress(*) = refuse
end

class TCPSocket < IPSocket
  def self.gethostbyname(*) = refuse
end

class TCPServer < TCPSocket; end
class UDPSocket < IPSocket; end
class UNIXSocket < BasicSocket; end
class UNIXServer < UNIXSocket; end

class Addrinfo
  %i[tcp udp ip unix getaddrinfo foreach new].each do |name|
    define_singleton_method(name) { |*, **| BasicSocket.__send__(:refuse) }
  end
end
