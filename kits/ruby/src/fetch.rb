# HTTP requests that a worker sends: to the hosts of `[features.http_requests]` in its TOML.

module Wws
  # The request was not sent, or had no answer. +kind+: "not-allowed", "timeout", ...
  class FetchError < Error; end

  # The answer to an HTTP request.
  class FetchResponse
    include Content

    attr_reader :status
    # The address that answered, after redirects.
    attr_reader :url
    # Each header line, in order: [[name, value], ...].
    attr_reader :header_list

    def initialize(status, url, header_list, body, redirected = false)
      @status = status
      @url = url
      @redirected = redirected
      @header_list = header_list
      @content = body
    end

    alias status_code status

    # Another address than the one that was asked.
    def redirected? = @redirected

    def ok? = status.between?(200, 299)

    # Headers, asked in any case. Lines of one name are joined by ", ".
    def headers
      @headers ||= Keys.headers(header_list)
    end

    # All lines of one name.
    def header_values(name)
      name = name.downcase
      header_list.filter_map { |line, value| value if line == name }
    end

    # The body's JSON.
    def json = JSON.parse(body)

    # Ends the connection if the body was not read to its end.
    def close
      @content.close if @content.is_a?(Body)
    end
  end

  # Sends an HTTP request and waits for the answer. A header's value may be an Array: several lines.
  def self.fetch(url, method: "GET", headers: {}, body: nil)
    message = { op: "http", method: method.to_s.upcase, url: url.to_s, headers: Wire.headers(headers) }
    reply, bytes = Channel.ask(message, Wire.body(body))
    number = reply["stream"]
    content = number ? Body.new(number) { |error| failed_fetch(url, error) } : text(bytes)
    FetchResponse.new(reply["status"], reply["url"] || url.to_s, reply["headers"], content, reply["redirected"] || false)
  rescue FetchError
    raise
  rescue Error => e
    raise failed_fetch(url, e)
  end

  def self.failed_fetch(url, error) = FetchError.new("#{url}: #{error.message}", error.kind)
  private_class_method :failed_fetch
end

module Kernel
  private

  # See Wws.fetch.
  def fetch(url, **options) = Wws.fetch(url, **options)
end
