module Wws
  # A body of a request, or of an answer to +fetch+, that is read as it comes.
  class Body
    # +failure+ makes an exception of what the server says.
    def initialize(number, &failure)
      @number = number
      @failure = failure
      @read = false
    end

    # All of it, as a binary String.
    def whole
      raise @error if @error
      raise IOError, "the body was read in chunks, or closed: it is not kept" if @read

      @read = true
      ask("read_all")
    end

    # Yields each chunk, a binary String, once it is there.
    def each_chunk
      @read = true
      until (chunk = ask("read")).empty?
        yield chunk
      end
    end

    # No more of it is wanted.
    def close
      @read = true
      Channel.tell({ op: "close", id: @number })
    end

    private

    def ask(op)
      raise @error if @error

      begin
        Channel.read({ op:, id: @number })
      rescue Error => e
        raise @error = @failure.call(e)
      end
    end
  end

  # What has a body, in +@content+: a String, or a Body, whose String is there once it is asked for.
  module Content
    # The body: text where it is UTF-8, else in ASCII-8BIT.
    def body
      @content.is_a?(String) ? @content : @content = Wws.text(@content.whole)
    end

    # Yields the body in chunks as they come: binary Strings. What was read so is not kept: there is no +body+ then. Gives an
    # Enumerator without a block.
    def each_chunk(&block)
      return to_enum(:each_chunk) unless block

      if @content.is_a?(Body)
        @content.each_chunk(&block)
      elsif !@content.empty?
        yield @content.b
      end
      self
    end
  end
end
