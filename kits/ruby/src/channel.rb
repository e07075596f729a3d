# What the kit says to the server: messages are a line of JSON and, where it says so, the bytes of a body.
require "json"

module Wws
  # Ours, whatever a worker does to the name.
  JSON = ::JSON
  private_constant :JSON

  # The server refused, or something went wrong on its side. +kind+ says what, in one word: "not-allowed", "timeout", "no-store", ...
  class Error < StandardError
    attr_reader :kind

    def initialize(message, kind = "invalid")
      super(message)
      @kind = kind
    end
  end

  # Writes and reads at offset 0 of the standard streams, which nothing else does, are the server's.
  module Channel
    # Objects of our own: a worker may close or replace STDOUT and STDIN.
    OUT = IO.for_fd(1, "w", autoclose: false)
    IN = IO.for_fd(0, "r", autoclose: false)
    # Most replies fit into this, in bytes.
    FIRST = 4096
    # Most chunks of a body fit into this, in bytes.
    CHUNK = 1 << 17
    NONE = "".b.freeze
    private_constant :OUT, :IN, :FIRST, :CHUNK, :NONE

    module_function

    # Says something that has no reply.
    def tell(message, body = nil)
      if body
        OUT.pwrite("#{JSON.generate(message.merge!(body: body.bytesize))}\n", 0)
        write(body)
      else
        OUT.pwrite("#{JSON.generate(message)}\n", 0)
      end
      nil
    end

    # Says a line that is ready, and the body that it announces.
    def tell_line(line, body)
      OUT.pwrite(line, 0)
      write(body)
    end

    # Writes bytes that the message before has announced.
    def write(body)
      rest = body
      until rest.empty?
        written = OUT.pwrite(rest, 0)
        break if written == rest.bytesize

        rest = rest.byteslice(written..)
      end
    end

    # Asks something. Gives the reply and its body.
    def ask(message, body = nil)
      tell(message, body)
      reply
    end

    # Asks for bytes of a body, which come alone.
    def read(message)
      tell(message)
      reply(CHUNK)[1]
    end

    # Asks with a line that is ready.
    def ask_line(line)
      OUT.pwrite(line, 0)
      reply
    end

    # Reads a reply. Its body is a binary String.
    def reply(first = FIRST)
      head = IN.pread(first, 0)
      until (at = head.index("\n"))
        head << IN.pread(65_536, 0)
      end
      body = at + 1 == head.bytesize ? NONE : head.byteslice(at + 1..)
      reply = JSON.parse(head.byteslice(0, at).force_encoding(Encoding::UTF_8))
      if (error = reply["error"])
        raise Error.new(error["message"], error["kind"])
      end

      length = reply["body"] || 0
      if body.bytesize < length
        body = body.dup
        body << IN.pread(length - body.bytesize, 0) while body.bytesize < length
      end
      [reply, body]
    end
  end
end
