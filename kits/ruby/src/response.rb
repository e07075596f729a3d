# What a worker answers.
class Response
  # A String, or what gives Strings by `each`; what can be read (`read`); nil for none.
  attr_accessor :body
  attr_accessor :status_code
  # { name => value }, where an Array as the value is several lines; or [[name, value], ...].
  attr_accessor :headers

  def initialize(body = "", status_code = 200, headers = {})
    @body = body
    @status_code = status_code
    @headers = headers
  end

  alias status status_code
  alias status= status_code=

  def self.ok(body = "", headers = {}) = new(body, 200, headers)

  def self.created(body = "", headers = {}) = new(body, 201, headers)

  def self.not_found(body = "", headers = {}) = new(body, 404, headers)

  def self.json(value, status_code = 200, headers = {})
    new(JSON.generate(value), status_code, { "content-type" => "application/json" }.merge(headers))
  end

  def self.redirect(url, status_code = 302) = new("", status_code, { "location" => url })
end

module Wws
  # Makes Strings of what workers and callers of +fetch+ give.
  module Wire
    module_function

    # The bytes of a body.
    def body(body)
      case body
      when String then body
      when nil then ""
      when ->(part) { part.respond_to?(:read) } then body(body.read)
      when Hash then wrong(body)
      when ->(part) { part.respond_to?(:each) }
        all = String.new(encoding: Encoding::BINARY)
        body.each do |part|
          wrong(part) unless part.is_a?(String)
          all << part.b
        end
        all
      else wrong(body)
      end
    end

    # Whether a body is sent part by part. An Array is there as a whole.
    def parts?(body)
      return false if body.is_a?(String) || body.nil? || body.is_a?(Array) || body.is_a?(Hash)

      body.respond_to?(:each) && !body.respond_to?(:read)
    end

    # Header lines: [[name, value], ...]. What is nil is left out.
    def headers(headers)
      return [] if headers.nil?
      unless headers.is_a?(Hash) || headers.is_a?(Array)
        raise TypeError, "headers are a Hash or [[name, value], ...], this is #{Wws.show(headers)}"
      end
      return [] if headers.empty?

      headers = Keys.lines(headers) if headers.is_a?(Hash)
      headers.flat_map do |name, value|
        (value.is_a?(Array) ? value : [value]).filter_map { |line| [text(name), text(line)] unless line.nil? }
      end
    end

    # Bytes that are not UTF-8 are taken as Latin-1.
    def text(value)
      value = value.to_s
      return value if value.encoding == Encoding::UTF_8 && value.valid_encoding?

      value = value.encode(Encoding::UTF_8) unless value.encoding == Encoding::BINARY || !value.valid_encoding?
      value = value.dup.force_encoding(Encoding::UTF_8)
      value.valid_encoding? ? value : value.force_encoding(Encoding::ISO_8859_1).encode(Encoding::UTF_8)
    end

    def wrong(body)
      raise TypeError, "a body is a String, can be read, or gives Strings by `each`; this is #{Wws.show(body)}"
    end
  end

  # A value and its class, shortly.
  def self.show(value)
    text = value.inspect
    text = "#{text[0, 100]}..." if text.length > 100
    value.nil? ? "nil" : "#{text} (#{value.class})"
  end
end
