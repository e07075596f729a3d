# Accepts the WebSocket that the client asks for. Its block runs as long as the socket is open; when it returns, the socket is closed with the
# code 1000, when it raises, with 1011.
#
#     def worker(request)
#       WebSocket.new do |socket|
#         socket.each { |message| socket << message }
#       end
#     end
class WebSocket
  attr_reader :handler, :headers

  def initialize(protocol: nil, headers: {}, &handler)
    raise ArgumentError, "a WebSocket needs a block" unless handler

    @handler = handler
    @headers = Wws::Wire.headers(headers)
    @headers += [["sec-websocket-protocol", protocol.to_s]] if protocol
  end

  # The socket that a handler gets.
  class Connection
    # How the socket was closed, once it is.
    attr_reader :close_code, :close_reason

    def initialize(headers)
      @clean = false
      @closing = !ask({ op: "socket_accept", headers: headers })["open"]
    end

    # Whether messages can still come.
    def open? = @close_code.nil?

    # Whether both sides have closed the socket.
    def clean? = @clean

    # Sends a String: as bytes if its encoding is binary, as a text otherwise. Waits while the client does not read. To a client that is gone,
    # nothing is sent.
    def <<(message)
      raise TypeError, "a message is a String, not #{Wws.show(message)}" unless message.is_a?(String)

      binary = message.encoding == Encoding::BINARY
      data = binary ? message : message.encode(Encoding::UTF_8)
      @closing = !ask({ op: "socket_send", name: binary ? "binary" : "text" }, data.b)["open"] unless @closing
      self
    end

    # The next message: in UTF-8, or in binary. nil if the socket is closed (`open?` is false then), or after so many seconds.
    def receive(timeout: nil)
      return nil unless open?

      line, data = Wws::Channel.ask({ op: "socket_receive", timeout: timeout ? [0, (timeout * 1000).to_i].max : -1 })
      case line["kind"]
      when "text" then (+data).force_encoding(Encoding::UTF_8)
      when "binary" then (+data).force_encoding(Encoding::BINARY)
      when "close"
        @close_code, @close_reason, @clean = line.values_at("code", "reason", "clean")
        @closing = true
        nil
      end
    end

    # Gives each message, until the socket is closed.
    def each
      return to_enum(:each) unless block_given?

      while (message = receive)
        yield message
      end
    end
    include Enumerable

    # Closes the socket. Messages that come from then on are dropped.
    def close(code = 1000, reason = "")
      ask({ op: "socket_close", status: code, message: reason.encode(Encoding::UTF_8) }) unless @closing
      @closing = true
      nil
    end

    private

    def ask(message, data = nil) = Wws::Channel.ask(message, data)[0]
  end
end
